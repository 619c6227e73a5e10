"""One repository at several addresses: every fault of one mirror, for every kind of object."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pps_agent.errors import AgentError, FetchError, TrustError
from pps_agent.fetch import Fetcher, Span
from pps_agent.mirror_source import MAX_BREAKS, MirrorSource, drop_bytes
from pps_agent.mirrors import (
    FIRST_PENALTY_S,
    MAX_PENALTY_S,
    Failure,
    Mirrors,
    Penalty,
    order_mirrors,
    parse_memory,
    penalise,
    summarize,
)
from tests.distribution.site import Site
from tests.distribution.test_fetch import answer_with, raw_server
from tests.distribution.test_trust import rotate_online_key
from tests.support.repository import FaultyServer, SmallRepository, serve

NOW = datetime.now(UTC)
BODIES = {f"lib/{number}": bytes([number]) * 10 + bytes(range(256)) * 500 for number in range(6)}


@pytest.fixture
def second(repository: SmallRepository) -> Iterator[FaultyServer]:
    """Another mirror of the same directory."""
    with serve(repository.served) as running:
        yield running


@pytest.fixture
def mirrored(tmp_path: Path, repository: SmallRepository, server: FaultyServer, second: FaultyServer) -> Iterator[Site]:
    opened = Site(tmp_path / "mirrored", repository.root_bytes, server.url, second.url, timeout_s=2)
    yield opened
    opened.close()


def random_files() -> dict[str, bytes]:
    import random

    source = random.Random(7)
    return {f"lib/{number}": source.randbytes(60_000) for number in range(6)}


def object_of(kind: str, repository: SmallRepository, release) -> str:
    """Give the path of one object of each kind."""
    if kind == "artifact":
        return release.artifact.path
    if kind == "manifest":
        found = next((repository.served / "targets" / "clients").rglob("*.zst"))
        return str(found.relative_to(repository.served))
    return "metadata/timestamp.json" if kind == "timestamp" else "metadata/2.snapshot.json"


FAULTS: dict[str, dict[str, object]] = {
    "404": {"status": 404},
    "410": {"status": 410},
    "416": {"status": 416},
    "500": {"status": 500},
    "503": {"status": 503},
    "short": {"truncate_to": 20},
    "wrong byte": {"flip_at": 90},
}
KINDS = ("timestamp", "snapshot", "manifest", "artifact")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_object_comes_from_the_next_mirror(mirrored, repository, server, second, fault, kind):
    release = repository.publish(random_files())
    path = object_of(kind, repository, release)
    fields = FAULTS[fault] | ({"flip_at": 30_000} if (fault, kind) == ("wrong byte", "artifact") else {})
    server.plant(path, **fields)
    with capture_logs() as logs:
        mirrored.install(release)
    assert mirrored.store.installed()[release.id].fault == ""
    assert path in second.paths()
    assert {"event": "mirror.failed", "mirror": server.url, "path": path}.items() <= logs[0].items()


def long_lie(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.02)


def hang(connection: socket.socket) -> None:
    connection.recv(1)


def page(connection: socket.socket) -> None:
    body = b"<html>log in first</html>"
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


BAD_SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "endless": long_lie,
    "dripping": drip,
    "silent": hang,
    "a portal's page": page,
    "wrong range": answer_with("HTTP/1.1 206 Partial Content\nContent-Length: 3\nContent-Range: bytes 7-9/10", b"abc"),
    "another scheme": answer_with("HTTP/1.1 302 Found\nLocation: ftp://x/y\nContent-Length: 0"),
    "no HTTP": answer_with("hello"),
    "nothing": lambda connection: None,
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_server_that_serves_nothing_right_is_passed_over_for_every_object(tmp_path, repository, server, name):
    release = repository.publish(random_files())
    with raw_server(BAD_SERVERS[name]) as bad:
        site = Site(tmp_path / "site", repository.root_bytes, bad, server.url, timeout_s=0.3)
        offer = site.offer(release.id)
        for attempt in (lambda: site.trust.fetch_manifest(offer), lambda: site.install(release)):
            # one penalty would be enough to ask the bad one last: every object meets it anew
            site.mirrors._penalties.clear()
            attempt()
        assert site.store.installed()[release.id].fault == ""
        site.close()


def test_a_mirror_that_is_down_is_passed_over(tmp_path, repository, server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    release = repository.publish()
    site = Site(tmp_path / "site", repository.root_bytes, f"http://127.0.0.1:{port}", server.url)
    site.install(release)
    site.close()


def test_the_primary_alone_is_asked_while_it_works(mirrored, repository, server, second):
    mirrored.install(repository.publish(random_files()))
    assert second.requests == []
    assert mirrored.mirrors.served.keys() == {server.url}


def test_a_refresh_that_finds_nothing_new_asks_one_mirror_twice(mirrored, repository, server, second):
    repository.publish()
    mirrored.refresh()
    server.requests.clear()
    mirrored.refresh()
    assert server.paths() == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert second.requests == []


# what is behind or ahead


@contextmanager
def frozen_copy(repository: SmallRepository, place: Path) -> Iterator[FaultyServer]:
    """A mirror that stays as the repository is now."""
    shutil.copytree(repository.served, place)
    with serve(place) as running:
        yield running


def test_a_mirror_that_is_behind_is_no_attack_while_another_has_the_newest(tmp_path, repository, server):
    first = repository.publish()
    with frozen_copy(repository, tmp_path / "old") as old:
        second = repository.publish(version="1.0.1")
        site = Site(tmp_path / "site", repository.root_bytes, server.url, old.url)
        site.refresh()
        site.mirrors.urls = (old.url, server.url)
        assert {first.id, second.id} == {offer.release.id for offer in site.refresh().offers}
        site.mirrors.urls = (old.url,)
        with pytest.raises(TrustError, match="timestamp version"):
            site.refresh()
        site.close()


def test_when_all_mirrors_are_behind_the_error_names_each(tmp_path, repository, server):
    repository.publish()
    with frozen_copy(repository, tmp_path / "a") as one, frozen_copy(repository, tmp_path / "b") as two:
        repository.publish(version="1.0.1")
        site = Site(tmp_path / "site", repository.root_bytes, server.url)
        newest = site.refresh()
        site.mirrors.urls = (one.url, two.url)
        with pytest.raises(TrustError, match="none of 2 mirrors gives it") as caught:
            site.refresh()
        assert str(caught.value).count("New timestamp version") == 2
        assert caught.value.exit_code == 4
        assert newest == site.load()
        site.close()


def test_a_mirror_that_is_behind_hides_neither_a_new_root_nor_what_it_signs(tmp_path, repository, server):
    repository.publish()
    with frozen_copy(repository, tmp_path / "old") as old:
        site = Site(tmp_path / "site", repository.root_bytes, old.url, server.url)
        site.refresh()
        release = repository.publish(version="1.0.1")
        rotate_online_key(repository)
        old.plant("metadata/timestamp.json", status=503)
        assert release.id in {offer.release.id for offer in site.refresh().offers}
        site.close()


def test_a_mirror_that_is_ahead_is_followed(tmp_path, repository, server):
    repository.publish()
    with frozen_copy(repository, tmp_path / "old") as old:
        release = repository.publish(version="1.0.1")
        site = Site(tmp_path / "site", repository.root_bytes, old.url, server.url)
        shutil.copy(repository.served / "metadata" / "timestamp.json", tmp_path / "old" / "metadata")
        assert release.id in {offer.release.id for offer in site.refresh().offers}
        assert site.install(release).files_fetched
        site.close()


def test_an_expired_mirror_is_passed_over_while_another_is_fresh(tmp_path, repository, server):
    from datetime import timedelta

    repository.publish()
    repository.refresh(now=NOW - timedelta(days=30))
    with frozen_copy(repository, tmp_path / "old") as old:
        repository.refresh(now=NOW)
        site = Site(tmp_path / "site", repository.root_bytes, old.url, server.url)
        assert len(site.refresh().offers) == 1
        site.close()


# frames and bodies


def frame_of(site: Site, release, name: str):
    manifest = site.trust.fetch_manifest(site.offer(release.id))
    return next(file for file in manifest.files() if file.p == name)


def test_of_a_bad_frame_only_that_frame_comes_from_another_mirror(mirrored, repository, server, second):
    release = repository.publish(random_files())
    frame = frame_of(mirrored, release, "lib/2")
    server.plant(release.artifact.path, flip_at=frame.o + frame.z // 2)
    facts = mirrored.install(release)
    assert mirrored.store.installed()[release.id].fault == ""
    assert facts.bytes_moved < 2 * release.artifact.length
    again = [request for request in second.requests if request.path == release.artifact.path]
    assert again
    assert f"bytes={frame.o}-{frame.o + frame.z - 1}" in {request.range for request in again}


def test_bytes_that_a_cache_spoilt_are_asked_for_once_more_past_it(site, repository, server):
    release = repository.publish(random_files())
    frame = frame_of(site, release, "lib/2")
    server.plant(release.artifact.path, flip_at=frame.o + frame.z // 2, times=1)
    manifest = object_of("manifest", repository, release)
    server.plant(manifest, flip_at=50, times=1)
    server.requests.clear()
    site.install(release)
    fresh = [request for request in server.requests if request.fresh and request.path == release.artifact.path]
    assert [f"bytes={frame.o}-{frame.o + frame.z - 1}"] == [request.range for request in fresh]
    assert [request.fresh for request in server.requests if request.path == manifest] == [False, True]


def test_only_what_may_change_is_asked_for_past_caches(site, repository, server):
    site.install(repository.publish())
    fresh = {request.path for request in server.requests if request.fresh}
    assert fresh == {"metadata/2.root.json", "metadata/timestamp.json"}


def test_an_artifact_that_nobody_has_right_names_every_mirror(mirrored, repository, server, second):
    release = repository.publish(random_files())
    offset = frame_of(mirrored, release, "lib/2").o + 20
    for mirror in (server, second):
        mirror.plant(release.artifact.path, flip_at=offset)
    with pytest.raises(TrustError, match=r"^lib/2, frame at"):
        mirrored.install(release)
    (repository.served / release.artifact.path).unlink()
    for mirror in (server, second):
        mirror.heal()
    with pytest.raises(FetchError, match="none of 2 mirrors gives it") as caught:
        mirrored.install(release)
    assert caught.value.exit_code == 69
    assert server.url in str(caught.value)
    assert second.url in str(caught.value)


def test_a_broken_body_goes_on_at_the_byte_it_broke_off(site, repository, server):
    release = repository.publish(random_files())
    half = release.artifact.length // 2
    server.plant(release.artifact.path, truncate_to=half, times=1)
    facts = site.install(release)
    asked = [request for request in server.requests if request.path == release.artifact.path]
    assert [None, f"bytes={half}-{release.artifact.length - 1}"] == [request.range for request in asked]
    assert release.artifact.length == facts.bytes_moved


def test_another_mirror_goes_on_where_one_broke_off(mirrored, repository, server, second):
    release = repository.publish(random_files())
    half = release.artifact.length // 2
    server.plant(release.artifact.path, truncate_to=half, times=1)
    server.plant(release.artifact.path, status=503)
    assert release.artifact.length == mirrored.install(release).bytes_moved
    assert {server.url: half}.items() <= mirrored.mirrors.served.items() or mirrored.mirrors.served[server.url] > half
    assert f"bytes={half}-{release.artifact.length - 1}" in {request.range for request in second.requests}


def test_a_mirror_that_always_breaks_off_is_given_up(tmp_path):
    (tmp_path / "file").write_bytes(bytes(10_000))
    with serve(tmp_path) as server, Fetcher(5) as fetcher:
        server.plant("file", truncate_to=10)
        source = MirrorSource(Mirrors(fetcher, [server.url]), "file", 10_000, pauses_s=())
        with pytest.raises(FetchError, match="broke off after 10 bytes"):
            list(source.read((Span(0, 10_000),)))
        assert len(server.requests) == MAX_BREAKS + 1


def test_a_server_that_restarts_in_the_middle_is_waited_for(tmp_path):
    content = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(content)
    with Fetcher(5) as fetcher:
        with serve(tmp_path) as first:
            port = first.server_address[1]
            first.plant("file", truncate_to=50_000)
            source = MirrorSource(Mirrors(fetcher, [first.url]), "file", len(content), pauses_s=(0.05, 10))
            pieces = source.read((Span(0, len(content)),))
            got = next(pieces)
            while len(got) < 50_000:
                got += next(pieces)
        again: list[FaultyServer] = []

        def restart() -> None:
            server = FaultyServer(tmp_path, port)
            again.append(server)
            threading.Thread(target=server.serve_forever, daemon=True).start()

        timer = threading.Timer(0.3, restart)
        timer.start()
        source._pauses_s = [0.6, 0.6, 0.6]
        assert content == got + b"".join(pieces)
        timer.join()
        assert [request.range for request in again[0].requests] == [f"bytes=50000-{len(content) - 1}"]
        again[0].shutdown()
        again[0].server_close()


def test_parts_are_preferred_to_a_whole_file_which_serves_when_nobody_gives_parts(tmp_path):
    content = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(content)
    spans = (Span(10, 20), Span(5000, 6000))
    wanted = content[10:20] + content[5000:6000]
    with serve(tmp_path) as one, serve(tmp_path) as two, Fetcher(5) as fetcher:
        one.plant("file", ignore_range=True)
        mirrors = Mirrors(fetcher, [one.url, two.url])
        assert wanted == b"".join(MirrorSource(mirrors, "file", len(content)).read(spans))
        assert len(wanted) == mirrors.served[two.url]
        assert mirrors.order() == (one.url, two.url)
        two.plant("file", ignore_range=True)
        assert wanted == b"".join(MirrorSource(mirrors, "file", len(content)).read(spans))


@given(st.lists(st.integers(1, 50), max_size=6), st.integers(0, 400))
def test_dropping_bytes_leaves_exactly_the_rest(sizes, count):
    spans = tuple(Span(100 * number, 100 * number + size) for number, size in enumerate(sizes))
    offsets = [offset for span in spans for offset in range(span.start, span.end)]
    left = [offset for span in drop_bytes(spans, count) for offset in range(span.start, span.end)]
    assert offsets[count:] == left


# penalties


def test_a_mirror_that_failed_is_asked_last_until_its_penalty_is_over():
    penalty = penalise(None, 1000)
    assert order_mirrors(("a", "b"), {"a": penalty}, 1000) == ("b", "a")
    assert order_mirrors(("a", "b"), {"a": penalty}, 1000 + FIRST_PENALTY_S) == ("a", "b")
    assert order_mirrors(("a", "b"), {"a": penalty, "b": penalty}, 1000) == ("a", "b")


def test_a_penalty_grows_to_its_cap_and_no_further():
    penalty = None
    lengths = []
    for _ in range(2000):
        penalty = penalise(penalty, 0)
        lengths.append(penalty.until)
    assert lengths[:3] == [FIRST_PENALTY_S, 2 * FIRST_PENALTY_S, 4 * FIRST_PENALTY_S]
    assert lengths[-1] == MAX_PENALTY_S


@given(
    st.lists(st.sampled_from("abcd"), unique=True, min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.builds(Penalty, failures=st.integers(), until=st.floats())),
    st.floats(0, 1e10),
)
def test_every_mirror_is_asked_whatever_is_remembered(urls, penalties, now):
    assert sorted(urls) == sorted(order_mirrors(urls, penalties, now))


@given(st.binary())
def test_a_damaged_memory_is_none(raw):
    assert isinstance(parse_memory(raw), dict)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b'{"a": 1}', b'{"a": {"failures": 1}}', b"[" * 60_000, b"\xff"])
def test_what_cannot_be_read_is_no_penalty(raw):
    assert parse_memory(raw) == {}


def test_penalties_are_kept_for_the_next_process_and_forgiven_by_success(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(b"x")
    memory = tmp_path / "cache" / "mirrors.json"
    with serve(tmp_path / "www") as one, serve(tmp_path / "www") as two, Fetcher(5) as fetcher:
        urls = (one.url, two.url)
        one.plant("file", status=500)
        with Mirrors(fetcher, urls, memory) as mirrors:
            mirrors.fetch("file", 1)
        assert list(json.loads(memory.read_bytes())) == [one.url]
        one.heal()
        two.plant("file", status=500)
        with Mirrors(fetcher, urls, memory) as mirrors:
            assert mirrors.order() == (two.url, one.url)
            mirrors.fetch("file", 1)
            assert mirrors.order() == (one.url, two.url)
        assert list(json.loads(memory.read_bytes())) == [two.url]


@pytest.mark.parametrize("in_the_way", ["file", "directory"])
def test_a_memory_that_cannot_be_kept_harms_nothing(tmp_path, in_the_way):
    (tmp_path / "file").write_bytes(b"x")
    memory = tmp_path / "cache" / "mirrors.json"
    if in_the_way == "file":
        memory.parent.write_text("")
    else:
        memory.mkdir(parents=True)
    with serve(tmp_path) as server, Fetcher(5) as fetcher, Mirrors(fetcher, ["http://[bad", server.url], memory) as m:
        assert m.fetch("file", 1) == b"x"


def test_one_address_needs_no_memory(tmp_path, repository, site, server):
    server.plant("metadata/timestamp.json", status=500)
    with pytest.raises(FetchError):
        site.refresh()
    site.mirrors.save()
    assert not (site.base / "cache").exists()


ERRORS: list[AgentError] = [TrustError("t"), FetchError("gone", permanent=True), FetchError("down")]


@pytest.mark.parametrize(
    ("numbers", "code"), [((0, 1), 4), ((0, 2), 4), ((1, 1), 69), ((1, 2), 75), ((2, 2), 75), ((1,), 69)]
)
def test_the_error_of_all_mirrors_is_what_may_help(numbers, code):
    failures = [Failure(f"http://{number}", ERRORS[number]) for number in numbers]
    error = summarize("path", failures)
    assert error.exit_code == code
    assert all(str(failure.error) in str(error) for failure in failures)
