"""Where files come from, and that both threads of an install together bring all of them."""

import hashlib
import threading

import pytest
import zstandard

from pps_agent.errors import FetchError
from pps_agent.frames import open_manifest
from pps_agent.origins import sort_files
from pps_agent.transfer import reception
from pps_wire.manifest import Directory, Entry, File, Head, Manifest, render_manifest
from tests.distribution.site import picture

BLOBS = [hashlib.shake_256(bytes([number])).digest(40_000) for number in range(30)]
TREE = {f"lib/{number:02}": content for number, content in enumerate(BLOBS)}


def test_a_content_that_moved_is_found_under_its_old_name(site, repository, server):
    site.install(repository.publish(TREE))
    moved = repository.publish({f"other/{name}": content for name, content in TREE.items()}, version="1.0.1")
    facts = site.install(moved)
    assert (facts.bytes_moved, facts.files_linked) == (0, len(TREE))
    assert site.store.installed()[moved.id].fault == ""


def test_a_damaged_donor_is_replaced_by_another_release_with_the_same_file(site, repository, server):
    releases = [repository.publish(TREE | {"n": bytes([n])}, version=f"1.0.{n}") for n in range(2)]
    for release in releases:
        site.install(release)
    victim = site.store.tree(releases[0].id) / "lib" / "05"
    victim.unlink()
    victim.write_bytes(BLOBS[5][:-1] + b"?")
    victim.chmod(0o444)
    third = repository.publish(TREE | {"n": b"3"}, version="1.0.3")
    facts = site.install(third)
    assert facts.files_fetched == 1
    assert (site.store.tree(third.id) / "lib" / "05").read_bytes() == BLOBS[5]


def test_what_is_here_is_taken_over_although_the_transfer_fails(site, repository, server):
    site.install(repository.publish(TREE))
    second = repository.publish(TREE | {"new": BLOBS[0] + b"!", "newer": BLOBS[1] + b"!"}, version="1.0.1")
    server.plant(second.artifact.path, truncate_to=1000)
    with pytest.raises(FetchError):
        site.install(second)
    (left,) = site.store.dead_staging(second.id)
    names = {name for name in picture(left / "tree") if name.startswith("lib/")}
    assert set(TREE) <= names
    server.heal()
    facts = site.install(second)
    assert (facts.files_resumed, facts.files_fetched) == (len(TREE), 2)


def test_what_must_be_fetched_is_given_anew_each_time_with_the_space_it_takes(site):
    entries: list[Entry] = [Directory("d")]
    for number, (content, executable) in enumerate([(b"a", False), (b"b", False), (b"a", True), (b"a", False)]):
        sha = hashlib.sha256(content).hexdigest()
        entries.append(File(p=f"d/{number}", s=5000, h=sha, o=100 * number, z=50, x=executable))
    head = Head(release="c-1-x86_64-glibc2.36", entries=len(entries), installed_bytes=20_000)
    raw = zstandard.compress(b"".join(render_manifest(Manifest(head, tuple(entries)))))
    origins = sort_files(site.store, open_manifest(raw), [])
    for _ in range(2):
        assert [file.p for file in origins] == ["d/0", "d/1"]
        assert [(file.p, first.p) for file, first in origins.twins()] == [("d/2", "d/0"), ("d/3", "d/0")]
    assert (origins.files, origins.fetched_files, origins.fetched_bytes) == (4, 2, 10_000)
    # two contents and a copy with another mode, 8 KiB each, and the directory
    assert origins.needed.size_bytes == 3 * 8192 + 4096 + 1024**2
    assert origins.needed.inodes == 3 + 1 + 8


def test_two_threads_that_drain_one_reception_get_every_file_once(site, repository, server):
    release = repository.publish(TREE)
    manifest = site.trust.fetch_manifest(site.offer(release.id))
    source = site.source(release)
    got: list[tuple[str, bytes]] = []
    with reception(list(manifest.files()), release.artifact.length, source) as arriving:

        def drain() -> None:
            arriving.drain(lambda file, blocks: got.append((file.p, b"".join(bytes(block) for block in blocks))))

        other = threading.Thread(target=drain)
        other.start()
        drain()
        other.join()
    assert sorted(got) == sorted(TREE.items())


def test_a_thread_that_fails_stops_the_others(site, repository, server):
    release = repository.publish(TREE)
    manifest = site.trust.fetch_manifest(site.offer(release.id))
    source = site.source(release)

    def fail(file: File, blocks: object) -> None:
        raise OSError(28, "No space left on device")

    with reception(list(manifest.files()), release.artifact.length, source) as arriving:
        with pytest.raises(OSError, match="No space"):
            arriving.drain(fail)
        taken: list[str] = []
        arriving.drain(lambda file, blocks: taken.append(file.p))
    assert taken == []
