"""Trees that others distribute: judged by content and executable bit, any change of them noticed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.distributed import find_change, is_there, survey, tree_path, verify_tree
from pps_agent.errors import BusyError, SiteError, TrustError
from pps_agent.frames import SignedManifest, open_manifest
from pps_wire.manifest import Directory, File, Head, Link, Manifest, render_manifest
from pps_wire.names import ReleaseId
from tests.contract.samples import RELEASE

CONTENTS = {"VERSION": b"1.0.0\n", "bin/hello": b"#!/bin/sh\necho hello\n", "share/empty": b""}


def manifest_of(contents: dict[str, bytes]) -> SignedManifest:
    files = [
        File(
            p=path,
            s=len(body),
            h=hashlib.sha256(body).hexdigest(),
            o=1000 * number,
            z=100 if body else 0,
            x=path.startswith("bin/"),
        )
        for number, (path, body) in enumerate(sorted(contents.items()), 1)
    ]
    others = [Directory("bin"), Link("bin/hi", "hello"), Directory("share")] if "bin/hello" in contents else []
    entries = tuple(sorted([*others, *files], key=lambda entry: entry.p))
    size = sum(file.s for file in files)
    head = Head(release=ReleaseId("hello-1.0.0-noarch-glibc0.0"), entries=len(entries), installed_bytes=size)
    return open_manifest(zstandard.compress(b"".join(render_manifest(Manifest(head, entries)))))


MANIFEST = manifest_of(CONTENTS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, body in CONTENTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        path.chmod(0o750 if name.startswith("bin/") else 0o604)
    (root / "bin/hi").symlink_to("hello")
    (root / "share/.cvmfscatalog").touch()
    return root


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


SPOILS: dict[str, Callable[[Path], object]] = {
    "VERSION has other content": lambda tree: (tree / "VERSION").write_text("1.0.1\n"),
    "VERSION: has 5 of 6 bytes": lambda tree: (tree / "VERSION").write_text("short"),
    "bin/hello: is not executable": lambda tree: (tree / "bin/hello").chmod(0o644),
    "VERSION: is executable": lambda tree: (tree / "VERSION").chmod(0o645),
    "bin/hello: gives rights": lambda tree: (tree / "bin/hello").chmod(0o4755),
    "bin/ls: is not in the manifest": lambda tree: (tree / "bin/ls").write_text("#!/bin/sh\n"),
    "extra: is not in the manifest": lambda tree: (tree / "extra").mkdir(),
    "VERSION: is no regular file": lambda tree: replaced(tree / "VERSION", lambda path: path.symlink_to("bin/hello")),
    "share/empty: is no regular file": lambda tree: replaced(tree / "share/empty", os.mkfifo),
    "bin/hi: does not point to 'hello'": lambda tree: replaced(
        tree / "bin/hi", lambda path: path.symlink_to("/bin/sh")
    ),
    "bin/hi: is no symbolic link": lambda tree: replaced(tree / "bin/hi", lambda path: path.write_bytes(b"")),
}


def test_a_tree_with_other_modes_and_owners_is_what_was_signed(tree: Path) -> None:
    fingerprint = verify_tree(tree, MANIFEST)
    assert find_change(tree, MANIFEST, fingerprint) == ""
    assert find_change(tree, MANIFEST, "") == f"{tree}: changed since it was verified"


@pytest.mark.parametrize("said", SPOILS)
def test_a_difference_is_named(tree: Path, said: str) -> None:
    fingerprint = verify_tree(tree, MANIFEST)
    SPOILS[said](tree)
    with pytest.raises(TrustError, match=r"is not what was signed: .*; tell whoever distributes it") as caught:
        verify_tree(tree, MANIFEST)
    assert said in str(caught.value)
    assert find_change(tree, MANIFEST, fingerprint) != ""


def test_what_is_not_all_there_yet_is_waited_for(tree: Path) -> None:
    (tree / "bin/hi").unlink()
    with pytest.raises(BusyError, match="1 entries are not there yet; the next round looks again"):
        verify_tree(tree, MANIFEST)


def test_a_tree_that_changes_while_it_is_read_is_not_believed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pps_agent import distributed

    def touch_and_hash(path: str, original: Callable[[str], str] = distributed._hash) -> str:
        digest = original(path)
        (tree / "bin/hello").write_bytes(CONTENTS["bin/hello"])
        return digest

    monkeypatch.setattr(distributed, "_hash", touch_and_hash)  # a change at that very moment cannot be provoked
    with pytest.raises(BusyError, match="changed while it was read"):
        verify_tree(tree, MANIFEST)


def test_content_put_back_under_the_old_times_is_noticed_by_the_change_time(tree: Path) -> None:
    fingerprint = verify_tree(tree, MANIFEST)
    before = (tree / "VERSION").stat()
    (tree / "VERSION").write_text("9.9.9\n")
    os.utime(tree / "VERSION", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_change(tree, MANIFEST, fingerprint) == f"{tree}: changed since it was verified"


def test_the_hash_that_cvmfs_keeps_is_part_of_what_is_remembered(tree: Path) -> None:
    before = survey(tree, MANIFEST).fingerprint
    times = (tree / "VERSION").stat()
    os.setxattr(tree / "VERSION", "user.hash", b"0123")
    marked = survey(tree, MANIFEST).fingerprint
    os.setxattr(tree / "VERSION", "user.hash", b"4567")
    assert len({before, marked, survey(tree, MANIFEST).fingerprint}) == 3
    assert (tree / "VERSION").stat().st_mtime_ns == times.st_mtime_ns


@given(st.binary(max_size=6))
def test_no_other_content_is_ever_taken_for_the_signed_one(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    root = tmp_path_factory.mktemp("tree")
    manifest = manifest_of({"VERSION": CONTENTS["VERSION"]})
    (root / "VERSION").write_bytes(body)
    if body == CONTENTS["VERSION"]:
        assert verify_tree(root, manifest)
    else:
        with pytest.raises(TrustError):
            verify_tree(root, manifest)


def test_where_a_tree_appears_follows_the_pattern_and_an_unmounted_base_is_unknown(tmp_path: Path) -> None:
    base = tmp_path / "cvmfs"
    assert tree_path("/c/{component}/{version}/{platform}", RELEASE) == Path(
        f"/c/{RELEASE.component}/{RELEASE.version}/{RELEASE.platform}"
    )
    trees = f"{base}/{{release}}/tree"
    with pytest.raises(SiteError, match="No such file or directory; check that it is mounted"):
        is_there(trees, RELEASE)
    base.mkdir()
    with pytest.raises(SiteError, match="is empty; check that it is mounted"):
        is_there(trees, RELEASE)
    (base / RELEASE.id).mkdir()
    assert not is_there(trees, RELEASE)
    (base / RELEASE.id / "tree").mkdir()
    assert is_there(trees, RELEASE)
