"""``/metrics``: for the machine itself, one path, whatever callers do; and the file for node_exporter."""

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from pps_agent.errors import SiteError
from pps_agent.probes.exposition import CONTENT_TYPE
from pps_agent.probes.metrics_port import MetricsPort, save_textfile
from pps_agent.probes.metrics_server import MAX_CALLERS, MAX_REQUEST_BYTES, serve_metrics

TEXT = "pps_probe_status 0\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve_metrics(0, lambda: TEXT) as chosen:
        yield chosen


def ask(port: int, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def send(port: int, raw: bytes) -> bytes:
    """Send bytes as they are; give all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_the_newest_results_are_served_as_prometheus_wants_them(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert (response.status, response.getheader("Content-Type"), response.read().decode()) == (
            200,
            CONTENT_TYPE,
            TEXT,
        )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:9100"])
def test_this_machine_may_name_itself_in_each_way(port, host):
    assert ask(port, Host=host) == (200, TEXT)


def test_a_page_that_was_led_here_under_another_name_gets_nothing(port):
    assert ask(port, Host="attacker.example.org")[0] == 421
    assert send(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/../etc/passwd", "//metrics", "/federate", "*"])
def test_there_is_no_other_path(port, path):
    assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get"])
def test_nothing_can_be_changed(port, method):
    assert ask(port, method=method)[0] == 405


def test_a_head_request_gets_the_head(port):
    assert send(port, b"HEAD /metrics HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("raw", [b"\x00" * 100 + b"\r\n\r\n", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe GET\n\n"])
def test_what_is_no_request_is_answered_and_forgotten(port, raw):
    assert send(port, raw).startswith(b"HTTP/1.1 4")
    assert ask(port) == (200, TEXT)


def test_a_request_without_end_is_cut_off(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (4 * MAX_REQUEST_BYTES))
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert ask(port) == (200, TEXT)


def test_callers_who_say_nothing_are_sent_away_and_then_others_are_served(port):
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(3 * MAX_CALLERS)
        ]
        for connection in silent:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1) == b""
    assert ask(port) == (200, TEXT)


def test_it_listens_on_loopback_only(port):
    with Path(f"/proc/{os.getpid()}/net/tcp").open() as table:
        mine = [
            line.split()[1] for line in table if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        ]
    assert mine == [f"0100007F:{port:04X}"]


def test_a_port_that_is_taken_is_the_administrators(port):
    with pytest.raises(SiteError, match=r"choose another probes\.metrics_port"), serve_metrics(port, lambda: TEXT):
        pass


def test_asking_again_and_again_renders_once():
    asked = []
    with serve_metrics(0, lambda: f"asked {asked.append(1) or len(asked)}\n") as port:
        assert [ask(port)[1] for _ in range(3)] == ["asked 1\n"] * 3


def test_the_thread_and_the_port_are_gone_at_the_end():
    before = threading.active_count()
    with serve_metrics(0, lambda: TEXT) as port:
        assert ask(port) == (200, TEXT)
    assert threading.active_count() <= before + 1
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_the_textfile_is_replaced_in_one_step(tmp_path):
    file = tmp_path / "pps.prom"
    file.write_text("old 1\n")
    with file.open() as reader:
        save_textfile(file, TEXT)
        assert (reader.read(), file.read_text(), file.stat().st_mode & 0o777) == ("old 1\n", TEXT, 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["pps.prom"]


def test_a_directory_that_is_missing_is_the_administrators(tmp_path):
    with pytest.raises(SiteError, match=r"writing probes\.textfile"):
        save_textfile(tmp_path / "none" / "pps.prom", TEXT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_port_moves_with_the_settings_and_a_taken_one_is_told(port):
    with capture_logs() as logs:
        metrics = MetricsPort(lambda: TEXT, structlog.get_logger())
        first, second = free_port(), free_port()
        metrics.move_to(first)
        assert ask(first) == (200, TEXT)
        metrics.move_to(second)
        assert ask(second) == (200, TEXT)
        metrics.move_to(port)
        assert [event["event"] for event in logs] == ["metrics.unserved"]
        metrics.move_to(second)
        assert ask(second) == (200, TEXT)
        metrics.close()
        metrics.move_to(first)
    for closed in (first, second):
        with pytest.raises(ConnectionRefusedError):
            ask(closed)
