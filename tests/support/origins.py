"""A web server on loopback whose answers a test decides, request by request."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer. Without ``length`` the header says how much content there is."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


Answer = Callable[[Asked], Reply]


@dataclass
class Origin:
    """A running server. ``asked`` are the requests so far; ``answer`` may be exchanged at any time."""

    port: int
    scheme: str
    answer: Answer
    asked: list[Asked] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The server's root, without a slash at the end."""
        return f"{self.scheme}://localhost:{self.port}"


@contextmanager
def start_origin(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[Origin]:
    """Start the server, with TLS where a context is given."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            origin.asked.append(asked)
            reply = origin.answer(asked)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.content) if reply.length is None else reply.length))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PROPFIND = do  # noqa: N815 - http.server asks for these

        def handle_expect_100(self) -> bool:
            reply = origin.answer(Asked("EXPECT", self.path, {}, b""))
            if reply.status == 100:
                return super().handle_expect_100()
            origin.asked.append(Asked("EXPECT", self.path, {}, b""))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            return False

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            pass  # clients that go away are part of the tests

        def get_request(self):  # type: ignore[no-untyped-def]
            stream, address = super().get_request()
            return (context.wrap_socket(stream, server_side=True) if context else stream), address

    with Server(("127.0.0.1", 0), Handler) as server:
        origin = Origin(server.server_port, "https" if context else "http", answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()
