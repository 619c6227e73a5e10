"""The agent behind a real squid that caches everything it may."""

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.errors import FetchError
from pps_agent.fetch import DIRECT, Fetcher
from tests.distribution.site import Site
from tests.support.repository import FaultyServer
from tests.support.services import need
from tests.support.squid import missing_reason, start_squid


@pytest.fixture(scope="session")
def squid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(missing_reason())
    with start_squid(tmp_path_factory.mktemp("squid")) as address:
        yield address


@pytest.fixture
def proxied(tmp_path: Path, repository, server, squid: str) -> Iterator[Site]:
    opened = Site(tmp_path / "proxied", repository.root_bytes, server.url, proxy=squid)
    yield opened
    opened.close()


def many_files() -> dict[str, bytes]:
    return {f"lib/{number}": random.Random(number).randbytes(20_000) for number in range(8)}


def test_an_install_and_an_update_by_ranges_work_through_squid(proxied, repository, server):
    first = repository.publish(many_files())
    proxied.install(first)
    changed = many_files() | {"lib/3": random.randbytes(9000), "lib/6": random.randbytes(7000)}
    second = repository.publish(changed, version="1.0.1")
    facts = proxied.install(second)
    assert facts.files_fetched == 2
    assert facts.bytes_moved < second.artifact.length
    assert any(request.range for request in server.requests if request.path == second.artifact.path)
    assert [seen.fault for seen in proxied.store.installed().values()] == ["", ""]


def test_what_never_changes_comes_from_the_cache_and_what_may_does_not(proxied, repository, server, squid, tmp_path):
    release = repository.publish(many_files())
    proxied.install(release)
    server.requests.clear()
    other = Site(tmp_path / "other", repository.root_bytes, server.url, proxy=squid)
    other.install(release)
    other.close()
    assert {"metadata/2.root.json", "metadata/timestamp.json"} == set(server.paths())


def test_a_stale_timestamp_in_a_cache_hides_nothing(proxied, repository, server, squid):
    repository.publish()
    address = f"{server.url}/metadata/timestamp.json"
    with Fetcher(5, squid) as fetcher:
        cached = fetcher.get(address, 100_000)
        second = repository.publish(version="1.0.1")
        assert cached == fetcher.get(address, 100_000), "this squid caches nothing, so the test shows nothing"
    assert second.id in {offer.release.id for offer in proxied.refresh().offers}


def test_a_spoilt_object_in_a_cache_is_fetched_past_it(proxied, repository, server, squid):
    release = repository.publish(many_files())
    path = next((repository.served / "targets" / "clients").rglob("*.zst")).relative_to(repository.served)
    server.plant(str(path), flip_at=40, times=1)
    with Fetcher(5, squid) as fetcher:
        fetcher.get(f"{server.url}/{path}", 1_000_000)
    proxied.install(release)
    assert [request.fresh for request in server.requests if request.path == str(path)] == [False, True]


def test_the_page_squid_sends_instead_is_never_content(tmp_path, repository, squid):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}", "http://repository.invalid"):
        site = Site(tmp_path / address.rpartition("/")[2], repository.root_bytes, address, proxy=squid)
        with pytest.raises(FetchError, match="answered 50") as caught:
            site.refresh()
        site.close()
        assert caught.value.exit_code == 75


def test_a_proxy_that_is_set_wins_over_the_environment(server: FaultyServer, squid, monkeypatch):
    (server.directory / "file").write_bytes(b"x")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for proxy in (squid, DIRECT):
        with Fetcher(5, proxy) as fetcher:
            assert fetcher.get(f"{server.url}/file", 1) == b"x"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.requests.clear()
    with Fetcher(5, "http://127.0.0.1:1") as fetcher, pytest.raises(FetchError, match="http_proxy"):
        fetcher.get(f"{server.url}/file", 1)
    assert server.requests == []
