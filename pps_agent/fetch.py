"""Bounded HTTP: all bytes of a repository enter the agent here, capped in size and in time.

Bodies arrive as the server stores them (``Accept-Encoding: identity``). ``http_proxy``, ``https_proxy`` and
``no_proxy`` are honoured unless a proxy is given, certificates are checked, ``https`` is never left by a
redirect. Bodies of errors and redirects are not read. What the bytes say is the caller's to verify.
"""

import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pps_agent import __version__
from pps_agent.errors import FetchError

MAX_REDIRECTS: Final = 5
READ_BYTES: Final = 256 * 1024
MIN_BYTES_PER_S: Final = 1024
"""A body that comes slower than this on average, after one time limit of patience, is given up."""

DIRECT: Final = "direct"
"""Instead of a proxy's address: use none, whatever the environment says."""

_GONE: Final = (404, 410)
_FRESH: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
"""Caches on the way ask the server again (RFC 9111, 5.2.1.4 and 5.4)."""
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a remote file, from ``start`` up to but not including ``end``."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes it holds."""
        return self.end - self.start


class StatusError(FetchError):
    """The server answered with an HTTP error; 404 and 410 are permanent."""

    def __init__(self, url: str, status: int, advice: str) -> None:
        super().__init__(f"{url}: the server answered {status}: {advice}", permanent=status in _GONE)
        self.status = status


class BrokenError(FetchError):
    """The connection ended in the middle of a body; asking for the rest may give it."""


class WholeFileError(FetchError):
    """The server answered a Range request with the whole file."""


class Fetcher:
    """One kept-alive HTTP session; for one thread at a time.

    ``proxy`` is the address of a proxy for all requests, DIRECT, or empty for what the environment says.
    ``requests`` and ``bytes_moved`` count answers and body bytes since it was made. Every method
    raises FetchError, which names the url and the next thing to try, and nothing else. ``fresh`` asks
    caches on the way not to answer by themselves.
    """

    def __init__(self, timeout_s: float, proxy: str = "") -> None:
        self.requests = 0
        self.bytes_moved = 0
        self._timeout_s = timeout_s
        # given with each request, these win over the environment, which the session's own would not
        self._proxies = dict.fromkeys(("http", "https"), "" if proxy == DIRECT else proxy) if proxy else None
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": f"pps-agent/{__version__}", "Accept-Encoding": "identity"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close kept-alive connections."""
        self._session.close()

    def get(self, url: str, max_bytes: int, *, fresh: bool = False) -> bytes:
        """Give a whole body of at most ``max_bytes``."""
        return b"".join(self.stream(url, max_bytes, fresh=fresh))

    def stream(self, url: str, max_bytes: int, *, fresh: bool = False) -> Iterator[bytes]:
        """Give a body of at most ``max_bytes`` piece by piece; one byte more is an error."""
        with self._open(url, _FRESH if fresh else {}) as response:
            if response.status_code != 200:
                raise _refusal(url, response.status_code)
            yield from self._read(response, url, max_bytes)

    def ranges(
        self, url: str, spans: Sequence[Span], length: int, *, whole: bool = True, fresh: bool = False
    ) -> Generator[bytes]:
        """Give the bytes of ``spans``, one after the other, of a file that is ``length`` bytes long.

        The spans must be sorted and apart from each other. A span that is the whole file is asked
        for without Range. A server that answers 200 to a Range request is taken at its word: its one
        body serves all the spans that are left, which costs bytes but no correctness. Without ``whole``
        that raises WholeFileError instead, for callers who have somebody else to ask.
        """
        for number, span in enumerate(spans):
            headers = {} if span == Span(0, length) else {"Range": f"bytes={span.start}-{span.end - 1}"}
            with self._open(url, headers | (_FRESH if fresh else {})) as response:
                if response.status_code == 200:
                    _check_length(response, url, length)
                    if headers and not whole:
                        raise WholeFileError(f"{url}: gives no ranges; use a web server that does")
                    yield from _cut(self._read(response, url, length), spans[number:], url)
                    return
                if response.status_code != 206:
                    raise _refusal(url, response.status_code)
                _check_range(response, url, span, length)
                yield from _cut(self._read(response, url, span.length), (Span(0, span.length),), url)

    def _open(self, url: str, headers: dict[str, str]) -> requests.Response:
        address = url
        for _ in range(MAX_REDIRECTS + 1):
            _check_scheme(address, url)
            try:
                response = self._ask(address, headers)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
                raise FetchError(f"{url}: {_reason(exc)}; check the address, the network and http_proxy") from exc
            self.requests += 1
            if not response.is_redirect:
                _check_encoding(response, url)
                return response
            response.close()
            address = _resolve(address, response.headers["location"], url)
        raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirects; check the address", permanent=True)

    def _ask(self, address: str, headers: dict[str, str]) -> requests.Response:
        """Ask once, and once more when the connection broke: the server may have closed a kept-alive one meanwhile."""
        try:
            return self._ask_once(address, headers)
        except requests.Timeout:
            raise
        except requests.ConnectionError:
            return self._ask_once(address, headers)

    def _ask_once(self, address: str, headers: dict[str, str]) -> requests.Response:
        return self._session.get(
            address,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=self._timeout_s,
            proxies=self._proxies,
        )

    def _read(self, response: requests.Response, url: str, max_bytes: int) -> Iterator[bytes]:
        """Give the body in pieces as they arrive, within both limits."""
        started = time.monotonic()
        received = 0
        while True:
            try:
                # one byte more than allowed, so that a longer body is noticed and not cut
                piece = response.raw.read1(min(READ_BYTES, max_bytes - received + 1), decode_content=False)
            except (urllib3.exceptions.TimeoutError, TimeoutError) as exc:
                raise FetchError(f"{url}: stalled after {received} bytes ({_reason(exc)}); try again") from exc
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
                raise BrokenError(f"{url}: broke off after {received} bytes ({_reason(exc)}); try again") from exc
            if not piece:
                return
            received += len(piece)
            self.bytes_moved += len(piece)
            if received > max_bytes:
                raise FetchError(f"{url}: longer than the {max_bytes} bytes allowed; ask the repository's operator")
            if time.monotonic() - started > self._timeout_s + received / MIN_BYTES_PER_S:
                raise FetchError(f"{url}: slower than {MIN_BYTES_PER_S} bytes/s; check the network, then try again")
            yield piece


def _resolve(address: str, location: str, url: str) -> str:
    try:
        return urljoin(address, location)
    except ValueError as exc:
        raise FetchError(f"{url}: leads to {location[:200]!r}, which is no address", permanent=True) from exc


def _check_scheme(address: str, url: str) -> None:
    wanted = ("https",) if _scheme_of(url) == "https" else ("http", "https")
    if _scheme_of(address) not in wanted:
        raise FetchError(f"{url}: leads to {address[:200]!r}, which is not {' or '.join(wanted)}", permanent=True)


def _scheme_of(address: str) -> str:
    try:
        return urlsplit(address).scheme
    except ValueError:
        return ""


def _check_encoding(response: requests.Response, url: str) -> None:
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        response.close()
        raise FetchError(f"{url}: comes with Content-Encoding {encoding[:40]}; switch that off in the web server")


def _check_length(response: requests.Response, url: str, length: int) -> None:
    stated = response.headers.get("content-length", "")
    if stated != str(length):
        raise FetchError(
            f"{url}: is {stated[:20] or 'of unknown length'} where {length} bytes are signed; "
            "the mirror may be copying it: try again"
        )


def _check_range(response: requests.Response, url: str, span: Span, length: int) -> None:
    stated = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    if match is None or tuple(map(int, match.groups())) != (span.start, span.end - 1, length):
        raise FetchError(
            f"{url}: asked for bytes {span.start}-{span.end - 1}/{length}, got {stated[:80]!r}; "
            "the mirror may be copying it: try again"
        )


def _cut(pieces: Iterator[bytes], spans: Sequence[Span], url: str) -> Iterator[bytes]:
    """Give only the bytes of ``spans`` out of a body that starts at offset 0; check that none is missing."""
    position = 0
    waiting = list(reversed(spans))
    for piece in pieces:
        end = position + len(piece)
        while waiting and waiting[-1].start < end:
            span = waiting[-1]
            part = piece[max(span.start - position, 0) : span.end - position]
            if part:
                yield part
            if span.end > end:
                break
            waiting.pop()
        position = end
        if not waiting:
            return
    if waiting:
        raise BrokenError(f"{url}: ended after {position} of {spans[-1].end} bytes; try again")


def _refusal(url: str, status: int) -> StatusError:
    if status in _GONE:
        return StatusError(url, status, "not there; check the repository's address, or the mirror is incomplete")
    if status == 416:
        return StatusError(url, status, "the file is shorter than signed; the mirror may be copying it: try again")
    return StatusError(url, status, "try again; if it stays, ask the repository's operator")


def _reason(exc: BaseException) -> str:
    return str(exc)[:300] or type(exc).__name__
