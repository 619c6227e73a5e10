import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_publisher.build import inflate
from pps_publisher.build.harvest import Harvest
from pps_publisher.build.inflate import Inflated
from pps_publisher.build.tar import BLOCK, MAX_EXTENDED_BYTES, harvest_tar, parse_header, parse_records
from pps_publisher.build.tarball import load_tarball_tree
from pps_publisher.chunks import lint_names
from pps_publisher.errors import ArchiveError, UsageError
from pps_publisher.lint import Finding, Kind, Tree
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId

RELEASE = ReleaseId("hello-1.0.0-noarch-glibc0.0")
Member = tuple[str, bytes, bytes | str, int]
"""Name, type, content or link text, mode."""


def pack(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Write a tar archive as the library of Python does it, whatever the names."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for name, kind, content, mode in members:
            header = tarfile.TarInfo(name)
            header.type, header.mode = kind, mode
            if isinstance(content, bytes):
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
            else:
                header.linkname = content
                archive.addfile(header)
    return raw.getvalue()


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> Member:
    return (name, tarfile.REGTYPE, content, mode)


def directory(name: str) -> Member:
    return (name, tarfile.DIRTYPE, "", 0o755)


def link(name: str, to: str) -> Member:
    return (name, tarfile.SYMTYPE, to, 0o777)


def hard(name: str, to: str) -> Member:
    return (name, tarfile.LNKTYPE, to, 0o644)


class Bench:
    """Reads archives in a directory of its own and knows what lay there before."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.outside = base / "outside"
        self.outside.write_text("untouched")
        self._reads = 0

    def read(self, content: bytes, **options: object) -> Tree:
        self._reads += 1
        archive = self.base / f"{self._reads}.tar"
        archive.write_bytes(content)
        return load_tarball_tree(archive, self.base / f"work-{self._reads}", **options).tree  # type: ignore[arg-type]

    def written(self) -> set[str]:
        """Everything below the work directories and beside them, but the archives."""
        return {str(path.relative_to(self.base)) for path in self.base.rglob("*") if path.suffix != ".tar"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def contents(tree: Tree) -> dict[str, object]:
    """The tree as a value: file contents, link texts, None for directories."""
    return {
        node.path: node.source.read_bytes()
        if node.kind is Kind.FILE
        else (None if node.kind is Kind.DIRECTORY else "-> " + node.to)
        for node in tree.nodes
    }


PLAIN = pack(
    directory("hello-1.0"), file("hello-1.0/bin/hello", b"#!/bin/sh\n", 0o755), link("hello-1.0/bin/hi", "hello")
)
PLAIN_TREE = {"bin": None, "bin/hello": b"#!/bin/sh\n", "bin/hi": "-> hello"}


def compress_zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "zstd": compress_zstd,
    "two gzip members and padding": lambda content: (
        gzip.compress(content[:700]) + gzip.compress(content[700:]) + bytes(99)
    ),
    "two zstd frames": lambda content: compress_zstd(content[:700]) + compress_zstd(content[700:]),
}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tarball_of_any_compression_and_form_gives_the_same_tree(bench: Bench, compression: str, form: int) -> None:
    content = pack(
        directory("hello-1.0"),
        file("hello-1.0/bin/hello", b"#!/bin/sh\n", 0o755),
        link("hello-1.0/bin/hi", "hello"),
        form=form,
    )
    assert contents(bench.read(COMPRESSIONS[compression](content))) == PLAIN_TREE


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_links_too_long_for_a_header_arrive_whole(bench: Bench, form: int) -> None:
    long = "/".join(["d" * 60] * 5) + "/żółć"
    tree = bench.read(pack(file("top/" + long), link("top/link", long), file("top/z"), form=form))
    assert contents(tree)[long] == b"x"
    assert contents(tree)["link"] == "-> " + long


def test_what_gnu_tar_packs_of_a_client_arrives_as_it_was(bench: Bench) -> None:
    tree = bench.base / "client"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib" / "liba.so.1").write_bytes(os.urandom(3000))
    (tree / "lib" / "liba.so").symlink_to("liba.so.1")
    (tree / "lib" / "same").hardlink_to(tree / "lib" / "liba.so.1")
    packed = subprocess.run(["tar", "-C", bench.base, "-czf", "-", "client"], capture_output=True, check=True).stdout
    found = contents(bench.read(packed))
    assert found["lib/same"] == found["lib/liba.so.1"] == (tree / "lib" / "liba.so.1").read_bytes()
    assert found["lib/liba.so"] == "-> liba.so.1"


CHAIN = ("d" * 247, 16)


def path_max_attack() -> bytes:
    """A chain of links so long that resolving it gives up, in the style of CVE-2025-4517."""
    name, depth = CHAIN
    members: list[Member] = []
    path = ""
    for step in "abcdefghijklmnop"[:depth]:
        members += [directory(path + name), link(path + step, name)]
        path += name + "/"
    shorts = "/".join("abcdefghijklmnop"[:depth])
    members += [
        link(f"{shorts}/{'l' * 254}", "../" * depth),
        link("escape", f"{shorts}/{'l' * 254}/../../outside"),
        hard("flaglink", "escape"),
        file("flaglink", b"overwritten"),
    ]
    return pack(*members)


REFUSED: dict[str, tuple[bytes, str]] = {
    "up and out": (pack(file("a/b"), file("../outside", b"pwned")), r"has '\.\.' in its path"),
    "up in the middle": (pack(file("a/../../outside", b"pwned")), r"has '\.\.' in its path"),
    "absolute path": (pack(file("/outside", b"pwned")), "has an absolute path"),
    "a link, then a file through it": (pack(link("d", "/tmp"), file("d/x")), "lies below d, which is no directory"),
    "a file as a directory": (pack(file("d"), file("d/x")), "lies below d, which is no directory"),
    "hard link to the outside": (pack(hard("x", "/etc/passwd")), "has an absolute path"),
    "hard link up": (pack(hard("x", "../outside")), r"has '\.\.' in its path"),
    "hard link to nothing": (pack(hard("x", "y"), file("y")), "does not hold before it"),
    "hard link, then a write through it": (pack(file("a"), hard("b", "a"), file("b", b"new")), "stands twice"),
    "links in the style of CVE-2025-4517": (path_max_attack(), "stands twice"),
    "the same file twice": (pack(file("a", b"1"), file("a", b"2")), "stands twice"),
    "the same name written otherwise": (pack(file("a/b"), file("./a//b")), "stands twice"),
    "a directory where a file was": (pack(file("a"), directory("a")), "stands twice"),
    "a component too long": (pack(file("x" * 256)), "component of more than 255 bytes"),
    "a path too long": (pack(file("/".join(["y" * 200] * 30))), "path of more than 4095 bytes"),
    "too many directories": (pack(file("d/" * 129 + "x")), "more than 128 directories deep"),
    "data behind the end": (PLAIN + pack(file("hidden")), "more data behind its end mark"),
    "no end": (pack(file("a"))[:1024], "is cut off"),
    "cut inside a file": (pack(file("a", bytes(5000)))[:2000], "is cut off"),
    "no archive": (b"hello, world" * 100, "this is no tar archive"),
    "empty": (b"", "is cut off"),
    "damaged gzip": (gzip.compress(PLAIN)[:-20] + bytes(20), "damaged|cut off"),
    "cut gzip": (gzip.compress(PLAIN)[:-20], "cut off"),
    "damaged xz": (lzma.compress(PLAIN)[:60] + b"x" + lzma.compress(PLAIN)[61:], "damaged"),
    "cut zstd": (compress_zstd(os.urandom(9000) + PLAIN)[:5000], "checksum|cut off"),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_a_hostile_or_damaged_archive_is_refused_and_writes_nothing_but_numbered_files(
    bench: Bench, attack: str
) -> None:
    content, told = REFUSED[attack]
    with pytest.raises(ArchiveError, match=told):
        bench.read(content)
    assert bench.outside.read_text() == "untouched"
    strange = {path for path in bench.written() if path not in {"outside", "work-1", "work-1/contents"}}
    assert all(path.removeprefix("work-1/contents/").isdigit() for path in strange)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ((file("lib/a"), file("lib/A")), "collides"),
        ((file("caf\u00e9"), file("cafe\u0301")), "NFC"),
        ((file("a\nb"),), "control"),
        ((file("a\\b"),), "backslash"),
        ((file("a\u202eb"),), "invisible"),
    ],
)
def test_names_that_mean_two_things_are_refused_by_the_lint_of_every_tree(
    bench: Bench, members: tuple[Member, ...], told: str
) -> None:
    with pytest.raises(WireError, match=told):
        lint_names(bench.read(pack(*members)), RELEASE)


def test_devices_pipes_and_modes_that_no_site_lands_are_taken_away_and_reported(bench: Bench) -> None:
    tree = bench.read(
        pack(
            file("bin/su", b"x", 0o6777),
            ("dev/null", tarfile.CHRTYPE, "", 0o666),
            ("dev/sda", tarfile.BLKTYPE, "", 0o666),
            ("run/pipe", tarfile.FIFOTYPE, "", 0o666),
        )
    )
    assert {one.path: one.finding for one in tree.found} == {
        "bin/su": Finding.SETUID_STRIPPED,
        "dev/null": Finding.SPECIAL_DROPPED,
        "dev/sda": Finding.SPECIAL_DROPPED,
        "run/pipe": Finding.SPECIAL_DROPPED,
    }
    assert {node.path for node in tree.files()} == {"bin/su"}


def test_a_sparse_file_and_an_unknown_type_are_refused_by_name(bench: Bench) -> None:
    sparse = bench.base / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(10 * 1024**2)
    for form, told in (("gnu", "without --sparse"), ("posix", "without --sparse")):
        packed = subprocess.run(
            ["tar", f"--format={form}", "--sparse", "-C", bench.base, "-cf", "-", "sparse"],
            capture_output=True,
            check=True,
        ).stdout
        with pytest.raises(ArchiveError, match=told):
            bench.read(packed)
    with pytest.raises(ArchiveError, match="unknown type"):
        bench.read(pack(("x", b"Z", "", 0o644)))


def test_a_glite_style_tarball_keeps_its_profile_scripts_and_its_absolute_links_become_relative(bench: Bench) -> None:
    content = pack(
        directory("./"),
        file("./glite/etc/profile.d/grid-env.sh", b"export GLITE_LOCATION=/opt/glite\n"),
        file("./glite/lib64/libx.so.1", b"1"),
        link("./glite/lib64/libx.so", "/opt/glite/lib64/libx.so.1"),
        link("./glite/etc/grid-security", "/etc/grid-security"),
    )
    tree = bench.read(content, prefix="/opt/glite")
    assert contents(tree)["lib64/libx.so"] == "-> libx.so.1"
    assert contents(tree)["etc/profile.d/grid-env.sh"] is not None
    assert {one.path: one.finding for one in tree.found} == {
        "etc/grid-security": Finding.LINK_DANGLING,
        "lib64/libx.so": Finding.LINK_RELATIVE,
    }


@pytest.mark.parametrize(
    ("names", "strip", "expected"),
    [
        (("top/bin/x", "top/lib/y"), None, {"bin/x", "lib/y"}),
        (("bin/x",), None, {"bin/x"}),
        (("usr/bin/x",), None, {"usr/bin/x"}),
        (("a/x", "b/y"), None, {"a/x", "b/y"}),
        (("x",), None, {"x"}),
        (("top/bin/x",), 0, {"top/bin/x"}),
        (("a/b/bin/x", "a/b/y"), 2, {"bin/x", "y"}),
    ],
)
def test_the_directory_that_wraps_everything_is_taken_off(
    bench: Bench, names: tuple[str, ...], strip: int | None, expected: set[str]
) -> None:
    tree = bench.read(pack(*(file(name) for name in names)), strip=strip)
    assert {node.path for node in tree.files()} == expected


def test_stripping_that_would_lose_or_merge_members_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="would lose a/x"):
        bench.read(pack(file("a/x")), strip=2)
    with pytest.raises(UsageError, match="puts two members at x"):
        bench.read(pack(file("a/x"), file("b/x")), strip=1)


def test_what_is_no_file_is_named_instead_of_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        with pytest.raises(UsageError, match="is not a file"):
            load_tarball_tree(tmp_path / name, tmp_path / f"work-{name}")


@pytest.mark.parametrize("pack_zeros", [gzip.compress, compress_zstd, lzma.compress])
def test_a_bomb_is_refused_while_it_unpacks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, pack_zeros: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(inflate, "FREE_BYTES", 1024**2)
    bomb = pack_zeros(pack(file("zeros", bytes(40 * 1024**2))))
    with pytest.raises(ArchiveError, match="what unpacks like this is no client"):
        bench.read(bomb)
    written = sum(path.stat().st_size for path in bench.base.rglob("*") if path.is_file() and path.suffix != ".tar")
    assert written < 1024**2 + 200 * len(bomb) + 1024**2


def header_of(kind: bytes, size: bytes) -> bytes:
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)[:BLOCK])
    block[156:157] = kind
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" + b"\0" * 11, b"\x80" + b"\xff" * 11, b"77777777777"])
def test_a_negative_or_absurd_size_ends_the_reading_and_never_loops(bench: Bench, size: bytes) -> None:
    with pytest.raises(ArchiveError):
        bench.read(header_of(b"0", size) + bytes(BLOCK * 2))


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_of_any_size_is_never_held_in_memory(bench: Bench, kind: bytes) -> None:
    size = b"%011o" % (MAX_EXTENDED_BYTES + 1)
    with pytest.raises(ArchiveError, match="an extended header of"):
        bench.read(header_of(kind, size) + bytes(2 * MAX_EXTENDED_BYTES))
    endless = (header_of(kind, b"%011o" % 5) + b"5 a=\n".ljust(BLOCK, b"\0")) * 20
    with pytest.raises(ArchiveError, match="more than 8 extended headers"):
        bench.read(endless)


@given(st.binary(min_size=BLOCK, max_size=BLOCK))
def test_any_block_is_a_header_or_an_archive_error(block: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        parse_header(block, "x")
    fixed = block[:148] + b"%06o\0 " % (sum(block[:148] + block[156:]) + 256) + block[156:]
    with contextlib.suppress(ArchiveError):
        assert 0 <= parse_header(fixed, "x").size_bytes < 2**63


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"11 path=ab\n", b"12 ", b"a=b\n", b"9999", b" "])).map(b"".join)
)
def test_any_bytes_are_pax_records_or_an_archive_error(content: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        parse_records(content, "x")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_a_tree_or_an_archive_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pieces = [PLAIN, pack(file("é" * 80), link("l", "t" * 200)), path_max_attack()[: 20 * BLOCK]]
    form = data.draw(st.sampled_from(sorted(COMPRESSIONS)))
    content = bytearray(COMPRESSIONS[form](data.draw(st.sampled_from(pieces))))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    scratch = tmp_path_factory.mktemp("damaged") / "contents"
    harvest = Harvest(scratch, "x")
    with contextlib.suppress(ArchiveError):
        harvest_tar(Inflated(io.BytesIO(bytes(content)), "x"), harvest)
        for node in harvest.nodes():
            assert not node.path.startswith("/")
            assert ".." not in node.path.split("/")
    assert all(path.name.isdigit() for path in scratch.iterdir())
