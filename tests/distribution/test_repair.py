"""verify finds whatever is not as signed; repair mends it, in every release that shares it, and fetches no more."""

import hashlib
import os
from pathlib import Path

import pytest

from pps_agent import disk
from pps_agent.errors import SiteError
from pps_agent.inspection import Flaw, inspect
from pps_agent.repair import Repository, decide_repair, repair
from pps_agent.settings import StoreSettings
from pps_agent.state import Unknown
from tests.distribution.site import Site, picture
from tests.support.repository import LinkTo, Program

RANDOM = [hashlib.shake_256(bytes([number])).digest(100_000) for number in range(6)]
FILES = {
    **{f"lib/{number}": content for number, content in enumerate(RANDOM)},
    "bin/run": Program(b"#!/bin/sh\n"),
    "lib/link": LinkTo("1"),
    "share/empty": b"",
}


def flip(path: Path, at: int = 5) -> None:
    """Change one byte in place, as a failing disk does: same inode, size and mode."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))
    path.chmod(mode & 0o7777)


def findings(site: Site, release: str) -> list[tuple[str, Flaw]]:
    seen = inspect(site.store, release, site.load(), lambda _: None)
    return [(finding.path, finding.flaw) for finding in seen.findings]


def mend(site: Site, release, settings: StoreSettings | None = None, *, network: bool = True):
    def refuse(offer):
        raise AssertionError("needs no network")

    repository = Repository(site.trust.fetch_manifest, lambda offer: site.source(offer.release))
    return repair(
        site.store,
        release.id,
        site.load(),
        repository if network else Repository(refuse, refuse),
        settings or StoreSettings(),
    )


@pytest.fixture
def two(site, repository):
    """Two installed releases that share all but one file."""
    first = repository.publish(FILES)
    second = repository.publish(FILES | {"VERSION": b"1.0.1"}, version="1.0.1")
    for release in (first, second):
        site.install(release)
    return first, second


def _unlink(path: Path) -> None:
    path.unlink()


def _swap_for_link(path: Path) -> None:
    disk.remove_tree(path)
    path.symlink_to("/etc")


def _swap_for_file(path: Path) -> None:
    disk.remove_tree(path)
    path.touch()


GONE_WITH_IT = ("share/empty", Flaw.MISSING)
DAMAGES = {
    "one flipped byte": ("lib/1", flip, [("lib/1", Flaw.CONTENT)]),
    "the last byte of another file": ("lib/3", lambda p: flip(p, 99_999), [("lib/3", Flaw.CONTENT)]),
    "a missing file": ("lib/2", _unlink, [("lib/2", Flaw.MISSING)]),
    "a longer file": ("share/empty", lambda p: (p.unlink(), p.write_bytes(b"x")), [("share/empty", Flaw.CONTENT)]),
    "a writable file": ("lib/0", lambda p: p.chmod(0o666), [("lib/0", Flaw.MODE)]),
    "a setuid program": ("bin/run", lambda p: p.chmod(0o4555), [("bin/run", Flaw.MODE)]),
    "a directory for a file": ("lib/4", lambda p: (p.unlink(), p.mkdir(), (p / "x").touch()), [("lib/4", Flaw.KIND)]),
    "a pipe for a file": ("lib/4", lambda p: (p.unlink(), os.mkfifo(p)), [("lib/4", Flaw.KIND)]),
    "a changed link": ("lib/link", lambda p: (p.unlink(), p.symlink_to("2")), [("lib/link", Flaw.LINK)]),
    "a file for a link": ("lib/link", lambda p: (p.unlink(), p.touch()), [("lib/link", Flaw.KIND)]),
    "an open directory": ("lib", lambda p: p.chmod(0o777), [("lib", Flaw.MODE)]),
    "a link for a directory": ("share", _swap_for_link, [("share", Flaw.KIND), GONE_WITH_IT]),
    "a file for a directory": ("share", _swap_for_file, [("share", Flaw.KIND), GONE_WITH_IT]),
    "a foreign file": ("lib/backdoor", Path.touch, [("lib/backdoor", Flaw.FOREIGN)]),
    "a foreign directory": ("more", lambda p: (p.mkdir(), (p / "in").touch()), [("more", Flaw.FOREIGN)]),
    "a foreign link in place of nothing": ("lib/out", lambda p: p.symlink_to("/etc"), [("lib/out", Flaw.FOREIGN)]),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_not_as_signed_is_found_and_mended(site, two, damage):
    first, _second = two
    before = {release.id: picture(site.store.tree(release.id)) for release in two}
    path, spoil, expected = DAMAGES[damage]
    spoil(site.store.tree(first.id) / path)
    assert expected == findings(site, first.id)
    mended = mend(site, first, network=False) if not _shared(damage) else mend(site, first)
    assert [(f.path, f.flaw) for f in mended.inspection.findings] == expected
    for release in two:
        assert before[release.id] == picture(site.store.tree(release.id))
        assert findings(site, release.id) == []
    assert list(site.store.staging.iterdir()) == []


def _shared(damage: str) -> bool:
    """Tell whether the damage lies in the shared inode itself, so that no intact content is left."""
    return damage in ("one flipped byte", "the last byte of another file")


def test_only_the_damaged_file_is_fetched_and_every_sharer_is_mended_with_one_new_inode(site, two, server):
    first, second = two
    paths = [site.store.tree(release.id) / "lib" / "1" for release in two]
    assert paths[0].stat().st_ino == paths[1].stat().st_ino
    flip(paths[0])
    bad = paths[0].stat().st_ino
    server.requests.clear()
    mended = mend(site, first)
    frame = next(file for file in site.store.manifest(first.id).files() if file.p == "lib/1")
    assert [(r.path, r.range, r.bytes_sent) for r in server.requests] == [
        (first.artifact.path, f"bytes={frame.o}-{frame.o + frame.z - 1}", frame.z)
    ]
    assert (mended.releases, [file.p for file in mended.fetch]) == ((first.id, second.id), ["lib/1"])
    assert paths[0].stat().st_ino == paths[1].stat().st_ino != bad
    assert [findings(site, release.id) for release in two] == [[], []]


def test_a_damaged_own_copy_is_mended_from_the_other_release_without_a_network(site, two):
    first, second = two
    victim = site.store.tree(first.id) / "lib" / "1"
    victim.unlink()
    victim.write_bytes(RANDOM[1][:-1] + b"?")
    victim.chmod(0o444)
    site.fetcher.close()
    mend(site, first, network=False)
    assert victim.stat().st_ino == (site.store.tree(second.id) / "lib" / "1").stat().st_ino


@pytest.mark.parametrize("sync", ["syncfs", "files"])
def test_a_sound_release_is_left_alone(site, two, sync):
    before = picture(site.store.root)
    mended = mend(site, two[0], StoreSettings(sync=sync), network=False)
    assert (mended.inspection.findings, mended.places) == ((), ())
    assert before == picture(site.store.root)


def test_a_changed_manifest_is_found_by_the_signed_metadata_and_fetched_again(site, two):
    first, _ = two
    (site.store.path(first.id) / "manifest").write_bytes((site.store.path(two[1].id) / "manifest").read_bytes())
    assert (("manifest", Flaw.MANIFEST)) in findings(site, first.id)
    flip(site.store.tree(first.id) / "lib" / "5")
    mend(site, first)
    assert findings(site, first.id) == []


def test_a_changed_description_is_found_and_written_anew(site, two):
    first, _second = two
    path = site.store.path(first.id) / "release.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"dteam", b"cteam"))
    assert findings(site, first.id) == [("release.json", Flaw.DESCRIPTION)]
    mend(site, first, network=False)
    assert before == path.read_bytes()


def test_a_tree_and_manifest_edited_together_are_told_as_unproven_once_nobody_lists_the_release(site, two):
    seen = inspect(site.store, two[0].id, Unknown("no metadata"), lambda _: None)
    assert (seen.findings, seen.note) == (
        (),
        "its manifest could not be compared with a signature: no metadata",
    )


def test_damage_that_nobody_can_mend_is_told_and_changes_nothing(site, two):
    first, _ = two
    flip(site.store.tree(first.id) / "lib" / "1")
    before = picture(site.store.root)
    nowhere = Repository(site.trust.fetch_manifest, lambda offer: site.source(offer.release))
    with pytest.raises(SiteError, match=r"lib/1 is damaged, no other release has it, and .*remove the release"):
        repair(site.store, first.id, Unknown("no metadata"), nowhere, StoreSettings())
    assert before == picture(site.store.root)


def test_a_repair_that_is_only_thought_of_changes_nothing_and_names_all(site, two):
    first, second = two
    flip(site.store.tree(first.id) / "lib" / "1")
    before = picture(site.store.root)
    decided = decide_repair(site.store, first.id, site.load())
    assert [(release, file.p) for release, file in decided.places] == [(first.id, "lib/1"), (second.id, "lib/1")]
    assert before == picture(site.store.root)


def test_the_executable_bit_keeps_two_inodes_apart(site, repository):
    release = repository.publish({"a": RANDOM[0], "b": Program(RANDOM[0])})
    site.install(release)
    before = picture(site.store.tree(release.id))
    for name in ("a", "b"):
        flip(site.store.tree(release.id) / name)
    mended = mend(site, release)
    assert len(mended.fetch) == 1
    assert before == picture(site.store.tree(release.id))


def test_a_release_that_is_not_there_is_told(site):
    with pytest.raises(SiteError, match="is not installed"):
        inspect(site.store, "grid-clients-9-x86_64-glibc2.36", Unknown("x"), lambda _: None)
