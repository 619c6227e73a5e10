import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_publisher.elf import (
    ElfFile,
    glibc_version,
    hard_paths,
    outside_libraries,
    plan_runpaths,
    platform_of,
    read_elf,
    read_elfs,
    requires_of,
    set_runpaths,
)
from pps_publisher.errors import PublishError
from pps_publisher.lint import Kind, Node, Tree
from pps_publisher.tree import load_tree

ZSTD = Path("/usr/bin/zstd")


def system_library(name: str) -> Path:
    """Find the library file a system program really loads."""
    listing = subprocess.run(["ldd", ZSTD], capture_output=True, text=True, check=True).stdout
    return Path(next(line.split()[2] for line in listing.splitlines() if line.strip().startswith(name)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a real program and a real library it needs, found by link, as packages do it."""
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "lib" / "deep").mkdir(parents=True)
    shutil.copy(ZSTD, tree / "bin" / "zstd")
    shutil.copy(system_library("liblz4.so.1").resolve(), tree / "lib" / "deep" / "liblz4.so.1.9")
    (tree / "lib" / "deep" / "liblz4.so.1").symlink_to("liblz4.so.1.9")
    (tree / "bin" / "script").write_bytes(b"#!/usr/bin/python3\nprint('/usr/share/x')\n")
    (tree / "bin" / "clean").write_bytes(b"#!/usr/bin/python3\nprint('hello')\n")
    return tree


def test_requires_is_read_from_the_symbol_versions_of_real_programs(root: Path) -> None:
    requires = requires_of(read_elfs(load_tree(root)))
    text = b"".join(node.source.read_bytes() for node in load_tree(root).files())
    named = [(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", text)]
    assert tuple(int(part) for part in requires.glibc.split(".")) == max(named)
    assert requires.arch in {"x86_64", "aarch64", "ppc64le"}
    assert platform_of(requires) == f"{requires.arch}-glibc{requires.glibc}"


def test_a_program_finds_its_library_in_the_tree_without_any_variable(root: Path, tmp_path: Path) -> None:
    tree = load_tree(root)
    before = (root / "bin" / "zstd").read_bytes()
    plan = plan_runpaths(read_elfs(tree), tree)
    assert plan == {"bin/zstd": "$ORIGIN/../lib/deep", "lib/deep/liblz4.so.1.9": "$ORIGIN"}
    patched = set_runpaths(tree, plan, tmp_path / "work")
    assert (root / "bin" / "zstd").read_bytes() == before
    assert plan_runpaths(read_elfs(patched), patched) == {}
    for node in patched.files():
        if node.source != root / node.path:
            shutil.copy(node.source, root / node.path)
    found = subprocess.run(["ldd", root / "bin" / "zstd"], capture_output=True, text=True, check=True, env={}).stdout
    assert str(root / "bin" / ".." / "lib" / "deep" / "liblz4.so.1") in found
    subprocess.run([root / "bin" / "zstd", "--version"], check=True, capture_output=True, env={})


def test_what_the_tree_does_not_hold_is_the_systems(root: Path) -> None:
    tree = load_tree(root)
    outside = outside_libraries(read_elfs(tree), tree)
    assert "libc.so.6" in outside
    assert "liblz4.so.1" not in outside


def test_absolute_system_paths_are_reported_but_interpreter_lines_are_not(root: Path) -> None:
    found = hard_paths(load_tree(root))
    assert "bin/script" in found
    assert "bin/clean" not in found


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("GLIBC_2.34", (2, 34)),
        ("GLIBC_2.2.5", (2, 2)),
        ("GLIBC_PRIVATE", (0, 0)),
        ("GLIBC_ABI_DT_RELR", (2, 36)),
        ("GLIBCXX_3.4.30", (0, 0)),
        ("OPENSSL_3.0.0", (0, 0)),
    ],
)
def test_a_symbol_version_names_a_glibc_release(symbol: str, expected: tuple[int, int]) -> None:
    assert glibc_version(symbol) == expected


def test_a_tree_without_programs_runs_anywhere() -> None:
    assert platform_of(requires_of(())) == "noarch-glibc0.0"


def test_two_architectures_in_one_tree_are_refused() -> None:
    elfs = [
        ElfFile(Node(f"bin/{arch}", Kind.FILE, Path()), arch, (2, 17), dynamic=True) for arch in ("x86_64", "aarch64")
    ]
    with pytest.raises(PublishError, match=r"bin/x86_64 \(x86_64\), bin/aarch64 \(aarch64\)"):
        requires_of(elfs)


def test_a_file_that_finds_nothing_in_the_tree_keeps_its_runpath() -> None:
    elf = ElfFile(Node("bin/x", Kind.FILE, Path()), "x86_64", (2, 17), True, needed=("libc.so.6",), runpath="/opt/x")
    assert plan_runpaths([elf], Tree((elf.node,))) == {}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_programs_are_refused_with_their_name_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(Path(sys.executable).resolve().read_bytes()[:40_000])
    for place in data.draw(st.lists(st.integers(4, 4000), max_size=20)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "program"
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    try:
        read_elf(Node("bin/program", Kind.FILE, path))
    except PublishError as exc:
        assert "bin/program" in str(exc)  # noqa: PT017  # success is fine too
