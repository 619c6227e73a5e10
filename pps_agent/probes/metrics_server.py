"""Prometheus' view of the agent: ``/metrics`` on the loopback address.

The standard library's HTTP server reads a request line by line without an end to its patience; here a whole
request has one deadline and few bytes, there is one path and one method, and few callers at a time. A browser on
this machine that was led here under another name is refused by its Host header.
"""

import contextlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.exposition import CONTENT_TYPE

ADDRESS: Final = "127.0.0.1"
PATH: Final = "/metrics"
MAX_REQUEST_BYTES: Final = 8192
REQUEST_S: Final = 3.0
MAX_CALLERS: Final = 8
KEPT_S: Final = 1.0
"""How long a text is served again: callers who ask faster cost no more."""

_Request = socket.socket | tuple[bytes, socket.socket]
_HOSTS: Final = ("localhost", ADDRESS)


@contextlib.contextmanager
def serve_metrics(port: int, render: Callable[[], str]) -> Iterator[int]:
    """Serve what ``render`` gives, from a thread, while the context lasts; give the port (0 asks for a free one).

    ``render`` is called in another thread, by one caller at a time. Raises: SiteError when the port is taken.
    """
    try:
        server = _Server((ADDRESS, port), _Caller)
    except OSError as exc:
        raise SiteError(f"{ADDRESS}:{port}: {exc.strerror}: choose another probes.metrics_port") from exc
    server.prepare(render)
    thread = threading.Thread(target=server.serve_forever, name="metrics", kwargs={"poll_interval": 0.2})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """One thread for each caller, and no more than MAX_CALLERS: others are turned away at once."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MAX_CALLERS

    def prepare(self, render: Callable[[], str]) -> None:
        self._render = render
        self._places = threading.BoundedSemaphore(MAX_CALLERS)
        self._lock = threading.Lock()
        self._text, self._until = b"", 0.0

    def text(self) -> bytes:
        """Give the exposition, rendered at most once in KEPT_S."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._text = self._render().encode()
                self._until = time.monotonic() + KEPT_S
            return self._text

    def process_request(self, request: _Request, client_address: object) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a caller that went away; a fault of ours is printed with its traceback."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Caller(socketserver.BaseRequestHandler):
    """One request and its answer; the connection ends with it."""

    server: _Server
    request: socket.socket

    def handle(self) -> None:
        deadline = time.monotonic() + REQUEST_S
        head = self._read(deadline)
        if head is None:
            return
        status, body = self._answer(head)
        reply = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        self.request.settimeout(REQUEST_S)
        self.request.sendall(reply.encode() + (b"" if head.startswith("HEAD ") else body))

    def _read(self, deadline: float) -> str | None:
        """Give the head of the request; None when it does not come in time or is too long."""
        data = b""
        while b"\r\n\r\n" not in data and b"\n\n" not in data:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or len(data) > MAX_REQUEST_BYTES:
                return None
            self.request.settimeout(left_s)
            chunk = self.request.recv(4096)
            if not chunk:
                return None
            data += chunk
        return data.decode("latin-1")

    def _answer(self, head: str) -> tuple[HTTPStatus, bytes]:
        first, *lines = head.splitlines()
        method, _, rest = first.partition(" ")
        hosts = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:")]
        if len(hosts) > 1 or any(host.partition(":")[0].lower() not in _HOSTS for host in hosts):
            return _refuse(HTTPStatus.MISDIRECTED_REQUEST, f"ask for http://{ADDRESS}{PATH}")
        if method not in ("GET", "HEAD"):
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        if rest.partition(" ")[0].partition("?")[0] != PATH:
            return _refuse(HTTPStatus.NOT_FOUND, f"there is {PATH} and nothing else")
        return HTTPStatus.OK, self.server.text()


def _refuse(status: HTTPStatus, problem: str) -> tuple[HTTPStatus, bytes]:
    return status, f"{problem}\n".encode()
