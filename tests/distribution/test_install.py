"""Installing: what lands, what is moved, and that nothing is half-done when something goes wrong."""

import hashlib
import os
from collections.abc import Callable

import pytest
import zstandard

from pps_agent.errors import AgentError, FetchError, SiteError, TrustError
from pps_agent.frames import open_manifest
from pps_agent.install import install
from pps_agent.settings import StoreSettings
from pps_agent.store import Store
from pps_wire.errors import WireError
from pps_wire.manifest import Directory, File, Head, Manifest, render_manifest
from pps_wire.paths import MAX_DEPTH
from tests.distribution.site import Site, picture
from tests.support.repository import DEFAULT_FILES, FaultyServer, LinkTo, Program

RANDOM = [hashlib.shake_256(bytes([number])).digest(150_000) for number in range(8)]
LARGE = {f"lib/{number}": content for number, content in enumerate(RANDOM)}


def artifact_of(release) -> str:
    return release.artifact.path


def test_what_lands_is_what_was_published_read_only(site, repository):
    facts = site.install(repository.publish())
    (release,) = site.store.installed()
    expected = {
        "bin": ("40755", ""),
        "bin/hello": ("100555", hashlib.sha256(DEFAULT_FILES["bin/hello"].content).hexdigest()),
        "bin/hi": ("120777", "hello"),
        "etc": ("40755", ""),
        "etc/hello.conf": ("100444", hashlib.sha256(DEFAULT_FILES["etc/hello.conf"]).hexdigest()),
        "share": ("40755", ""),
        "share/empty": ("100444", hashlib.sha256().hexdigest()),
    }
    assert expected == picture(site.store.tree(release))
    assert (facts.files_fetched, facts.files_resumed) == (2, 0)
    assert list(site.store.staging.iterdir()) == []


def test_modes_do_not_depend_on_the_umask(site, repository):
    before = os.umask(0o077)
    try:
        site.install(repository.publish())
    finally:
        os.umask(before)
    (release,) = site.store.installed()
    assert site.store.installed()[release].fault == ""
    assert picture(site.store.tree(release))["bin"] == ("40755", "")


def test_a_first_install_is_one_request_for_the_whole_artifact(site, repository, server):
    release = repository.publish(LARGE)
    facts = site.install(release)
    assert (1, release.artifact.length) == (facts.requests, facts.bytes_moved)
    assert [request.range for request in server.requests if request.path == artifact_of(release)] == [None]


def test_an_install_of_what_is_installed_moves_nothing(site, repository, server):
    release = repository.publish()
    site.install(release)
    before = picture(site.store.root)
    facts = site.install(release)
    assert (facts.bytes_moved, facts.requests, facts.files_fetched) == (0, 0, 0)
    assert before == picture(site.store.root)


def test_an_update_moves_only_the_changed_frames_and_shares_the_rest(site, repository, server):
    first = repository.publish(LARGE)
    site.install(first)
    changed = LARGE | {"lib/3": RANDOM[3][:-1] + b"!", "lib/new": b"new" * 100}
    second = repository.publish(changed, version="1.0.1")
    facts = site.install(second)
    frames = sum(file.z for file in site.store.manifest(second.id).files() if file.p in ("lib/3", "lib/new"))
    assert frames <= facts.bytes_moved <= 1.02 * frames
    assert (facts.files_fetched, facts.files_linked) == (2, 7)
    old, new = (site.store.tree(release.id) / "lib" / "1" for release in (first, second))
    assert old.stat().st_ino == new.stat().st_ino
    for release, files in ((first, LARGE), (second, changed)):
        tree = site.store.tree(release.id)
        assert files == {name: (tree / name).read_bytes() for name in files}


def test_the_same_content_with_and_without_the_executable_bit_is_not_shared(site, repository):
    first = repository.publish({"a": b"same" * 5000})
    second = repository.publish({"a": Program(b"same" * 5000), "b": b"same" * 5000}, version="1.0.1")
    site.install(first)
    facts = site.install(second)
    assert facts.bytes_moved == 0
    modes = {name: mode for name, (mode, _) in picture(site.store.tree(second.id)).items()}
    assert modes == {"a": "100555", "b": "100444"}


def test_content_that_stands_twice_is_fetched_once(site, repository):
    facts = site.install(repository.publish({"a": RANDOM[0], "b": RANDOM[0], "c": Program(RANDOM[0]), "d": RANDOM[1]}))
    assert (facts.files_fetched, facts.files_linked) == (2, 2)
    (seen,) = site.store.installed().values()
    assert seen.fault == ""


def test_a_damaged_file_of_another_release_is_not_taken_over(site, repository):
    first = repository.publish(LARGE)
    site.install(first)
    victim = site.store.tree(first.id) / "lib" / "1"
    victim.chmod(0o644)
    victim.write_bytes(RANDOM[1][:-1] + b"?")
    victim.chmod(0o444)
    second = repository.publish(LARGE | {"extra": b"x"}, version="1.0.1")
    site.install(second)
    assert (site.store.tree(second.id) / "lib" / "1").read_bytes() == RANDOM[1]


def test_a_damaged_release_is_mended_and_only_the_damage_is_fetched(site, repository):
    release = repository.publish(LARGE)
    site.install(release)
    site.store.switch(release.component, release.id)
    (site.store.path(release.id) / "env.sh").write_text("belongs to the environment")
    (site.store.tree(release.id) / "lib" / "1").unlink()
    assert site.store.installed()[release.id].fault
    facts = site.install(release)
    assert (facts.files_fetched, facts.files_linked) == (1, 7)
    assert site.store.installed()[release.id].fault == ""
    assert list(site.store.staging.iterdir()) == []


def test_a_release_whose_description_was_lost_is_made_anew(site, repository):
    release = repository.publish(LARGE)
    site.install(release)
    (site.store.path(release.id) / "release.json").unlink()
    facts = site.install(release)
    assert facts.files_fetched == 0
    assert list(site.store.installed()) == [release.id]


@pytest.mark.parametrize("sync", ["syncfs", "files"])
def test_both_ways_to_be_durable_give_the_same_tree(site, repository, sync):
    release = repository.publish(LARGE | {"deep/er/file": b"x", "deep/link": LinkTo("er/file")})
    site.install(release, StoreSettings(sync=sync))
    assert site.store.installed()[release.id].fault == ""


def test_a_server_without_ranges_still_serves_an_update(site, repository, server):
    site.install(repository.publish(LARGE))
    second = repository.publish(LARGE | {"lib/2": RANDOM[2] + b"!", "lib/6": RANDOM[6] + b"!"}, version="1.0.1")
    server.plant(artifact_of(second), ignore_range=True)
    facts = site.install(second)
    assert (facts.requests, facts.files_fetched) == (1, 2)
    assert site.store.installed()[second.id].fault == ""


def test_progress_ends_at_the_total(site, repository):
    told = []
    site.install(repository.publish(LARGE), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (8 * 150_000, 8 * 150_000)
    assert told == sorted(told)


# --- bad input: the documented error, nothing lost or half-done -------------------------------------


def assert_refused(site: Site, attempt: Callable[[], object], error: type[Exception], code: int, words: str) -> str:
    """An attempt fails as documented, and what is installed and current is as before."""
    installed, current, trees = site.store.installed(), site.store.current(), picture(site.store.releases)
    with pytest.raises(error, match=words) as caught:
        attempt()
    if isinstance(caught.value, AgentError):
        assert code == caught.value.exit_code
    assert (installed, current, trees) == (site.store.installed(), site.store.current(), picture(site.store.releases))
    return str(caught.value)


@pytest.fixture
def installed(site, repository):
    """A release that is installed and current, so that there is something to lose."""
    release = repository.publish()
    site.install(release)
    site.store.switch(release.component, release.id)
    return release


def break_off(server: FaultyServer, release, part: float) -> None:
    """Let the artifact end after a part of it, and not be had any more until healed."""
    server.plant(artifact_of(release), truncate_to=int(release.artifact.length * part), times=1)
    server.plant(artifact_of(release), status=503)


def test_a_tampered_frame_names_the_file_and_is_fetched_again_when_healed(site, repository, server, installed):
    release = repository.publish(LARGE, version="1.0.1")
    frame = next(file for file in site.trust.fetch_manifest(site.offer(release.id)).files() if file.p == "lib/5")
    server.plant(artifact_of(release), flip_at=frame.o + frame.z // 2)
    words = f"^lib/5, frame at {frame.o}: .*have it copied again"
    assert_refused(site, lambda: site.install(release), TrustError, 4, words)
    server.heal()
    facts = site.install(release)
    assert (facts.files_fetched, facts.files_resumed) == (1, 7)
    assert site.store.installed()[release.id].fault == ""


def test_a_truncated_body_is_resumed_where_it_broke_off(site, repository, server, installed):
    release = repository.publish(LARGE, version="1.0.1")
    break_off(server, release, 0.5)
    assert_refused(site, lambda: site.install(release), FetchError, 75, "answered 503")
    server.heal()
    facts = site.install(release)
    assert facts.files_resumed >= 3
    assert facts.bytes_moved < 0.65 * release.artifact.length
    assert list(site.store.staging.iterdir()) == []


def test_a_try_that_fails_again_leaves_only_one_try_behind(site, repository, server, installed):
    release = repository.publish(LARGE, version="1.0.1")
    for part in (0.3, 0.3, 0.3):
        break_off(server, release, part)
        assert_refused(site, lambda: site.install(release), FetchError, 75, "answered 503")
        server.heal()
        assert len(list(site.store.staging.iterdir())) == 1
    assert site.install(release).files_resumed >= 5


def test_files_of_a_broken_off_try_that_went_bad_are_fetched_again(site, repository, server):
    release = repository.publish(LARGE)
    break_off(server, release, 0.5)
    assert_refused(site, lambda: site.install(release), FetchError, 75, "answered 503")
    server.heal()
    (left,) = site.store.dead_staging(release.id)
    victim = left / "tree" / "lib" / "0"
    victim.chmod(0o644)
    victim.write_bytes(bytes(150_000))
    site.install(release)
    assert (site.store.tree(release.id) / "lib" / "0").read_bytes() == RANDOM[0]


def test_an_artifact_that_is_gone_is_a_permanent_error(site, repository, server, installed):
    release = repository.publish(LARGE, version="1.0.1")
    (repository.served / artifact_of(release)).unlink()
    assert_refused(site, lambda: site.install(release), FetchError, 69, "answered 404")


def test_an_artifact_of_another_length_is_refused(site, repository, installed):
    release = repository.publish(LARGE, version="1.0.1")
    path = repository.served / artifact_of(release)
    path.write_bytes(path.read_bytes()[:-10])
    assert_refused(site, lambda: site.install(release), FetchError, 75, "where .* bytes are signed")


def _with_manifest(site: Site, release, manifest: Manifest) -> Callable[[], object]:
    offer = site.offer(release.id)
    raw = zstandard.compress(b"".join(render_manifest(manifest)))

    def attempt() -> None:
        signed = open_manifest(raw, release.artifact.length)
        install(site.store, offer, signed, site.source(release), StoreSettings())

    return attempt


def _spoiled(site: Site, release, path: str, **fields: object) -> Manifest:
    import msgspec

    manifest = site.trust.fetch_manifest(site.offer(release.id))
    entries = tuple(msgspec.structs.replace(e, **fields) if e.p == path else e for e in manifest.entries())
    size = sum(entry.s for entry in entries if isinstance(entry, File))
    return Manifest(msgspec.structs.replace(manifest.head, installed_bytes=size), entries)


def test_a_frame_that_unpacks_to_more_than_signed_is_stopped(site, repository, installed):
    release = repository.publish({"zeros": bytes(5_000_000), "b": b"b" * 100}, version="1.0.1")
    attempt = _with_manifest(site, release, _spoiled(site, release, "zeros", s=1000))
    assert_refused(site, attempt, TrustError, 4, r"^zeros, frame at \d+: .* where 1000 are signed")


def test_a_frame_with_too_large_a_window_is_refused(site, repository, server, installed):
    release = repository.publish({"a": b"a" * 1000}, version="1.0.1")
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27, write_content_size=False)
    worker = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = worker.compress(b"a" * 1000) + worker.flush()
    path = repository.served / artifact_of(release)
    content = path.read_bytes()
    path.write_bytes((frame + content[len(frame) :])[: len(content)])
    attempt = _with_manifest(site, release, _spoiled(site, release, "a", o=0, z=len(frame)))
    assert_refused(site, attempt, TrustError, 4, "window of 134217728 bytes")


def test_overlapping_frames_and_an_empty_file_that_is_not_are_refused(site, repository, installed):
    release = repository.publish({"a": RANDOM[0], "b": RANDOM[1]}, version="1.0.1")
    attempt = _with_manifest(site, release, _spoiled(site, release, "b", o=600))
    assert_refused(site, attempt, WireError, 7, "overlaps")
    attempt = _with_manifest(site, release, _spoiled(site, release, "b", s=0))
    assert_refused(site, attempt, WireError, 7, "sha256 of nothing")


def test_a_tree_that_is_too_deep_is_refused(site, repository, installed):
    release = repository.publish({"a": b"a"}, version="1.0.1")
    deep = tuple(Directory("/".join(["d"] * depth)) for depth in range(1, MAX_DEPTH + 2))
    manifest = Manifest(Head(release=release.id, entries=len(deep), installed_bytes=0), deep)
    assert_refused(site, _with_manifest(site, release, manifest), WireError, 7, "deeper than")


def test_the_deepest_allowed_tree_is_installed_and_removed(site, repository):
    release = repository.publish({"/".join([*["d"] * (MAX_DEPTH - 1), "f"]): b"deep"})
    site.install(release)
    assert site.store.installed()[release.id].fault == ""
    site.store.remove(release.id)
    assert site.store.installed() == {}


def test_too_large_a_release_is_refused_with_figures_before_a_byte_is_fetched(site, repository, server, installed):
    release = repository.publish(LARGE, version="1.0.1")
    offer = site.offer(release.id)
    signed = site.trust.fetch_manifest(offer)
    server.requests.clear()
    limits = StoreSettings(max_bytes=1_000_000)
    message = assert_refused(
        site, lambda: install(site.store, offer, signed, site.source(release), limits), SiteError, 6, "max_bytes"
    )
    assert "takes 1200000 bytes, store.max_bytes allows 1000000" in message
    assert server.paths() == []


def test_an_unwritable_store_is_a_site_error(site, repository, installed):
    release = repository.publish(LARGE, version="1.0.1")
    offer = site.offer(release.id)
    signed = site.trust.fetch_manifest(offer)
    broken = Store(site.base / "broken")
    broken.ensure()
    broken.staging.rmdir()
    broken.staging.write_text("in the way")
    with pytest.raises(SiteError) as caught:
        install(broken, offer, signed, site.source(release), StoreSettings())
    assert caught.value.exit_code == 6
