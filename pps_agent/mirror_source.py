"""Chosen bytes of one artifact, over mirrors: where one stops, another goes on from there.

A mirror that gives the whole file where a part was asked for is used when nobody gives parts: its bytes
are right, but too many. One that gave wrong bytes is asked once more past all caches, behind the others,
and then no more. Wrong bytes show only when they are unpacked, in another thread, while the next are read.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pps_agent.errors import FetchError, TrustError
from pps_agent.fetch import BrokenError, Span, WholeFileError
from pps_agent.mirrors import Failure, Mirrors, summarize

MAX_BREAKS: Final = 5
"""So often one mirror may break off in the middle of one artifact and be asked for the rest."""
PAUSES_S: Final = (1.0, 4.0)
"""Waits before all are asked again, when all went away in the middle of an artifact: a server that restarts."""

_TRUSTED: Final = 0
_DOUBTED: Final = 1
_REFUSED: Final = 2


@dataclass(frozen=True, slots=True)
class _Service:
    """Who gave these bytes; ``fresh`` when caches on the way were passed by."""

    span: Span
    url: str
    fresh: bool


class MirrorSource:
    """Where the bytes of one artifact, ``length`` bytes long as signed, come from."""

    def __init__(self, mirrors: Mirrors, path: str, length: int, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._mirrors = mirrors
        self._path = path
        self._length = length
        self._pauses_s = list(pauses_s)
        self._order = mirrors.order()
        self._whole: set[str] = set()
        self._out: dict[str, FetchError] = {}
        self._breaks: Counter[str] = Counter()
        self._failures: dict[str, Failure] = {}
        self._guard = threading.Lock()
        self._doubts: Counter[str] = Counter()
        self._services: list[_Service] = []
        self._given_up = False

    @property
    def requests(self) -> int:
        """How many requests the repository's fetcher has made so far."""
        return self._mirrors.fetcher.requests

    @property
    def bytes_moved(self) -> int:
        """How many body bytes came over the repository's fetcher so far."""
        return self._mirrors.fetcher.bytes_moved

    def read(self, spans: Sequence[Span]) -> Iterator[bytes]:
        """Give exactly the bytes of ``spans``, one after the other.

        Raises: FetchError, or TrustError when wrong bytes were among the reasons, naming every mirror and why.
        """
        left = tuple(spans)
        while left:
            left = yield from self._read_from(self._choose(), left)

    def doubt(self, span: Span, error: TrustError) -> bool:
        """Note that these bytes were not the signed ones; True when it is worth asking for them again.

        Another thread may be reading: it goes on with another mirror, or past all caches.
        """
        with self._guard:
            if self._given_up:
                return False  # this may be that very error, come through
            services = self._find_services(span)
            if len({service.url for service in services}) > 1:
                return True  # who is to blame shows when one of them has given all of it
            for service in services:
                if not self._doubts[service.url]:
                    self._failures[service.url] = self._mirrors.blame(service.url, self._path, error)
                level = _REFUSED if service.fresh else _DOUBTED
                self._doubts[service.url] = max(self._doubts[service.url], level)
            return any(self._doubts[url] < _REFUSED for url in self._order)

    def _choose(self) -> str:
        """Give the mirror to ask now: unsuspected ones first, then those that give parts."""
        while True:
            usable = [url for url in self._order if url not in self._out and self._doubts[url] < _REFUSED]
            if usable:
                return min(usable, key=lambda url: (self._doubts[url], url in self._whole, self._breaks[url]))
            if not self._pause():
                self._given_up = True
                raise summarize(self._path, [self._failures[url] for url in self._order if url in self._failures])

    def _pause(self) -> bool:
        """Wait for servers that went away in the middle; False when there is nobody or nothing to wait for."""
        gone = [url for url, error in self._out.items() if not (error.permanent or isinstance(error, BrokenError))]
        if not (gone and self._services and self._pauses_s):
            return False
        threading.Event().wait(self._pauses_s.pop(0))
        for url in gone:
            del self._out[url]
        return True

    def _read_from(self, url: str, left: tuple[Span, ...]) -> Generator[bytes, None, tuple[Span, ...]]:
        """Read from one mirror until it has given all, fails or is doubted; give what is left."""
        doubts = self._doubts[url]
        pieces = self._mirrors.fetcher.ranges(
            f"{url}/{self._path}",
            left,
            self._length,
            whole=self._is_last_choice(url),
            fresh=doubts > _TRUSTED,
        )
        size = 0
        with contextlib.closing(pieces):
            try:
                for start, piece in _place(pieces, left):
                    size += len(piece)
                    self._note_service(url, start, len(piece), fresh=doubts > _TRUSTED)
                    yield piece
                    if self._doubts[url] > doubts:
                        return drop_bytes(left, size)
            except FetchError as exc:
                self._note_failure(url, exc)
                return drop_bytes(left, size)
        if not self._doubts[url]:
            self._mirrors.praise(url)
        return ()

    def _is_last_choice(self, url: str) -> bool:
        """Tell whether a whole file is welcome: the mirror gives nothing else, and so do all that are left."""
        others = [other for other in self._order if other not in self._out and self._doubts[other] < _REFUSED]
        return url in self._whole or others == [url]

    def _note_service(self, url: str, start: int, size: int, *, fresh: bool) -> None:
        with self._guard:
            self._mirrors.served[url] += size
            last = self._services[-1] if self._services else None
            if last is not None and (last.url, last.fresh, last.span.end) == (url, fresh, start):
                self._services[-1] = _Service(Span(last.span.start, start + size), url, fresh)
            else:
                self._services.append(_Service(Span(start, start + size), url, fresh))

    def _find_services(self, span: Span) -> list[_Service]:
        """Give who served these bytes last, newest first."""
        found: list[_Service] = []
        missing = span.length
        for service in reversed(self._services):
            overlap = min(span.end, service.span.end) - max(span.start, service.span.start)
            if overlap > 0:
                found.append(service)
                missing -= overlap
            if missing <= 0:
                break
        return found

    def _note_failure(self, url: str, error: FetchError) -> None:
        if isinstance(error, WholeFileError):
            self._whole.add(url)
            return
        with self._guard:
            self._failures[url] = self._mirrors.blame(url, self._path, error)
        self._breaks[url] += 1
        if not isinstance(error, BrokenError) or self._breaks[url] > MAX_BREAKS:
            self._out[url] = error


def _place(pieces: Iterable[bytes], spans: Iterable[Span]) -> Iterator[tuple[int, bytes]]:
    """Give each piece with its offset in the file; no piece reaches over the end of a span."""
    waiting = iter(spans)
    position = end = 0
    for piece in pieces:
        if position == end:
            span = next(waiting)
            position, end = span.start, span.end
        yield position, piece
        position += len(piece)


def drop_bytes(spans: Sequence[Span], count: int) -> tuple[Span, ...]:
    """Give what is left of ``spans`` when their first ``count`` bytes are here. Pure."""
    for number, span in enumerate(spans):
        if count < span.length:
            return (Span(span.start + count, span.end), *spans[number + 1 :])
        count -= span.length
    return ()
