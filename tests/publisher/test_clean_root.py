import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_publisher.build import base_root, smoke
from pps_publisher.build.clean_root import CleanRoot, open_clean_root
from pps_publisher.build.hints import HintKind, interpreter_of, load_hints
from pps_publisher.build.smoke import compose, parse_command, run_smoke
from pps_publisher.cli.program import run
from pps_publisher.elf import read_elfs
from pps_publisher.errors import SiteError, UsageError
from pps_publisher.tree import load_tree
from pps_wire.release import Overlay
from tests.publisher.test_debian import apt  # noqa: F401  # a fixture
from tests.support.repository import LinkTo, Program, write_tree
from tests.support.roots import ASKER, compile_answer, compile_c, make_base_root
from tests.support.services import need


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base_root(tmp_path_factory.mktemp("base") / "smallos")


@pytest.fixture(scope="module")
def bwrap() -> None:
    why = "bwrap is not on this machine; install bubblewrap"
    if shutil.which("bwrap"):
        done = subprocess.run(
            ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], capture_output=True, text=True, check=False
        )
        why = f"bwrap may not make a root here: {done.stderr}" if done.returncode else ""
    need(why)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client that is whole: a program, the library it needs, a script."""
    tree = tmp_path_factory.mktemp("client") / "tree"
    library = compile_answer(tree / "lib" / "libanswer.so.1.0")
    (tree / "lib" / "libanswer.so.1").symlink_to(library.name)
    compile_c(ASKER, tree / "bin" / "ask", library)
    write_tree(tree, {"bin/wrapped": Program(b'#!/bin/sh\nexec "${0%/*}/ask"\n')})
    return tree


class Builder:
    """Runs ``pps-publish build`` in this process."""

    def __init__(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = out
        self.stderr = ""
        self._capsys = capsys

    def build(self, *arguments: object, exit_code: int = 0) -> Any:
        self._capsys.readouterr()
        common = ("--component", "ask", "--version", "1.0", "--class", "client-bc", "--vo", "dteam", "--output", "json")
        code = run(["build", "--out", str(self.out), *common, *(str(argument) for argument in arguments)])
        printed = self._capsys.readouterr()
        self.stderr = printed.err
        assert exit_code == code, printed.err
        return json.loads(printed.out) if printed.out else None


@pytest.fixture
def builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Builder:
    return Builder(tmp_path / "out", capsys)


def faults(report: Any) -> set[tuple[str, str, str]]:
    return {(fault["path"], fault["fault"], fault["detail"]) for fault in report["proof"]["faults"]}


@pytest.mark.usefixtures("bwrap")
def test_a_whole_client_is_proved_and_the_report_tells_which_libraries_it_loaded(
    builder: Builder, client: Path, base: Path
) -> None:
    report = builder.build("--from-tree", client, "--clean-root", base, "--smoke", "ask", "--smoke", "wrapped")
    proof = report["proof"]
    assert (proof["standing"], proof["root"], proof["faults"]) == ("proved", "smallos", [])
    for run_facts in proof["smoke"]:
        assert (run_facts["exit_code"], run_facts["output"]) == (0, "42\n")
        assert run_facts["tree_libraries"] == ["/pps-tree/lib/libanswer.so.1"]
        assert all(not path.startswith("/pps-tree") for path in run_facts["base_libraries"])
        assert any("libc.so.6" in path for path in run_facts["base_libraries"])


@pytest.mark.usefixtures("bwrap")
def test_a_library_that_only_the_build_host_has_is_missing_in_the_clean_root(
    builder: Builder, base: Path, tmp_path: Path
) -> None:
    """The tree's program runs on this machine, because the library lies where it was compiled."""
    library = compile_answer(tmp_path / "host" / "libanswer.so.1")
    tree = tmp_path / "tree"
    compile_c(ASKER, tree / "bin" / "ask", library, f"-Wl,-rpath,{library.parent}")
    on_host = subprocess.run([tree / "bin" / "ask"], capture_output=True, text=True, check=True, env={})
    assert on_host.stdout == "42\n"
    report = builder.build("--from-tree", tree, "--clean-root", base, "--smoke", "ask", exit_code=1)
    assert ("bin/ask", "missing library", "libanswer.so.1") in faults(report)
    (smoke_fault,) = [fault for fault in faults(report) if fault[1] == "smoke run failed"]
    assert "libanswer.so.1: cannot open shared object file" in smoke_fault[2]
    assert report["proof"]["standing"] == "refuted"
    assert "nothing was written. Carry what is missing, or state it with --site-provides" in builder.stderr
    assert not builder.out.exists()
    looked_at_only = builder.build("--from-tree", tree, "--clean-root", base, exit_code=1)
    assert faults(looked_at_only) == {("bin/ask", "missing library", "libanswer.so.1")}
    excused = builder.build("--from-tree", tree, "--clean-root", base, "--site-provides", "libanswer.so.1")
    assert [fault["detail"] for fault in excused["proof"]["excused"]] == ["libanswer.so.1"]
    unproved = builder.build("--from-tree", tree, "--no-clean-root")
    assert unproved["proof"]["standing"] == "unproved"


@pytest.mark.usefixtures("bwrap")
def test_a_program_that_would_take_the_hosts_copy_of_a_carried_library_is_refused(
    builder: Builder, client: Path, tmp_path: Path
) -> None:
    root = make_base_root(tmp_path / "otheros")
    shutil.copy(client / "lib" / "libanswer.so.1.0", root / "usr" / "lib" / "libanswer.so.1")
    assert builder.build("--from-tree", client, "--clean-root", root, "--smoke", "ask")["proof"]["faults"] == []
    report = builder.build("--from-tree", client, "--clean-root", root, "--smoke", "ask", "--keep-runpath", exit_code=1)
    told = "the system's copy of a library that the tree carries"
    assert faults(report) == {
        ("bin/ask", told, "libanswer.so.1, carried in lib"),
        ("ask", told, "/lib/libanswer.so.1, carried in /pps-tree/lib"),
    }


@pytest.mark.usefixtures("bwrap")
def test_a_library_opened_at_run_time_from_the_host_is_seen_though_no_header_names_it(
    builder: Builder, client: Path, tmp_path: Path
) -> None:
    root = make_base_root(tmp_path / "otheros")
    shutil.copy(client / "lib" / "libanswer.so.1.0", root / "usr" / "lib" / "libanswer.so.1")
    tree = tmp_path / "tree"
    shutil.copytree(client, tree, symlinks=True)
    opener = '#include <dlfcn.h>\nint main(void) { return !dlopen("/usr/lib/libanswer.so.1", RTLD_NOW); }\n'
    compile_c(opener, tree / "bin" / "opens")
    options = ("--from-tree", tree, "--clean-root", root)
    assert builder.build(*options)["proof"]["standing"] == "proved"
    report = builder.build(*options, "--smoke", "opens", exit_code=1)
    assert [(path, detail) for path, _, detail in faults(report)] == [
        ("opens", "/usr/lib/libanswer.so.1, carried in /pps-tree/lib")
    ]


def test_a_symbol_version_that_the_bases_library_lacks_is_named(builder: Builder, tmp_path: Path) -> None:
    root = make_base_root(tmp_path / "oldos")
    script = tmp_path / "versions"
    for versions, place in (("A_1 {}; A_2 { answer; } A_1;", tmp_path / "new"), ("A_1 { answer; };", root / "usr/lib")):
        script.write_text(versions)
        options = ("-shared", "-fPIC", "-Wl,-soname,libanswer.so.1", f"-Wl,--version-script={script}")
        compile_c("int answer(void) { return 1; }", place / "libanswer.so.1", *options)
    compile_c(ASKER, tmp_path / "tree" / "bin" / "ask", tmp_path / "new" / "libanswer.so.1")
    report = builder.build("--from-tree", tmp_path / "tree", "--clean-root", root, exit_code=1)
    assert faults(report) == {("bin/ask", "library too old or too new", "libanswer.so.1 lacks A_2")}


def test_interpreters_of_scripts_must_be_in_the_base_or_in_the_tree(builder: Builder, client: Path, base: Path) -> None:
    overlay = builder.out.parent / "overlay"
    scripts = {
        "bin/ok": Program(b"#!/bin/sh\n"),
        "bin/own": Program(b"#!/usr/bin/env wrapped\n"),
        "bin/perl": Program(b"#! /usr/bin/perl -w\n"),
        "bin/env": Program(b"#!/usr/bin/env -S python3 -I\n"),
        "share/example": b"#!/usr/bin/ruby\n",
    }
    write_tree(overlay, scripts)
    options = ("--from-tree", client, "--clean-root", base, "--overlay", overlay)
    report = builder.build(*options, exit_code=1)
    assert faults(report) == {
        ("bin/env", "missing interpreter", "python3"),
        ("bin/perl", "missing interpreter", "/usr/bin/perl"),
    }
    assert report["interpreters"] == ["/bin/sh", "/usr/bin/perl", "python3"]
    builder.build(*options, "--site-provides", "python3", "--site-provides", "perl")


@pytest.mark.usefixtures("bwrap")
def test_a_smoke_run_sees_no_network_no_file_of_the_host_and_may_write_nothing(
    base: Path, client: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    root = CleanRoot(base, "small")
    overlay = Overlay(prepend={"PATH": ("bin",)})

    def do(script: str, number: str) -> str:
        done = run_smoke(f"sh -c '{script}'", client, overlay, root, tmp_path / number)
        return f"{done.exit_code} {done.output}"

    assert "cat: " in do(f"cat {secret}", "one")
    for place in ("/usr/x", "/pps-tree/x", "/pps-tree/bin/ask", "/etc/x"):
        assert do(f"echo x 2>&1 >{place} || exit 7", f"two{place.replace('/', '-')}").startswith(("7 ", "2 "))
    assert do("echo x >/tmp/x && cat /tmp/x", "three") == "0 x\n"
    assert "0 " in do("cat /proc/self/net/dev", "four")
    assert "eth" not in do("cat /proc/self/net/dev", "five")
    os.environ["PPS_TEST_SECRET"] = "x"
    try:
        assert "PPS_TEST_SECRET" not in do("export", "six")
    finally:
        del os.environ["PPS_TEST_SECRET"]


@pytest.mark.usefixtures("bwrap")
def test_a_smoke_run_that_never_ends_or_never_stops_talking_is_ended(
    base: Path, client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "TIMEOUT_S", 1)
    root = CleanRoot(base, "small")
    endless = run_smoke("sh -c 'while true; do echo talk; done'", client, Overlay(), root, tmp_path / "one")
    assert endless.exit_code is None
    assert len(endless.output) == smoke.MAX_OUTPUT_BYTES
    silent = run_smoke(
        "sh -c 'exec >/dev/null 2>&1; while true; do :; done'", client, Overlay(), root, tmp_path / "two"
    )
    assert silent.exit_code is None


@pytest.mark.usefixtures("bwrap")
def test_a_command_that_is_not_there_and_one_that_fails_are_faults_with_their_words(
    builder: Builder, client: Path, base: Path
) -> None:
    report = builder.build(
        "--from-tree", client, "--clean-root", base, "--smoke", "nowhere --version",
        "--smoke", "sh -c 'echo broken >&2; exit 3'", exit_code=1,
    )  # fmt: skip
    told = {path: detail for path, _, detail in faults(report)}
    assert "nowhere" in told["nowhere --version"]
    assert told["sh -c 'echo broken >&2; exit 3'"] == "exit 3: broken"


def test_without_bubblewrap_the_package_is_named(
    builder: Builder, client: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **kw: None if name == "bwrap" else find(name, **kw))
    builder.build("--from-tree", client, "--clean-root", base, "--smoke", "ask", exit_code=6)
    assert "install the package bubblewrap, or say --no-clean-root" in builder.stderr
    assert builder.build("--from-tree", client, "--clean-root", base)["proof"]["standing"] == "proved"


@pytest.mark.usefixtures("bwrap")
def test_a_bubblewrap_that_may_not_make_a_root_is_this_machines_fault(
    base: Path, client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(smoke, "find_bwrap", lambda: str(refusing))
    with pytest.raises(SiteError, match="No permissions to create new namespace"):
        run_smoke("true", client, Overlay(), CleanRoot(base, "small"), tmp_path / "trace")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--clean-root", "/"), "is no base system of its own"),
        (("--clean-root", "/nonexistent"), "is no base system of its own"),
        (("--no-clean-root", "--smoke", "x"), "--no-clean-root does not"),
        (("--smoke", "'open"), "No closing quotation"),
        (("--smoke", " "), "--smoke is empty"),
        (("stray",), "stray: belongs to no option"),
        (("--from-rpm", "x.rpm"), "one of --from-tree DIR"),
        (("--rpm-key", "x"), "--rpm-key belongs to --from-rpm"),
        (("--strip-components", "1"), "belong to --from-tarball"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    builder: Builder, client: Path, arguments: tuple[str, ...], told: str
) -> None:
    builder.build("--from-tree", client, *arguments, exit_code=2)
    assert told in builder.stderr


def test_scripts_alone_need_no_root(builder: Builder, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"bin/x": Program(b"#!/usr/bin/strange\n")})
    assert builder.build("--from-tree", tmp_path / "tree")["proof"]["standing"] == "nothing to prove"


def test_links_of_a_root_are_followed_inside_it(tmp_path: Path) -> None:
    write_tree(
        tmp_path / "root",
        {
            "usr/lib/x": b"inside",
            "etc/absolute": LinkTo("/usr/lib/x"),
            "etc/climbing": LinkTo("../../../../../usr/lib/x"),
            "etc/loop": LinkTo("loop"),
            "etc/host": LinkTo("/etc/hostname-of-the-host"),
        },
    )
    root = open_clean_root(tmp_path / "root")
    inside = root.path / "usr/lib/x"
    assert [root.find(f"/etc/{name}") for name in ("absolute", "climbing", "loop", "host")] == [
        inside,
        inside,
        None,
        None,
    ]


def test_hints_name_what_may_look_outside(client: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(client, tree, symlinks=True)
    write_tree(
        tree,
        {
            "lib/liba.la": b"# la\nlibdir='/home/builder/lib'\n",
            "lib/pkgconfig/b.pc": b"prefix=/opt/b\nName: b\n",
            "lib/pkgconfig/c.pc": b"prefix=${pcfiledir}/../..\n",
            "lib/python3/__pycache__/m.cpython-311.pyc": b"x",
            "etc/profile.d/client.sh": b"export X=1\n",
        },
    )
    compile_c("int main(void) { return 0; }", tree / "bin" / "searching", "-Wl,-rpath,/opt/builder/lib")
    loaded = load_tree(tree)
    assert {hint.path: hint.hint for hint in load_hints(loaded, read_elfs(loaded))} == {
        "bin/searching": HintKind.SEARCH_PATH,
        "etc/profile.d/client.sh": HintKind.PROFILE,
        "lib/liba.la": HintKind.BUILD_FILE,
        "lib/pkgconfig/b.pc": HintKind.BUILD_FILE,
        "lib/python3/__pycache__/m.cpython-311.pyc": HintKind.BYTECODE,
    }


def test_a_smoke_run_has_the_releases_environment_and_nothing_of_this_machine() -> None:
    overlay = Overlay(prepend={"PATH": ("bin",), "PYTHONPATH": ("lib/python3",)}, assign={"CONF": "etc/x"})
    assert compose(overlay) == {
        "CONF": "/pps-tree/etc/x",
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
        "PATH": "/pps-tree/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONPATH": "/pps-tree/lib/python3",
        "TMPDIR": "/tmp",
    }


@given(st.text(max_size=60))
def test_any_text_is_a_command_or_a_usage_error(text: str) -> None:
    try:
        assert parse_command(text)
    except UsageError as exc:
        assert "xrdcp --version" in str(exc)  # noqa: PT017  # a command is fine too


@given(st.binary(max_size=200))
def test_any_bytes_name_an_interpreter_or_none(head: bytes) -> None:
    assert isinstance(interpreter_of(head), str)
    assert isinstance(interpreter_of(b"#!" + head), str)


@pytest.mark.usefixtures("apt", "bwrap")
def test_a_root_of_debians_packages_is_merged_as_installed_systems_are_and_made_once(
    client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_root, "BASE_SYSTEM", ("base-files", "dash", "mawk"))
    cache = tmp_path / "cache"
    root = base_root.load_debian_root(cache)
    made = root.path.stat().st_mtime_ns
    assert base_root.load_debian_root(cache) == root
    assert root.path.stat().st_mtime_ns == made
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    for number, shell in enumerate(("/bin/sh", "/usr/bin/sh")):
        assert run_smoke(f"{shell} -c true", client, Overlay(), root, tmp_path / str(number)).exit_code == 0
    assert root.find("/usr/bin/xrdcp") is None
