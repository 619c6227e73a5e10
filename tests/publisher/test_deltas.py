"""Deltas at the publisher: from what, which are kept, and that a served version never changes by them."""

import hashlib
import json
import random
from pathlib import Path

import msgspec
import pytest

from pps_publisher.bundle import Bundle, bundle_problems, load_bundle, pack_manifest, save_bundle, unpack_manifest
from pps_publisher.cli.program import run
from pps_publisher.deltas import MAX_SHARE, add_deltas, find_sources
from pps_publisher.errors import PublishError, TrustError, UsageError
from pps_publisher.pack import plain_manifest
from pps_publisher.pairing import pair_files
from pps_publisher.verify import verify_repository
from pps_wire.delta import DELTA_FORMAT, MAX_DELTA_FILE_BYTES
from pps_wire.manifest import File, Head, Manifest
from pps_wire.names import ReleaseId, parse_vo
from pps_wire.release import Release
from tests.publisher.test_repository import NOW
from tests.support.repository import Content, SmallRepository


def library(seed: int, *edits: int) -> bytes:
    """A library that was rebuilt: a few bytes differ at each edit."""
    content = bytearray(random.Random(seed).randbytes(30_000))
    for edit in edits:
        content[edit * 1000 : edit * 1000 + 7] = b"rebuilt"
    return bytes(content)


FIRST: dict[str, Content] = {"lib/liba.so.1.0.0": library(1), "lib/libb.so.2": library(2), "etc/conf": b"a = 1\n"}
SECOND: dict[str, Content] = FIRST | {"lib/libb.so.2": library(2, 3)}
THIRD: dict[str, Content] = {
    "lib/liba.so.1.0.1": library(1, 9),
    "lib/libb.so.2": library(2, 3, 4),
    "lib/new": library(5),
    "etc/conf": b"a = 2\n",
}


@pytest.fixture
def small(tmp_path: Path) -> SmallRepository:
    repository = SmallRepository(tmp_path / "small")
    repository.publish(FIRST, version="1.0.0")
    repository.publish(SECOND, version="1.1.0")
    return repository


def silent(done_bytes: int, total_bytes: int) -> None:
    assert 0 <= done_bytes <= total_bytes


def with_deltas(small: SmallRepository, bundle: Bundle, scratch: str = "scratch") -> Bundle:
    directory = small.base / scratch
    directory.mkdir()
    return add_deltas(bundle, find_sources(small.repository.store, bundle.release), directory, silent)[0]


def publish(small: SmallRepository, bundle: Bundle) -> Release:
    small.repository.publish([bundle], small.signers["release-manager"], NOW, replace_staged=True)
    small.repository.sign(small.signers["sa3"])
    small.refresh()
    return small.repository.releases()[bundle.release.id]


def source_ids(small: SmallRepository, version: str) -> list[str]:
    release = small.build(THIRD, version=version).release
    return [source.release.version for source in find_sources(small.repository.store, release)]


def test_deltas_start_from_the_last_two_earlier_versions_that_are_served_and_not_withdrawn(
    small: SmallRepository,
) -> None:
    small.publish(THIRD, version="1.10.0")
    small.publish(THIRD, version="1.9.0")
    small.publish(THIRD, version="3.0.0")
    small.publish(THIRD, version="1.11.0", platform="x86_64-glibc2.34")
    small.publish(THIRD, version="1.11.0", component="other")
    small.publish(THIRD, version="1.12.0", signatures=1)
    assert source_ids(small, "2.0.0") == ["1.10.0", "1.9.0"]
    small.withdraw(ReleaseId("grid-clients-1.10.0-x86_64-glibc2.36"))
    assert source_ids(small, "2.0.0") == ["1.9.0", "1.1.0"]
    assert source_ids(small, "1.0.0") == []


def test_a_delta_is_kept_from_each_old_content_where_it_is_clearly_shorter_than_the_frame(
    small: SmallRepository,
) -> None:
    bundle = with_deltas(small, small.build(THIRD, version="2.0.0"))
    files = {file.p: file for file in unpack_manifest(bundle.manifest).files()}
    starts = {path: {delta.b for delta in file.d} for path, file in files.items() if file.d}
    assert starts == {
        "lib/liba.so.1.0.1": {hashlib.sha256(library(1)).hexdigest()},
        "lib/libb.so.2": {hashlib.sha256(library(2, *edits)).hexdigest() for edits in ((), (3,))},
    }
    assert all(delta.z < MAX_SHARE * file.z for file in files.values() for delta in file.d)
    assert bundle.release.deltas is not None
    assert bundle.release.deltas.format == DELTA_FORMAT
    assert list(bundle_problems(bundle)) == []


def test_deltas_change_nothing_else_of_a_manifest_and_are_the_same_bytes_each_time(small: SmallRepository) -> None:
    plain = small.build(THIRD, version="2.0.0")
    one, two = with_deltas(small, plain, "one"), with_deltas(small, plain, "two")
    assert (one.manifest, one.release) == (two.manifest, two.release)
    assert one.pack is not None
    assert two.pack is not None
    assert one.pack.read_bytes() == two.pack.read_bytes()
    assert pack_manifest(plain_manifest(unpack_manifest(one.manifest))) == plain.manifest
    assert msgspec.structs.replace(one.release, deltas=None) == plain.release


def test_where_no_delta_is_worth_it_the_build_stays_as_it_is(small: SmallRepository) -> None:
    plain = small.build({"lib/libb.so.2": library(77)}, version="2.0.0")
    assert with_deltas(small, plain) == plain


def test_a_published_pack_is_served_and_verified_to_the_last_byte(small: SmallRepository) -> None:
    release = publish(small, with_deltas(small, small.build(THIRD, version="2.0.0")))
    assert release.deltas is not None
    verdict = verify_repository(small.repository.store, NOW)
    assert (verdict.problems, verdict.warnings) == ((), ())
    pack = small.served / release.deltas.path
    sound = pack.read_bytes()
    for at in (0, len(sound) // 2, len(sound) - 1):
        pack.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        (problem,) = verify_repository(small.repository.store, NOW).problems
        assert problem == f"{pack}: has other bytes than the release says"
    pack.unlink()
    assert [f"{pack}: is missing" in problem for problem in verify_repository(small.repository.store, NOW).problems]


def test_the_second_signer_sees_the_digest_of_the_pack_and_refuses_a_changed_one(small: SmallRepository) -> None:
    bundle = with_deltas(small, small.build(THIRD, version="2.0.0"))
    assert bundle.release.deltas is not None
    progress = small.repository.publish([bundle], small.signers["release-manager"], NOW)
    assert progress.lines[0].endswith(f", deltas {bundle.release.deltas.sha256}")
    staged = small.repository.store.staged / bundle.release.deltas.path
    staged.write_bytes(staged.read_bytes() + b"!")
    with pytest.raises(TrustError, match="was changed since it was staged; nothing was signed or served"):
        small.repository.sign(small.signers["sa3"])
    staged.unlink()
    with pytest.raises(TrustError, match="lists it but it is not staged"):
        small.repository.sign(small.signers["sa3"])


# --- a version never changes --------------------------------------------------------------------------


def test_a_release_published_again_with_or_without_deltas_keeps_those_it_is_served_with(
    small: SmallRepository,
) -> None:
    plain = small.build(THIRD, version="2.0.0")
    release = publish(small, with_deltas(small, plain))
    small.withdraw(ReleaseId("grid-clients-1.1.0-x86_64-glibc2.36"))
    again = with_deltas(small, plain, "again")
    assert again.release.deltas != release.deltas
    for bundle in (plain, again):
        with pytest.raises(UsageError, match="published already, with the same bytes"):
            publish(small, bundle)
    wider = msgspec.structs.replace(plain.release, vos=(*plain.release.vos, parse_vo("atlas")))
    changed = publish(small, Bundle(wider, plain.manifest, plain.artifact))
    assert (changed.vos, changed.deltas) == (wider.vos, release.deltas)
    assert verify_repository(small.repository.store, NOW).problems == ()


def test_deltas_may_come_later_to_a_release_that_was_served_without(small: SmallRepository) -> None:
    plain = small.build(THIRD, version="2.0.0")
    publish(small, plain)
    before = (small.served / plain.release.artifact.path).stat().st_mtime_ns
    release = publish(small, with_deltas(small, plain))
    assert release.deltas is not None
    assert release.artifact == plain.release.artifact
    verdict = verify_repository(small.repository.store, NOW)
    assert verdict.problems == ()
    assert verdict.warnings == ()  # the older manifest is known as one that was superseded
    assert before <= (small.served / plain.release.artifact.path).stat().st_mtime_ns


def test_other_content_under_the_same_id_is_refused_with_deltas_too(small: SmallRepository) -> None:
    publish(small, with_deltas(small, small.build(THIRD, version="2.0.0")))
    other = small.build(THIRD | {"etc/conf": b"a = 3\n"}, version="2.0.0")
    for bundle in (other, with_deltas(small, other, "other")):
        with pytest.raises(PublishError, match="a version never changes: build it as another version"):
            publish(small, bundle)


# --- bad input ----------------------------------------------------------------------------------------


def test_a_damaged_old_artifact_is_named_and_nothing_is_made_from_it(small: SmallRepository) -> None:
    artifact = small.served / "artifacts" / "grid-clients-1.1.0-x86_64-glibc2.36.tar.zst"
    content = bytearray(artifact.read_bytes())
    content[20_000:20_010] = bytes(10)
    artifact.write_bytes(content)
    with pytest.raises(TrustError, match=f"^{artifact}: .*see 'pps-publish verify'$"):
        with_deltas(small, small.build(THIRD, version="2.0.0"))


def edited(bundle: Bundle, **fields: object) -> Bundle:
    manifest = unpack_manifest(bundle.manifest)
    entries = tuple(
        msgspec.structs.replace(entry, d=tuple(msgspec.structs.replace(delta, **fields) for delta in entry.d))
        if isinstance(entry, File)
        else entry
        for entry in manifest.entries
    )
    return Bundle(bundle.release, pack_manifest(Manifest(manifest.head, entries)), bundle.artifact, bundle.pack)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"o": 1}, "out of order"), ({"z": 10**6}, "no shorter than the frame"), ({"h": "0" * 64}, "is not what the man")],
)
def test_a_manifest_that_says_other_things_of_the_pack_is_a_problem(
    small: SmallRepository, fields: dict[str, object], words: str
) -> None:
    bundle = edited(with_deltas(small, small.build(THIRD, version="2.0.0")), **fields)
    assert any(words in problem for problem in bundle_problems(bundle))


def test_bytes_of_a_pack_that_belong_to_no_file_and_deltas_without_a_pack_are_problems(
    small: SmallRepository,
) -> None:
    plain = small.build(THIRD, version="2.0.0")
    bundle = with_deltas(small, plain)
    (problem,) = bundle_problems(Bundle(bundle.release, plain.manifest, bundle.artifact, bundle.pack))
    assert "bytes that belong to no file" in problem
    (problem,) = bundle_problems(Bundle(plain.release, bundle.manifest, bundle.artifact))
    assert problem.endswith("its manifest names deltas, its description no pack of them")
    assert bundle.release.deltas is not None
    other = msgspec.structs.replace(
        bundle.release, deltas=msgspec.structs.replace(bundle.release.deltas, format="xdelta9")
    )
    (problem,) = bundle_problems(Bundle(other, bundle.manifest, bundle.artifact, bundle.pack))
    assert "unknown format 'xdelta9'" in problem


def test_a_build_with_a_pack_beside_it_is_read_whole(small: SmallRepository) -> None:
    bundle = with_deltas(small, small.build(THIRD, version="2.0.0"))
    assert bundle.pack is not None
    bundle.artifact.rename(bundle.pack.parent / bundle.artifact.name)
    loaded = load_bundle(save_bundle(bundle.pack.parent, bundle))
    assert (loaded.release, loaded.manifest, loaded.pack) == (bundle.release, bundle.manifest, bundle.pack)


# --- pairing ------------------------------------------------------------------------------------------


def manifest_of(*files: tuple[str, str, int]) -> Manifest:
    head = Head(release=ReleaseId("c-1-x86_64-glibc2.36"), entries=len(files), installed_bytes=0)
    return Manifest(head, tuple(File(p=path, s=size, h=name * 64, o=0, z=9) for path, name, size in files))


def pairs(old: Manifest, new: Manifest) -> list[tuple[str, str]]:
    return [(before.p, after.p) for before, after in pair_files(old, new)]


def test_files_are_paired_by_path_then_by_name_without_numbers() -> None:
    old = manifest_of(("a/libc.so.4.8.0", "1", 5), ("b/libc.so.4.8.0", "2", 5), ("bin/x", "3", 5))
    new = manifest_of(("a/libc.so.4.8.1", "a", 5), ("b/libc.so.4.8.0", "b", 5), ("c/libc.so.5", "c", 5))
    assert pairs(old, new) == [
        ("a/libc.so.4.8.0", "a/libc.so.4.8.1"),
        ("b/libc.so.4.8.0", "b/libc.so.4.8.0"),
        ("a/libc.so.4.8.0", "c/libc.so.5"),
    ]


def test_known_empty_doubled_strange_and_huge_files_are_not_paired() -> None:
    huge = MAX_DELTA_FILE_BYTES + 1
    old = manifest_of(("a", "1", 5), ("big", "2", huge), ("small", "3", 5))
    new = manifest_of(
        ("a", "4", 5), ("again/a", "4", 5), ("big", "5", 5), ("empty", "6", 0), ("moved", "1", 5), ("small", "7", huge)
    )
    assert pairs(old, new) == [("a", "a")]


# --- the command --------------------------------------------------------------------------------------


def test_publish_makes_deltas_when_asked_says_what_they_save_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: SmallRepository
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    build = small.build(THIRD, version="2.0.0")
    arguments = [
        "publish",
        str(small.builds / f"{build.release.id}.release.json"),
        "--repo",
        str(small.repository.base),
    ]
    before = {path: path.read_bytes() for path in small.repository.base.rglob("*") if path.is_file()}
    assert run([*arguments, "--deltas", "--dry-run", "--output", "json"]) == 0
    printed = capsys.readouterr()
    assert ", deltas " in json.loads(printed.out)["changes"][0]
    assert "3 deltas from grid-clients-1.1.0-x86_64-glibc2.36 and grid-clients-1.0.0" in printed.err
    assert list(scratch.iterdir()) == []
    assert before == {path: path.read_bytes() for path in small.repository.base.rglob("*") if path.is_file()}
    assert run([*arguments, "--dry-run", "--output", "json"]) == 0
    assert ", deltas " not in json.loads(capsys.readouterr().out)["changes"][0]
