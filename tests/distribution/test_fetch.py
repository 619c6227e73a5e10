"""Bounded HTTP against a real server that misbehaves."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pps_agent.errors import FetchError
from pps_agent.fetch import Fetcher, Span, StatusError
from tests.support.repository import FaultyServer, serve

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    (tmp_path / "file").write_bytes(CONTENT)
    with serve(tmp_path) as running:
        yield running


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(5) as opened:
        yield opened


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads one request a connection and lets ``answer`` write whatever it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        answer(connection)
            except OSError:
                return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def answer_with(head: str, body: bytes = b"") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)


def test_a_whole_file_is_fetched_and_counted(fetcher, server):
    assert fetcher.get(f"{server.url}/file", len(CONTENT)) == CONTENT
    assert (1, len(CONTENT)) == (fetcher.requests, fetcher.bytes_moved)


def test_one_byte_more_than_allowed_is_an_error(fetcher, server):
    with pytest.raises(FetchError, match="longer than the 511999 bytes allowed"):
        fetcher.get(f"{server.url}/file", len(CONTENT) - 1)


@pytest.mark.parametrize(("status", "permanent"), [(404, True), (410, True), (403, False), (500, False), (503, False)])
def test_an_error_status_says_whether_trying_again_helps(fetcher, server, status, permanent):
    server.plant("file", status=status)
    with pytest.raises(StatusError, match=f"{server.url}/file: the server answered {status}") as caught:
        fetcher.get(f"{server.url}/file", 10**6)
    assert (status, permanent, 69 if permanent else 75) == (
        caught.value.status,
        caught.value.permanent,
        caught.value.exit_code,
    )


def test_a_truncated_body_is_an_error(fetcher, server):
    server.plant("file", truncate_to=1000)
    with pytest.raises(FetchError, match="broke off after 1000 bytes"):
        fetcher.get(f"{server.url}/file", 10**6)


def test_a_server_that_is_down_is_a_temporary_error(fetcher):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(FetchError, match="check the address") as caught:
        fetcher.get(f"http://127.0.0.1:{port}/file", 10)
    assert caught.value.exit_code == 75


def test_ranges_come_one_after_the_other_over_one_connection(fetcher, server):
    spans = (Span(0, 10), Span(100, 5000), Span(len(CONTENT) - 1, len(CONTENT)))
    wanted = b"".join(CONTENT[span.start : span.end] for span in spans)
    assert wanted == b"".join(fetcher.ranges(f"{server.url}/file", spans, len(CONTENT)))
    assert [request.range for request in server.requests] == ["bytes=0-9", "bytes=100-4999", "bytes=511999-511999"]
    assert len(wanted) == fetcher.bytes_moved


def test_a_span_that_is_the_whole_file_is_asked_for_without_range(fetcher, server):
    assert b"".join(fetcher.ranges(f"{server.url}/file", (Span(0, len(CONTENT)),), len(CONTENT))) == CONTENT
    assert [request.range for request in server.requests] == [None]


def test_a_server_without_ranges_is_read_through_once(fetcher, server):
    server.plant("file", ignore_range=True)
    spans = (Span(5, 10), Span(100_000, 100_001), Span(300_000, 500_000))
    wanted = b"".join(CONTENT[span.start : span.end] for span in spans)
    assert wanted == b"".join(fetcher.ranges(f"{server.url}/file", spans, len(CONTENT)))
    assert len(server.requests) == 1


def test_a_file_of_another_length_than_signed_is_refused(fetcher, server):
    server.plant("file", ignore_range=True)
    with pytest.raises(FetchError, match="is 512000 where 512001 bytes are signed"):
        list(fetcher.ranges(f"{server.url}/file", (Span(5, 10),), len(CONTENT) + 1))
    server.heal()
    with pytest.raises(FetchError, match=r"asked for bytes 5-9/512001, got 'bytes 5-9/512000'"):
        list(fetcher.ranges(f"{server.url}/file", (Span(5, 10),), len(CONTENT) + 1))


def test_a_range_behind_the_end_is_refused(fetcher, server):
    with pytest.raises(StatusError, match="shorter than signed"):
        list(fetcher.ranges(f"{server.url}/file", (Span(600_000, 600_001),), 700_000))


@pytest.mark.parametrize("range_ignored", [True, False])
def test_a_truncated_range_is_an_error(fetcher, server, range_ignored):
    server.plant("file", truncate_to=100, ignore_range=range_ignored)
    with pytest.raises(FetchError, match="broke off after 100 bytes"):
        list(fetcher.ranges(f"{server.url}/file", (Span(50, 5000),), len(CONTENT)))


def test_a_short_range_without_stated_length_is_an_error(fetcher):
    head = "HTTP/1.1 206 Partial Content\nContent-Range: bytes 0-9/100\nConnection: close"
    with raw_server(answer_with(head, b"short")) as url, pytest.raises(FetchError, match="ended after 5 of 10 bytes"):
        list(fetcher.ranges(f"{url}/file", (Span(0, 10),), 100))


@pytest.mark.parametrize("stated", ["", "bytes 0-8/100", "bytes 1-9/100", "bytes 0-9/*", "bytes 0-9/" + "9" * 40, "x"])
def test_a_wrong_content_range_is_refused(fetcher, stated):
    head = f"HTTP/1.1 206 Partial Content\nContent-Length: 10\nContent-Range: {stated}"
    with (
        raw_server(answer_with(head, b"0123456789")) as url,
        pytest.raises(FetchError, match="asked for bytes 0-9/100"),
    ):
        list(fetcher.ranges(f"{url}/file", (Span(0, 10),), 100))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/y", "//[bad", "gopher:x"])
def test_a_redirect_to_another_scheme_is_refused(fetcher, target):
    head = f"HTTP/1.1 302 Found\nLocation: {target}\nContent-Length: 0"
    with raw_server(answer_with(head)) as url, pytest.raises(FetchError, match=f"^{url}/file: ") as caught:
        fetcher.get(f"{url}/file", 10)
    assert caught.value.exit_code in (69, 75)


def test_https_is_never_left(fetcher):
    from pps_agent.fetch import _check_scheme

    with pytest.raises(FetchError, match="which is not https"):
        _check_scheme("http://mirror.example.org/x", "https://example.org/x")


def test_a_redirect_is_followed_and_a_loop_ends(fetcher, server):
    with raw_server(answer_with(f"HTTP/1.1 302 Found\nLocation: {server.url}/file\nContent-Length: 0")) as url:
        assert fetcher.get(f"{url}/elsewhere", len(CONTENT)) == CONTENT
    loop = answer_with("HTTP/1.1 302 Found\nLocation: /again\nContent-Length: 0")
    with raw_server(loop) as url, pytest.raises(FetchError, match="more than 5 redirects"):
        fetcher.get(f"{url}/file", 10)


def test_an_encoded_body_is_refused(fetcher):
    head = "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 3"
    with raw_server(answer_with(head, b"abc")) as url, pytest.raises(FetchError, match="Content-Encoding gzip"):
        fetcher.get(f"{url}/file", 10)


@pytest.mark.parametrize("reply", [b"", b"rubbish\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n"])
def test_an_answer_that_is_no_http_is_an_error(fetcher, reply):
    with raw_server(lambda connection: connection.sendall(reply)) as url, pytest.raises(FetchError):
        fetcher.get(f"{url}/file", 10)


def test_a_server_that_dribbles_is_given_up():
    def dribble(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            threading.Event().wait(0.02)

    with raw_server(dribble) as url, Fetcher(0.2) as impatient, pytest.raises(FetchError, match="slower than"):
        impatient.get(f"{url}/file", 100_000)


def test_a_silent_server_is_given_up():
    def wait_for_the_end(connection: socket.socket) -> None:
        connection.recv(1)

    silent = raw_server(wait_for_the_end)
    with silent as url, Fetcher(0.1) as impatient, pytest.raises(FetchError, match="timed out"):
        impatient.get(f"{url}/file", 10)


def test_the_proxy_of_the_environment_is_used_and_no_proxy_is_obeyed(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    with Fetcher(5) as fetcher:
        assert fetcher.get("http://repository.invalid/file", len(CONTENT)) == CONTENT
        assert server.paths() == ["http://repository.invalid/file"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetcher.get(f"{server.url}/file", len(CONTENT)) == CONTENT
