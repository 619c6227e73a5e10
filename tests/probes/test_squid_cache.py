"""squid.cache through a real squid, and through proxies that are none."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_wire.report import Status
from tests.support.origins import Asked, Origin, Reply, start_origin
from tests.support.plugins import Said, oldest_python, run_plugin
from tests.support.services import need
from tests.support.squid import missing_reason, start_squid

CACHEABLE = Reply(content=b"published", headers={"Cache-Control": "max-age=60"})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with start_origin(lambda _: CACHEABLE) as running:
        yield running


@pytest.fixture(scope="module")
def squid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(missing_reason())
    with start_squid(tmp_path_factory.mktemp("squid")) as address:
        yield address


def look(origin: Origin, proxies: str, python: str = "", **env: str) -> Said:
    env = {"PPS_SQUID_URL": f"{origin.address}/cvmfs/x/.cvmfspublished", "PPS_SQUID_PROXIES": proxies, **env}
    return run_plugin("squid.cache", python=python, **env)


def closed() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_a_proxy_fetches_anew_when_told_to_and_then_gives_it_from_its_cache(squid: str, origin: Origin) -> None:
    first, second = look(origin, squid), look(origin, squid)
    assert [first.status, second.status] == [Status.OK, Status.OK], (first, second)
    assert first.text == f"MISS then HIT through {squid.removeprefix('http://')}"
    assert list(first.perfdata) == ["miss1", "hit1", "total", "age1", "good"]
    assert [asked.path for asked in origin.asked] == ["/cvmfs/x/.cvmfspublished"] * 2


def test_it_works_under_the_oldest_python(squid: str, origin: Origin) -> None:
    if not oldest_python():
        pytest.skip("no Python 3.9 here")
    assert look(origin, squid, oldest_python()).status is Status.OK


@pytest.mark.parametrize(
    ("variable", "form"),
    [
        ("http_proxy", "{0}"),
        ("CVMFS_HTTP_PROXY", "{0}|{0};DIRECT"),
        ("CVMFS_HTTP_PROXY", "auto;{0}/"),
        ("FRONTIER_SERVER", "(serverurl=http://f.example.org:8000/F)(proxyurl={0})(failovertoserver=no)"),
        ("PPS_SQUID_PROXIES", " {0} , {0} "),
    ],
)
def test_lists_are_read_as_sites_write_them(squid: str, origin: Origin, variable: str, form: str) -> None:
    said = run_plugin("squid.cache", **{"PPS_SQUID_URL": f"{origin.address}/x", variable: form.format(squid)})
    assert (said.status, said.perfdata["good"]) == (Status.OK, 1), said


def test_host_and_port_may_come_apart(squid: str, origin: Origin) -> None:
    host, port = squid.removeprefix("http://").split(":")
    assert look(origin, host, PPS_SQUID_PORT=port).status is Status.OK


def test_one_of_two_proxies_that_is_down_is_a_warning_unless_both_are_needed(squid: str, origin: Origin) -> None:
    proxies = f"{closed()};{squid}"
    said = look(origin, proxies)
    assert (said.status, "miss1: Connection refused; MISS then HIT" in said.text) == (Status.WARNING, True), said
    assert (list(said.perfdata), said.perfdata["good"]) == (["miss1", "miss2", "hit2", "total", "age2", "good"], 1)
    assert look(origin, proxies, PPS_SQUID_MIN="2").status is Status.CRITICAL


def test_proxies_that_are_all_down_are_critical(origin: Origin) -> None:
    assert look(origin, f"{closed()}|{closed()}").status is Status.CRITICAL


def test_a_proxy_that_refuses_us_is_critical(origin: Origin, tmp_path: Path) -> None:
    need(missing_reason())
    with start_squid(tmp_path, access="deny") as address:
        said = look(origin, address)
    assert (said.status, "the proxy refuses us or the file: ERR_ACCESS_DENIED" in said.text) == (Status.CRITICAL, True)


def test_a_proxy_that_does_not_cache_is_critical(origin: Origin, tmp_path: Path) -> None:
    need(missing_reason())
    with start_squid(tmp_path, more="cache deny all") as address:
        said = look(origin, address)
    assert (said.status, said.text.endswith("MISS twice: it does not cache")) == (Status.CRITICAL, True), said


def test_a_proxy_that_ignores_no_cache_is_asked_for_what_nobody_asked_before(origin: Origin, tmp_path: Path) -> None:
    need(missing_reason())
    with start_squid(tmp_path, more="refresh_pattern . 60 100% 60 ignore-reload") as address:
        said = [look(origin, address).status for _ in range(2)]
    assert said == [Status.OK] * 2
    assert ["?pps=" in asked.path for asked in origin.asked] == [False, True]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(404), "does not come: HTTP 404"),
        (Reply(500), "does not come: HTTP 500"),
        (Reply(content=b"x", headers={"Cache-Control": "no-store"}), "the file may not be cached (no-store)"),
        (Reply(content=b"x", headers={"Cache-Control": "private"}), "the file may not be cached (private)"),
        (Reply(content=bytes(4194305)), "the file has more than 4194304 bytes"),
    ],
)
def test_what_is_the_origin_s_fault_is_unknown(squid: str, origin: Origin, reply: Reply, words: str) -> None:
    origin.answer = lambda _: reply
    said = look(origin, squid)
    assert (said.status, words in said.text) == (Status.UNKNOWN, True), said


def test_an_origin_that_is_down_is_unknown(squid: str, origin: Origin) -> None:
    said = look(origin, squid, PPS_SQUID_URL=f"{closed()}/x")
    assert (said.status, "does not come: HTTP 503 ERR_CONNECT_FAIL" in said.text) == (Status.UNKNOWN, True), said


def test_a_web_server_in_a_proxy_s_place_is_critical(origin: Origin) -> None:
    said = look(origin, origin.address)
    assert (said.status, "is it a caching proxy?" in said.text) == (Status.CRITICAL, True), said


def test_different_bytes_are_critical(origin: Origin) -> None:
    def answer(asked: Asked) -> Reply:
        fresh = "no-cache" in asked.headers.get("cache-control", "")
        return Reply(
            content=b"new" if fresh else b"older", headers={"X-Cache": "MISS from x" if fresh else "HIT from x"}
        )

    origin.answer = answer
    said = look(origin, origin.address)
    assert (said.status, "two fetches gave different bytes (3 and 5)" in said.text) == (Status.CRITICAL, True), said


def test_a_proxy_that_cuts_the_file_is_critical(origin: Origin) -> None:
    origin.answer = lambda _: Reply(content=b"short", headers={"X-Cache": "MISS from x"}, length=9)
    said = look(origin, origin.address)
    assert (said.status, "IncompleteRead" in said.text or "5 bytes came of 9" in said.text) == (Status.CRITICAL, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Cache": "HIT from a, MISS from near"}, Status.CRITICAL),
        ({"Cache-Status": "far; hit, near; fwd=uri-miss"}, Status.CRITICAL),
        ({"X-Cache": "TCP_MEM_HIT from x"}, Status.CRITICAL),
        ({"X-Cache": "HIT from x"}, Status.CRITICAL),
    ],
)
def test_the_nearest_proxy_s_word_counts_and_always_hit_is_a_lie(
    origin: Origin, headers: dict[str, str], status: Status
) -> None:
    origin.answer = lambda _: Reply(content=b"x", headers=headers)
    said = look(origin, origin.address)
    always_hit = "X-Cache" in headers and "HIT" in headers["X-Cache"].split(",")[-1]
    words = "says HIT for what nobody can have asked for" if always_hit else "MISS twice"
    assert (said.status, words in said.text) == (status, True), said


def test_a_proxy_that_never_answers_is_critical_within_the_step_s_limit(origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = look(origin, f"127.0.0.1:{silent.getsockname()[1]}", PPS_STEP_LIMIT_S="0.5")
    assert (said.status, "miss1: did not end within 0.5 s" in said.text) == (Status.CRITICAL, True), said


def test_slow_proxies_are_a_warning(squid: str, origin: Origin) -> None:
    said = look(origin, squid, PPS_SQUID_WARN_S="0.000001")
    assert (said.status, said.text.startswith("it took ")) == (Status.WARNING, True)


@pytest.mark.parametrize("proxies", ["", "DIRECT", "ftp://x:1", "x:99999", "user:word@x:1"])
def test_a_list_without_a_proxy_is_unknown_and_no_password_is_repeated(origin: Origin, proxies: str) -> None:
    said = look(origin, proxies)
    assert (said.status, "word@" in said.text) == (Status.UNKNOWN, False)
