"""Updates through deltas: less is moved, the tree is the same, and no delta can make an install fail."""

import hashlib
import os
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_agent.frames import SignedManifest, open_manifest
from pps_agent.install import InstallFacts, install
from pps_agent.mirror_source import MirrorSource
from pps_agent.settings import StoreSettings
from pps_publisher.bundle import pack_manifest, unpack_manifest
from pps_wire.manifest import Delta, File, Manifest
from tests.distribution.site import Site, picture
from tests.support.repository import Program

SIZE = 30_000


def library(seed: int, *edits: int) -> bytes:
    """A library that was rebuilt: a few bytes differ at each edit."""
    content = bytearray(random.Random(seed).randbytes(SIZE))
    for edit in edits:
        content[edit * 1000 : edit * 1000 + 7] = b"rebuilt"
    return bytes(content)


V1 = {"lib/a.so.1.0": library(1), "lib/b.so": library(2), "lib/c.so": library(3), "share/x": b"x" * 100}
V2 = V1 | {"lib/b.so": library(2, 5)}
V3 = {
    "lib/a.so.1.1": library(1, 4),
    "lib/b.so": library(2, 5, 6),
    "lib/c.so": library(3, 7),
    "lib/new": library(4),
    "share/x": b"x" * 100,
}


@pytest.fixture
def versions(repository):
    """Three versions; the third has deltas from both others."""
    return (
        repository.publish(V1, version="1"),
        repository.publish(V2, version="2"),
        repository.publish(V3, version="3", deltas=True),
    )


def assert_whole(site: Site, release, files=None) -> None:
    tree = site.store.tree(release.id)
    wanted = V3 if files is None else files
    contents = {path: getattr(content, "content", content) for path, content in wanted.items()}
    assert contents == {path: (tree / path).read_bytes() for path in wanted}
    assert site.store.installed()[release.id].fault == ""
    assert list(site.store.staging.iterdir()) == []


def deltas_of(site: Site, release) -> dict[str, tuple[Delta, ...]]:
    return {file.p: file.d for file in site.store.manifest(release.id).files() if file.d}


@pytest.mark.parametrize("installed", [0, 1])
def test_an_update_moves_deltas_from_whichever_version_is_there_and_frames_of_what_is_new(
    site, repository, server, versions, installed
):
    site.install(versions[installed])
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.files_fetched, facts.files_linked) == (3, 1, 1)
    assert (facts.deltas_failed, facts.delta_fault) == (0, "")
    frame = next(file for file in site.store.manifest(versions[2].id).files() if file.p == "lib/new")
    assert facts.bytes_moved < frame.z + 2000
    assert_whole(site, versions[2])
    assert picture(site.store.tree(versions[2].id))["lib/b.so"][0] == "100444"


def test_the_tree_is_the_same_with_and_without_deltas(site, repository, versions, tmp_path, server):
    site.install(versions[0])
    site.install(versions[2])
    other = Site(tmp_path / "other", repository.root_bytes, server.url)
    other.install(versions[2])
    assert picture(site.store.tree(versions[2].id)) == picture(other.store.tree(versions[2].id))
    other.close()


def test_a_first_install_asks_for_no_deltas(site, server, versions):
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.requests) == (0, 1)
    assert versions[2].deltas.path not in server.paths()


def test_a_file_that_stands_twice_is_made_once_also_with_another_mode(site, repository):
    first = repository.publish({"a": library(1), "z": b"z"}, version="1")
    changed = {"a": library(1, 3), "b": Program(library(1, 3)), "c": library(1, 3), "z": b"z"}
    second = repository.publish(changed, version="2", deltas=True)
    site.install(first)
    facts = site.install(second)
    assert (facts.files_patched, facts.files_fetched, facts.files_linked) == (1, 0, 3)
    assert_whole(site, second, changed)


def test_progress_ends_at_the_total_also_when_deltas_fail(site, server, versions):
    site.install(versions[0])
    for fault in ({}, {"status": 404}):
        if fault:
            site.store.remove(versions[2].id)
            server.plant(versions[2].deltas.path, **fault)
        told = []
        site.install(versions[2], progress=lambda done, total, told=told: told.append((done, total)))
        assert told[-1] == (4 * SIZE, 4 * SIZE)


# --- nothing that is wrong with a delta stops an install ----------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 404}, "the server answered 404"),
        ({"status": 503}, "the server answered 503"),
        ({"truncate_to": 0}, ""),
    ],
)
def test_a_pack_that_cannot_be_had_costs_nothing_but_its_frames(site, server, versions, fault, words):
    site.install(versions[0])
    server.plant(versions[2].deltas.path, **fault)
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.files_fetched, facts.deltas_failed) == (0, 4, 3)
    assert words in facts.delta_fault
    assert_whole(site, versions[2])


def test_a_pack_that_breaks_off_is_gone_on_with(site, server, versions):
    site.install(versions[0])
    first = min((d for deltas in deltas_of_offer(site, versions[2]).values() for d in deltas[-1:]), key=lambda d: d.o)
    server.plant(versions[2].deltas.path, truncate_to=first.z + 1)
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.files_fetched, facts.deltas_failed) == (3, 1, 0)
    assert_whole(site, versions[2])


def deltas_of_offer(site: Site, release) -> dict[str, tuple[Delta, ...]]:
    return {file.p: file.d for file in site.trust.fetch_manifest(site.offer(release.id)).files() if file.d}


def test_a_delta_with_a_changed_byte_is_named_and_only_its_file_is_fetched(site, server, versions):
    site.install(versions[0])
    delta = deltas_of_offer(site, versions[2])["lib/c.so"][0]
    server.plant(versions[2].deltas.path, flip_at=delta.o + delta.z // 2)
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.files_fetched, facts.deltas_failed) == (2, 2, 1)
    assert facts.delta_fault.startswith(f"lib/c.so, delta at {delta.o}: has another sha256 than signed")
    assert_whole(site, versions[2])


@pytest.mark.parametrize("damage", ["flip", "shorten", "unlink", "link", "pipe"])
def test_an_old_file_that_was_damaged_is_not_built_upon(site, versions, damage):
    site.install(versions[0])
    victim = site.store.tree(versions[0].id) / "lib" / "c.so"
    content = victim.read_bytes()
    victim.unlink()
    match damage:
        case "flip":
            victim.write_bytes(content[:-1] + b"?")
        case "shorten":
            victim.write_bytes(content[:-1])
        case "link":
            (victim.parent / "other").write_bytes(content)
            victim.symlink_to("other")
        case "pipe":
            os.mkfifo(victim)
    facts = site.install(versions[2])
    assert (facts.files_patched, facts.files_fetched, facts.deltas_failed) == (2, 2, 1)
    assert_whole(site, versions[2])


def install_signed(site: Site, release, signed: SignedManifest, **deltas: object) -> InstallFacts:
    """Install as if other things had been signed of the release's deltas."""
    offer = site.offer(release.id)
    changed = msgspec.structs.replace(release, deltas=msgspec.structs.replace(release.deltas, **deltas))
    offer = msgspec.convert(msgspec.to_builtins(offer) | {"release": msgspec.to_builtins(changed)}, type(offer))
    pack = MirrorSource(site.mirrors, changed.deltas.path, changed.deltas.length, pauses_s=())
    return install(site.store, offer, signed, site.source(release), StoreSettings(), pack=pack)


def test_deltas_of_a_format_nobody_knows_are_left_alone(site, server, versions):
    site.install(versions[0])
    signed = site.trust.fetch_manifest(site.offer(versions[2].id))
    facts = install_signed(site, versions[2], signed, format="xdelta9")
    assert (facts.files_patched, facts.files_fetched, facts.deltas_failed) == (0, 4, 0)
    assert versions[2].deltas.path not in server.paths()
    assert_whole(site, versions[2])


_SHA = st.sampled_from([hashlib.sha256(content).hexdigest() for content in (*V1.values(), *V3.values(), b"")])
_OFFSETS = st.one_of(st.integers(0, 1500), st.integers(0, 2**53 - 1))
_DELTAS = st.lists(st.builds(Delta, b=_SHA, o=_OFFSETS, z=_OFFSETS, h=_SHA), max_size=3).map(tuple)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_signed_of_deltas_the_installed_tree_is_the_signed_one(site, versions, data):
    site.install(versions[0])
    site.store.remove(versions[2].id)
    manifest = unpack_manifest(site.trust.fetch_manifest(site.offer(versions[2].id)).raw)
    entries = tuple(
        msgspec.structs.replace(entry, d=data.draw(st.one_of(_DELTAS, st.just(entry.d))))
        if isinstance(entry, File)
        else entry
        for entry in manifest.entries
    )
    signed = open_manifest(pack_manifest(Manifest(manifest.head, entries)), versions[2].artifact.length)
    facts = install_signed(site, versions[2], signed)
    assert facts.files_patched + facts.files_fetched == 4
    assert_whole(site, versions[2])
