import contextlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_publisher.build.cpio import TRAILER, read_member
from pps_publisher.build.rpm import load_rpm_tree, unmet_requires
from pps_publisher.build.rpm_header import Package, dist_os, read_package
from pps_publisher.bundle import load_bundle
from pps_publisher.cli.program import run
from pps_publisher.errors import ArchiveError, TrustError, UsageError
from pps_publisher.lint import Finding, Kind, Tree
from tests.support.repository import SmallRepository, serve
from tests.support.roots import ASKER, compile_answer, compile_c, make_base_root
from tests.support.services import need
from tests.support.site import SmallSite

SPEC = """\
Name: {name}
Version: 1.0
Release: {release}
Summary: a client
License: Apache-2.0
Requires: /bin/sh
Requires: site-thing >= 2
{more}
%description
A client.
%install
cp -a {tree}/. %{{buildroot}}/
%files
{files}
"""
FILES = """\
%attr(4755,root,root) /usr/bin/ask
/usr/bin/again
/usr/bin/ask-link
/usr/lib64/*
/usr/lib/.build-id
/usr/share/man/man1/ask.1
%config(noreplace) /etc/ask.conf
%dev(c, 1, 3) /usr/lib/device
%caps(cap_net_raw=ep) /usr/bin/raw
%ghost /usr/lib/ghost
%dir /usr/share/ask
"""


@pytest.fixture(scope="module")
def rpmbuild() -> None:
    need("" if shutil.which("rpmbuild") else "rpmbuild is not on this machine; install rpm")


class Packer:
    """Builds packages by rpmbuild, as a distribution does."""

    def __init__(self, base: Path) -> None:
        self.base = base
        root = base / "root"
        library = compile_answer(root / "usr" / "lib64" / "libanswer.so.1.0")
        (library.parent / "libanswer.so.1").symlink_to(library.name)
        (library.parent / "libanswer.so").symlink_to("/usr/lib64/libanswer.so.1")
        ask = compile_c(ASKER, root / "usr" / "bin" / "ask", library)
        (ask.parent / "again").hardlink_to(ask)
        (ask.parent / "ask-link").symlink_to("/usr/bin/ask")
        compile_c("int main(void) { return 0; }", ask.parent / "raw")
        for name, text in {
            "etc/ask.conf": "answer = 42\n",
            "usr/share/man/man1/ask.1": ".TH ask 1\n",
            "usr/lib/ghost": "",
            "usr/share/ask/empty/.keep": "",
        }.items():
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        shutil.rmtree(root / "usr/share/ask/empty")
        build_id = root / "usr/lib/.build-id/ab"
        build_id.mkdir(parents=True)
        (build_id / "cd").symlink_to("../../../../usr/bin/ask")

    def pack(self, name: str = "ask", release: str = "1.el9", payload: str = "w6.gzdio", **more: str) -> Path:
        top = self.base / f"{name}-{release}-{payload}"
        top.mkdir()
        tree = Path(more.pop("tree", str(self.base / "root")))
        spec = top / "ask.spec"
        fields = {"files": FILES, "more": ""} | more
        spec.write_text(SPEC.format(name=name, release=release, tree=tree, **fields))
        defines = {
            "_topdir": str(top),
            "_binary_payload": payload,
            "__os_install_post": "%{nil}",
            "debug_package": "%{nil}",
            "_build_id_links": "none",
            "_unpackaged_files_terminate_build": "0",
        }
        options = [part for key, value in defines.items() for part in ("--define", f"{key} {value}")]
        done = subprocess.run(
            ["rpmbuild", "-bb", "--quiet", *options, spec],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(top), "LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        return next(top.rglob("*.rpm"))


@pytest.fixture(scope="module")
def packer(rpmbuild: None, tmp_path_factory: pytest.TempPathFactory) -> Packer:
    return Packer(tmp_path_factory.mktemp("packer"))


@pytest.fixture(scope="module")
def package(packer: Packer) -> Path:
    return packer.pack()


@pytest.fixture(scope="module")
def library_package(packer: Packer) -> Path:
    """A package of another name that holds one file only."""
    tree = packer.base / "small"
    (tree / "usr" / "share").mkdir(parents=True)
    (tree / "usr" / "share" / "small").write_text("small\n")
    return packer.pack("small", "1.el8", files="/usr/share/small", tree=str(tree), more="Provides: site-thing")


def contents(tree: Tree) -> dict[str, object]:
    return {
        node.path: node.source.read_bytes() if node.kind is Kind.FILE else node.to
        for node in tree.nodes
        if node.kind is not Kind.DIRECTORY
    }


def test_a_package_of_rpmbuild_becomes_a_tree_and_everything_changed_is_told(
    packer: Packer, package: Path, tmp_path: Path
) -> None:
    read = load_rpm_tree([package], (), tmp_path)
    usr = packer.base / "root" / "usr"
    assert contents(read.tree) == {
        "bin/again": (usr / "bin/ask").read_bytes(),
        "bin/ask": (usr / "bin/ask").read_bytes(),
        "bin/ask-link": "ask",
        "bin/raw": (usr / "bin/raw").read_bytes(),
        "etc/ask.conf": b"answer = 42\n",
        "lib64/libanswer.so": "libanswer.so.1",
        "lib64/libanswer.so.1": "libanswer.so.1.0",
        "lib64/libanswer.so.1.0": (usr / "lib64/libanswer.so.1.0").read_bytes(),
    }
    assert read.tree.has("share/ask", Kind.DIRECTORY)
    assert {one.path: one.finding for one in read.tree.found} == {
        "bin/again": Finding.SETUID_STRIPPED,
        "bin/ask": Finding.SETUID_STRIPPED,
        "bin/ask-link": Finding.LINK_RELATIVE,
        "bin/raw": Finding.CAPABILITIES_DROPPED,
        "lib/device": Finding.SPECIAL_DROPPED,
        "lib64/libanswer.so": Finding.LINK_RELATIVE,
    }
    machine = os.uname().machine
    assert (read.os, read.packages, read.signed_by) == ("el9", (f"ask-1.0-1.el9.{machine}",), ())
    assert read.requires == ("/bin/sh", "site-thing")


@pytest.mark.parametrize("payload", ["w9.bzdio", "w2.xzdio", "w2.lzdio", "w3.zstdio", "w.ufdio"])
def test_every_compression_of_rpm_gives_the_same_tree(
    packer: Packer, package: Path, tmp_path: Path, payload: str
) -> None:
    other = packer.pack(payload=payload)
    assert other.read_bytes() != package.read_bytes()
    expected = contents(load_rpm_tree([package], (), tmp_path / "one").tree)
    assert contents(load_rpm_tree([other], (), tmp_path / "two").tree) == expected


def test_a_tree_of_packages_is_built_proved_installed_by_an_agent_and_runs(
    packer: Packer, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need("" if shutil.which("bwrap") else "bwrap is not on this machine; install bubblewrap")
    base = make_base_root(tmp_path / "el9")
    code = run(
        [
            *("build", "--from-rpm", str(package), "--out", str(tmp_path / "out"), "--component", "ask"),
            *("--version", "1.0", "--class", "client-bc", "--vo", "dteam", "--os", "", "--output", "json"),
            *("--clean-root", str(base), "--smoke", "ask", "--smoke", "again"),
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    report = json.loads(printed.out)
    assert (report["proof"]["standing"], report["signed_by"]) == ("proved", [])
    assert [one["output"] for one in report["proof"]["smoke"]] == ["42\n", "42\n"]
    repository = SmallRepository(tmp_path / "publisher")
    bundle = load_bundle(tmp_path / "out")
    repository.repository.publish([bundle], repository.signers["release-manager"], datetime.now(UTC))
    repository.repository.sign(repository.signers["sa3"])
    repository.refresh()
    with serve(repository.served) as server:
        site = SmallSite(tmp_path / "site", server.url, repository.root_bytes)
        site.once()
        installed = next((tmp_path / "site").rglob(f"releases/{bundle.release.id}/tree"))
        done = subprocess.run([installed / "bin" / "ask-link"], capture_output=True, text=True, check=True, env={})
    assert done.stdout == "42\n"
    assert stat.S_IMODE((installed / "bin" / "ask").stat().st_mode) == 0o555
    assert packer.base.exists()


def test_the_os_follows_from_the_dist_tags_unless_they_differ_or_are_missing(
    packer: Packer, package: Path, library_package: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"several distributions: ask-1.0-1.el9\.\w+ \(el9\), small-.*\(el8\)"):
        load_rpm_tree([package, library_package], (), tmp_path / "one")
    both = load_rpm_tree([package, library_package], (), tmp_path / "two", os="el9")
    assert (both.os, both.requires) == ("el9", ("/bin/sh",))
    plain = packer.pack("plain", "1", files="/etc/ask.conf")
    with pytest.raises(UsageError, match="state --os, e"):
        load_rpm_tree([plain], (), tmp_path / "three")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.el9", "el9"), ("5.el9_2.1", "el9"), ("1.el10", "el10"), ("3.module+el8.5.0+1", ""), ("1.fc40", "fc40"),
        ("1", ""), ("1.2.3", ""), ("el9", "el9"), ("1.el9.alma.1", "el9"), ("1.elephant9", ""),
    ],
)  # fmt: skip
def test_a_dist_tag_names_a_distribution(release: str, expected: str) -> None:
    assert dist_os(release) == expected


class Keys:
    """A key of gpg in a directory short enough for its agent's socket."""

    def __init__(self, home: Path, name: str) -> None:
        self._home, self._name = home, name
        self._gpg("--quick-gen-key", "--passphrase", "", f"{name} <{name}@example.org>", "rsa2048")
        self.public = home / f"{name}.asc"
        self.public.write_bytes(self._gpg("--armor", "--export"))

    def sign(self, package: Path, to: Path) -> Path:
        shutil.copy(package, to)
        defines = [f"_gpg_name {self._name}", f"_gpg_path {self._home}", "__gpg /usr/bin/gpg"]
        options = [part for define in defines for part in ("--define", define)]
        subprocess.run(["rpmsign", "--addsign", *options, to], check=True, capture_output=True, env=self._environment())
        return to

    def close(self) -> None:
        subprocess.run(["gpgconf", "--kill", "all"], check=False, env=self._environment())

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--batch", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, check=True, capture_output=True, env=self._environment()).stdout

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "GNUPGHOME": str(self._home), "HOME": str(self._home)}


@pytest.fixture(scope="module")
def keys(rpmbuild: None) -> Iterator[Callable[[str], Keys]]:
    need("" if shutil.which("gpg") and shutil.which("rpmsign") else "gpg or rpmsign is not on this machine")
    made: list[Keys] = []
    with tempfile.TemporaryDirectory(prefix="gpg") as base:

        def make(name: str) -> Keys:
            home = Path(base) / name
            home.mkdir(mode=0o700)
            made.append(Keys(home, name))
            return made[-1]

        yield make
        for one in made:
            one.close()


def test_with_a_key_given_only_packages_it_signed_are_read(
    package: Path, library_package: Path, keys: Callable[[str], Keys], tmp_path: Path
) -> None:
    vendor, other = keys("vendor"), keys("other")
    signed = vendor.sign(package, tmp_path / "signed.rpm")
    read = load_rpm_tree([signed], (other.public, vendor.public), tmp_path / "good")
    assert read.signed_by == ("other.asc", "vendor.asc")
    assert contents(read.tree) == contents(load_rpm_tree([package], (), tmp_path / "plain").tree)
    for number, files in enumerate(([package], [signed, library_package])):
        with pytest.raises(TrustError, match="no good signature by a given key \\(it is not signed\\)"):
            load_rpm_tree(files, (vendor.public,), tmp_path / f"unsigned-{number}", os="")
    with pytest.raises(TrustError, match="NOKEY"):
        load_rpm_tree([signed], (other.public,), tmp_path / "stranger")
    damaged = tmp_path / "damaged.rpm"
    content = bytearray(signed.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(TrustError):
        load_rpm_tree([damaged], (vendor.public,), tmp_path / "damaged")
    nonsense = tmp_path / "nonsense.asc"
    nonsense.write_text("no key")
    with pytest.raises(TrustError, match="name an armoured public key"):
        load_rpm_tree([signed], (nonsense,), tmp_path / "nonsense")


def split(package: Path) -> tuple[bytes, bytes]:
    """Give what stands before the payload of a gzip package, and the payload as a cpio archive."""
    content = package.read_bytes()
    stream = io.BytesIO(content)
    read_package(stream.read, "x")
    return content[: stream.tell()], zlib.decompress(content[stream.tell() :], wbits=31)


def members(payload: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Give name, header and data of each member of a cpio archive, padding included."""
    at = 0
    while True:
        fields = [int(payload[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_bytes = fields[6], fields[11]
        name = payload[at + 110 : at + 109 + name_bytes].decode()
        data_at = at + (110 + name_bytes + 3) // 4 * 4
        end = data_at + (size + 3) // 4 * 4
        yield name, payload[at:data_at], payload[data_at:end]
        if name == TRAILER:
            return
        at = end


def repack(
    package: Path, change: Callable[[list[tuple[str, bytes, bytes]]], list[tuple[str, bytes, bytes]]], to: Path
) -> Path:
    """Write a package with another payload under the same header."""
    head, payload = split(package)
    changed = b"".join(header + data for _, header, data in change(list(members(payload))))
    to.write_bytes(head + changed)
    return to


Members = list[tuple[str, bytes, bytes]]


def rename(old: str, new: str) -> Callable[[Members], Members]:
    assert len(old) == len(new)
    return lambda found: [
        (name, header.replace(old.encode(), new.encode()) if name == old else header, data)
        for name, header, data in found
    ]


def without(name: str) -> Callable[[Members], Members]:
    return lambda found: [one for one in found if one[0] != name]


def twice(name: str) -> Callable[[Members], Members]:
    return lambda found: [*[one for one in found if one[0] == name], *found]


def with_data(name: str, data: bytes) -> Callable[[Members], Members]:
    return lambda found: [(at, header, data if at == name else old) for at, header, old in found]


PAYLOADS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "a path that climbs": (rename("./etc/ask.conf", "./../a/outside"), "'../a/outside' stands in its payload, but not"),
    "an absolute path": (rename("./etc/ask.conf", "//tmp/outside1"), "stands in its payload, but not"),
    "a member the header does not list": (rename("./etc/ask.conf", "./etc/bad.conf"), "stands in its payload, but not"),
    "a member twice": (twice("./etc/ask.conf"), "once only"),
    "a member missing": (without("./etc/ask.conf"), "lacks /etc/ask.conf"),
    "other content": (with_data("./etc/ask.conf", b"answer = 43\n"), "another digest than its header"),
    "a link elsewhere": (with_data("./usr/lib64/libanswer.so.1", b"/etc/passwd1\0\0\0\0"), "links elsewhere"),
    "no end": (without(TRAILER), "is cut off"),
    "more behind the end": (lambda found: [*found, *found], "more data behind its end mark"),
}


@pytest.mark.parametrize("attack", PAYLOADS)
def test_a_payload_that_contradicts_its_header_is_refused(package: Path, tmp_path: Path, attack: str) -> None:
    change, told = PAYLOADS[attack]
    hostile = repack(package, change, tmp_path / "hostile.rpm")
    with pytest.raises(ArchiveError, match=told):
        load_rpm_tree([hostile], (), tmp_path / "work")
    numbered = [path.name for path in (tmp_path / "work" / "contents").rglob("*") if path.is_file()]
    assert all(name.isdigit() for name in numbered)


def test_rpms_own_form_for_files_above_4_gib_gives_the_same_tree(package: Path, tmp_path: Path) -> None:
    head, _ = split(package)
    listed = [f"./{entry.path}" for entry in read_package(io.BytesIO(head).read, "x").files]

    def strip(found: Members) -> Members:
        return [
            (name, header if name == TRAILER else b"07070X%08x" % listed.index(name) + bytes(2), data)
            for name, header, data in found
        ]

    large = repack(package, strip, tmp_path / "large.rpm")
    assert contents(load_rpm_tree([large], (), tmp_path / "one").tree) == contents(
        load_rpm_tree([package], (), tmp_path / "two").tree
    )


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_package_is_a_tree_or_an_archive_error(
    package: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(package.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    base = tmp_path_factory.mktemp("damaged")
    (base / "x.rpm").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ArchiveError, UsageError):
        tree = load_rpm_tree([base / "x.rpm"], (), base / "work", os="").tree
        assert all(".." not in node.path.split("/") for node in tree.nodes)


def headers(store: bytes, index: int, store_bytes: int) -> bytes:
    """Give a lead and two headers of which only the form is right."""
    head = b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", index, store_bytes)
    return b"\xed\xab\xee\xdb" + bytes(92) + (head + store) * 2


@given(
    st.binary(max_size=400)
    | st.builds(headers, st.binary(min_size=20, max_size=300), st.integers(0, 6), st.integers(0, 60))
)
def test_any_bytes_are_a_package_or_an_archive_error(content: bytes) -> None:
    stream = io.BytesIO(content)

    def read(size: int) -> bytes:
        found = stream.read(size)
        if len(found) != size:
            raise ArchiveError("cut off")
        return found

    with contextlib.suppress(ArchiveError):
        assert isinstance(read_package(read, "x"), Package)


@given(
    st.binary(max_size=200)
    | st.text("0123456789abcdef", min_size=104, max_size=200).map(lambda text: b"070701" + text.encode())
)
def test_any_bytes_are_a_cpio_member_or_an_archive_error(content: bytes) -> None:
    stream = io.BytesIO(content)

    def read(size: int) -> bytes:
        found = stream.read(size)
        if len(found) != size:
            raise ArchiveError("cut off")
        return found

    with contextlib.suppress(ArchiveError):
        member = read_member(read, "x")
        assert member is None or member.size_bytes < 2**32


def test_source_packages_and_other_files_are_named(packer: Packer, tmp_path: Path) -> None:
    (tmp_path / "text.rpm").write_text("no package" * 50)
    with pytest.raises(ArchiveError, match="is no RPM package"):
        load_rpm_tree([tmp_path / "text.rpm"], (), tmp_path / "one")
    with pytest.raises(UsageError, match="is not a file"):
        load_rpm_tree([packer.base], (), tmp_path / "two")


def test_what_packages_ask_of_one_another_is_not_asked_of_the_site() -> None:
    def make(name: str, provides: tuple[str, ...], requires: tuple[str, ...]) -> Package:
        return Package(name, "1", "1", "noarch", "", (), "sha256", provides, requires)

    asked = (
        make("a", (), ("b", "libc.so.6(GLIBC_2.34)(64bit)", "python(abi)")),
        make("b", ("b",), ("rtld(GNU_HASH)",)),
    )
    assert unmet_requires(asked) == ("python(abi)",)


SAME = """\
import os, sys
os.umask(int(sys.argv[1], 8))
from pps_publisher.cli.program import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("source", ["rpm", "tarball", "tree"])
def test_the_same_source_gives_the_same_bytes_in_another_place_umask_locale_and_zone(
    package: Path, packer: Packer, tmp_path: Path, source: str
) -> None:
    root = packer.base / "root" / "usr"
    tarball = tmp_path / "client.tar"
    subprocess.run(["tar", "-C", root, "-cf", tarball, "bin", "lib64"], check=True)
    given_source = {"rpm": package, "tarball": tarball, "tree": root}[source]
    seen = set()
    for number, (umask, place) in enumerate((("022", "a"), ("077", "quite/another/żółty place"))):
        base = tmp_path / place
        base.mkdir(parents=True)
        moved = base / f"source-{number}.{source}"
        if given_source.is_dir():
            shutil.copytree(given_source, moved, symlinks=True)
        else:
            shutil.copyfile(given_source, moved)
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **(
                {"LC_ALL": "C", "TZ": "UTC"}
                if not number
                else {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "TMPDIR": str(base)}
            ),
            "PYTHONHASHSEED": str(number),
        }
        arguments = [
            *("build", f"--from-{source}", moved, "--out", base / "out", "--component", "ask", "--version", "1.0"),
            *("--class", "client-bc", "--vo", "dteam", "--no-clean-root"),
        ]
        done = subprocess.run(
            [sys.executable, "-c", SAME, umask, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen.add(tuple(sorted((path.name, path.read_bytes()) for path in (base / "out").iterdir())))
    assert len(seen) == 1
