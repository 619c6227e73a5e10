"""Fetch a manifest, and chosen files of an artifact: which bytes to ask for, and a pipeline that unpacks them.

Planning is pure. The doing part is two threads: one reads from the network, the caller's unpacks,
hashes and writes; between them waits a bounded number of pieces.
"""

import contextlib
import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from pps_agent.errors import FetchError, TrustError
from pps_agent.fetch import Fetcher, Span
from pps_agent.frames import Block, SignedManifest, Unpacker, unpack_manifest
from pps_agent.state import Offer
from pps_wire.errors import WireError
from pps_wire.manifest import File

MAX_MANIFEST_BYTES: Final = 64 * 1024**2
"""Largest compressed manifest that is fetched."""
MAX_GAP_BYTES: Final = 64 * 1024
"""Frames closer than this may come with one request, bytes between them included."""
MAX_WASTE: Final = 0.01
"""Share of wanted bytes that may be spent on such gaps: an update must not cost much more than its changes."""
FREE_WASTE_BYTES: Final = 1024
"""So much may be spent in any case: less than the headers of one more request and answer."""

_AHEAD: Final = 64
"""Pieces (at most READ_BYTES each) that may wait between the threads."""
_T = TypeVar("_T")


class Source(Protocol):
    """Where the bytes of one artifact come from; counts what that took."""

    @property
    def requests(self) -> int:
        """How many requests were made so far."""
        ...

    @property
    def bytes_moved(self) -> int:
        """How many bytes came so far."""
        ...

    def read(self, spans: Sequence[Span]) -> Iterator[bytes]:
        """Give exactly the bytes of ``spans``, one after the other. Raises: FetchError."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSource:
    """An artifact behind a web server; ``length`` is the signed one."""

    fetcher: Fetcher
    url: str
    length: int

    @property
    def requests(self) -> int:
        """Requests of this artifact's fetcher."""
        return self.fetcher.requests

    @property
    def bytes_moved(self) -> int:
        """Body bytes of this artifact's fetcher."""
        return self.fetcher.bytes_moved

    def read(self, spans: Sequence[Span]) -> Iterator[bytes]:
        """Give exactly the bytes of ``spans``; one request a span."""
        return self.fetcher.ranges(self.url, spans, self.length)


def target_url(url: str, path: str, digest: str) -> str:
    """Give the address of a TUF target: consistent snapshots put its sha256 before its name. Pure."""
    folder, _, name = path.rpartition("/")
    return f"{url}/targets/{folder}/{digest}.{name}"


def fetch_manifest(fetcher: Fetcher, url: str, offer: Offer) -> SignedManifest:
    """Fetch a release's manifest from the repository at ``url``; needs no TUF client, the offer was verified.

    Raises: TrustError when length or hash differ from the signed ones; FetchError; WireError when the
    signed bytes are no manifest of this release.
    """
    ref = offer.manifest
    if ref.length > MAX_MANIFEST_BYTES:
        raise WireError(ref.path, f"is {ref.length} bytes long, at most {MAX_MANIFEST_BYTES} are read")
    raw = fetcher.get(target_url(url.rstrip("/"), ref.path, ref.sha256), ref.length)
    if len(raw) != ref.length or hashlib.sha256(raw).hexdigest() != ref.sha256:
        raise TrustError(f"{ref.path}: differs from the signed length and hash; have the mirror copied again")
    manifest = unpack_manifest(raw)
    if manifest.head.release != offer.release.id:
        raise WireError(ref.path, f"is the manifest of {manifest.head.release}")
    return SignedManifest(manifest, raw)


def plan_spans(files: Sequence[File], length: int) -> tuple[Span, ...]:
    """Give the bytes to ask for so that every frame of ``files`` is had with few requests.

    ``files`` come in the order of their offsets. Gaps are spanned smallest first, as long as they
    stay below MAX_GAP_BYTES each and MAX_WASTE together. When nothing but head and tail of the
    artifact would be left out, it is the whole artifact, which any server can give.
    Raises: WireError when frames overlap or lie outside the ``length`` of the artifact.
    """
    frames = [Span(file.o, file.o + file.z) for file in files]
    for file in files:
        if not file.z:
            raise WireError(file.p, f"holds {file.s} bytes but its frame none")
    for file, (before, after) in zip(files[1:], itertools.pairwise(frames), strict=True):
        if after.start < before.end:
            raise WireError(file.p, f"its frame at {file.o} overlaps the one before")
    if not frames:
        return ()
    if frames[-1].end > length:
        raise WireError(files[-1].p, f"its frame ends at {frames[-1].end}, behind the artifact's {length} bytes")
    spans = _join(frames, _affordable_gaps(frames))
    margin = length - spans[0].length
    if len(spans) == 1 and margin <= min(MAX_GAP_BYTES, max(length * MAX_WASTE, FREE_WASTE_BYTES)):
        return (Span(0, length),)
    return spans


def _affordable_gaps(frames: Sequence[Span]) -> frozenset[int]:
    """Choose the gaps to span, each named by the offset it starts at."""
    budget = max(sum(frame.length for frame in frames) * MAX_WASTE, FREE_WASTE_BYTES)
    chosen = set()
    gaps = ((after.start - before.end, before.end) for before, after in itertools.pairwise(frames))
    for size, start in sorted(gaps):
        budget -= size
        if size > MAX_GAP_BYTES or budget < 0:
            break
        chosen.add(start)
    return frozenset(chosen)


def _join(frames: Sequence[Span], gaps: frozenset[int]) -> tuple[Span, ...]:
    joined = [frames[0]]
    for frame in frames[1:]:
        if joined[-1].end in gaps:
            joined[-1] = Span(joined[-1].start, frame.end)
        else:
            joined.append(frame)
    return tuple(joined)


def receive(files: Sequence[File], length: int, source: Source, write: Callable[[File, Iterator[Block]], None]) -> None:
    """Fetch and unpack ``files`` (in the order of their offsets), each handed to ``write`` as blocks.

    ``write`` must use up the blocks, each before it asks for the next; TrustError comes out of them when
    a frame is not the signed one. Raises: WireError for an impossible manifest; FetchError; TrustError;
    whatever ``write`` raises.
    """
    spans = plan_spans(files, length)
    unpacker = Unpacker()
    with read_ahead(source.read(spans), _AHEAD) as pieces:
        stream = _Stream(pieces, spans)
        for file in files:
            write(file, unpacker.unpack(file, stream.frame(file)))


class _Stream:
    """Pieces of consecutive spans, read by offset, only ever forwards."""

    def __init__(self, pieces: Iterator[bytes], spans: Sequence[Span]) -> None:
        self._pieces = pieces
        self._spans = list(reversed(spans))
        self._position = spans[0].start if spans else 0
        self._pending = b""

    def frame(self, file: File) -> "_Frame":
        """Give the body of one frame; what was left of the frame before it is passed over."""
        while self._position < file.o:
            if self._spans[-1].end <= self._position:
                self._spans.pop()
                self._position = self._spans[-1].start
            else:
                self.read(min(file.o, self._spans[-1].end) - self._position)
        return _Frame(self, file.z)

    def read(self, size: int) -> bytes:
        """Give at most ``size`` of the next bytes, at least one. Raises: FetchError when they end too early."""
        if not self._pending:
            self._pending = next(self._pieces, b"")
            if not self._pending:
                raise FetchError(f"the artifact ended at offset {self._position}; try again")
        piece, self._pending = self._pending[:size], self._pending[size:]
        self._position += len(piece)
        return piece


class _Frame:
    """The compressed bytes of one frame."""

    def __init__(self, stream: _Stream, size_bytes: int) -> None:
        self._stream = stream
        self._left = size_bytes

    def read(self, size: int, /) -> bytes:
        """Give at most ``size`` bytes, none at the frame's end."""
        if not self._left:
            return b""
        piece = self._stream.read(min(size, self._left))
        self._left -= len(piece)
        return piece


@contextlib.contextmanager
def read_ahead(source: Iterable[_T], depth: int) -> Generator[Iterator[_T]]:
    """Let another thread run through ``source``, at most ``depth`` items ahead.

    Its errors are raised where its items are used. On leaving, the thread has ended.
    """
    waiting: queue.Queue[tuple[_T] | None] = queue.Queue(depth)
    stop = threading.Event()

    def pump() -> None:
        try:
            for item in source:
                waiting.put((item,))
                if stop.is_set():
                    return
        finally:
            waiting.put(None)

    with ThreadPoolExecutor(1, "read-ahead") as pool:
        pumping = pool.submit(pump)
        arrived = iter(waiting.get, None)

        def items() -> Iterator[_T]:
            for (item,) in arrived:
                yield item
            pumping.result()

        try:
            yield items()
        finally:
            stop.set()
            for _ in arrived:
                pass
