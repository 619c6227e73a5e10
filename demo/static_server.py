"""A static file server with single byte ranges: what a repository of previews needs, and no more.

``python -m demo.static_server DIR --port 0`` prints its address and serves until it is ended. For
trying things out and for tests; in production use nginx, Apache or any other web server.
"""

import argparse
import contextlib
import re
import socket
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

_RANGE: Final = re.compile(r"^bytes=(\d*)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Slice:
    """Which bytes of a file a response carries."""

    status: HTTPStatus
    start: int
    length: int


def choose_slice(size: int, wanted: str | None) -> Slice:
    """Give what answers a Range header; several ranges or nonsense get the whole file (RFC 9110, 14.2)."""
    match = _RANGE.match(wanted or "")
    if match is None or match.groups() == ("", ""):
        return Slice(HTTPStatus.OK, 0, size)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start >= size or (first and last and int(last) < start):
        return Slice(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0)
    return Slice(HTTPStatus.PARTIAL_CONTENT, start, end - start + 1)


class StaticHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from the server's directory."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "StaticServer"

    def do_GET(self) -> None:
        """Send a file or a slice of it."""
        self.answer(send_body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self.answer(send_body=False)

    def answer(self, *, send_body: bool) -> None:
        """Answer from disk."""
        path = self.server.find(self.path)
        if path is None:
            self.send_text(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as stream:
            size = path.stat().st_size
            chosen = choose_slice(size, self.headers.get("Range"))
            self.send_slice_headers(chosen, size)
            if send_body and chosen.length:
                self.connection.sendfile(stream, chosen.start, chosen.length)

    def send_slice_headers(self, chosen: Slice, size: int) -> None:
        """Send status and headers of a slice of a file of ``size`` bytes."""
        self.send_response(chosen.status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(chosen.length))
        if chosen.status is HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {chosen.start}-{chosen.start + chosen.length - 1}/{size}")
        elif chosen.status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        self.end_headers()

    def send_text(self, status: HTTPStatus) -> None:
        """Send a status with its phrase as the body."""
        body = f"{status.value} {status.phrase}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        """Serve one connection; a client that goes away is no event."""
        with self.server.tracking(self.connection), contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""


class StaticServer(ThreadingHTTPServer):
    """Serves one directory on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, directory: Path, port: int = 0, handler: type[StaticHandler] = StaticHandler) -> None:
        self.directory = directory.resolve()
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), handler)

    @property
    def url(self) -> str:
        """The address, without a final slash."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def find(self, request_path: str) -> Path | None:
        """Give the file a request names, or None when there is none inside the directory."""
        name = urllib.parse.unquote(urllib.parse.urlsplit(request_path).path).lstrip("/")
        if "\0" in name:
            return None
        path = (self.directory / name).resolve()
        return path if path.is_relative_to(self.directory) and path.is_file() else None

    @contextlib.contextmanager
    def tracking(self, connection: socket.socket) -> Iterator[None]:
        """Know an open connection, so that ``running`` can end it."""
        with self._guard:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._guard:
                self._open.discard(connection)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread while the block runs; open connections are ended with it."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            with self._guard:
                for connection in self._open:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
            thread.join()
            self.server_close()


def main() -> None:
    """Serve a directory until ended."""
    parser = argparse.ArgumentParser(prog="demo.static_server", description="serve a directory with byte ranges")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
    arguments = parser.parse_args()
    with StaticServer(arguments.directory, arguments.port) as server, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
