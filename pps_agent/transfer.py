"""Fetch a manifest, and chosen files of an artifact: which bytes to ask for, and a pipeline that unpacks them.

Planning is pure. The doing part is threads: one reads from the network, the caller's (one or more) unpack,
hash and write; between them waits a bounded number of pieces.
"""

import bisect
import contextlib
import hashlib
import io
import queue
import threading
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

from pps_agent.errors import FetchError, TrustError
from pps_agent.fetch import Span
from pps_agent.frames import Block, SignedManifest, Unpacker, open_manifest
from pps_agent.mirrors import Mirrors
from pps_agent.state import Offer
from pps_wire.errors import WireError
from pps_wire.manifest import File

MAX_MANIFEST_BYTES: Final = 64 * 1024**2
"""Largest compressed manifest that is fetched."""
MAX_GAP_BYTES: Final = 64 * 1024
"""Frames closer than this may come with one request, bytes between them included."""
MAX_WASTE: Final = 0.03
"""Share of wanted bytes that may be spent on such gaps: an update must not cost much more than its changes."""
REQUEST_BYTES: Final = 512
"""What the headers of one more request and answer take: a smaller gap saves bytes when it is spanned."""
MAX_HELD_BYTES: Final = 12 * 1024**2
"""Largest frame that a thread takes whole, so that the next can be taken while it is unpacked."""

_AHEAD: Final = 16
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

    def doubt(self, span: Span, error: TrustError) -> bool:
        """Note that these bytes were not the signed ones; True when it is worth asking for them again."""
        ...


def target_place(path: str, digest: str) -> str:
    """Give where a TUF target lies: consistent snapshots put its sha256 before its name. Pure."""
    folder, _, name = path.rpartition("/")
    return f"targets/{folder}/{digest}.{name}"


def fetch_manifest(mirrors: Mirrors, offer: Offer) -> SignedManifest:
    """Fetch a release's manifest; needs no TUF client, the offer was verified.

    Raises: TrustError when length or hash differ from the signed ones; FetchError; WireError when the
    signed bytes are no manifest of this release.
    """
    ref = offer.manifest
    if ref.length > MAX_MANIFEST_BYTES:
        raise WireError(ref.path, f"is {ref.length} bytes long, at most {MAX_MANIFEST_BYTES} are read")

    def check(raw: bytes) -> None:
        if len(raw) != ref.length or hashlib.sha256(raw).hexdigest() != ref.sha256:
            raise TrustError(f"{ref.path}: differs from the signed length and hash; have the mirror copied again")

    raw = mirrors.fetch(target_place(ref.path, ref.sha256), ref.length, check)
    manifest = open_manifest(raw, offer.release.artifact.length)
    if manifest.head.release != offer.release.id:
        raise WireError(ref.path, f"is the manifest of {manifest.head.release}")
    return manifest


def plan_spans(files: Iterable[File], length: int) -> tuple[Span, ...]:
    """Give the bytes to ask for so that every frame of ``files`` is had with few requests.

    ``files`` come in the order of their offsets. Gaps are spanned smallest first, as long as they
    stay below MAX_GAP_BYTES each and MAX_WASTE together; one below REQUEST_BYTES always is. When
    nothing but head and tail of the artifact would be left out, it is the whole artifact, which any
    server can give. Pure; keeps 16 bytes a file.
    Raises: WireError when frames overlap or lie outside the ``length`` of the artifact.
    """
    starts, ends = array("Q"), array("Q")
    position = 0
    for file in files:
        if file.o < position:
            raise WireError(file.p, f"its frame at {file.o} overlaps the one before")
        position = file.o + file.z
        if position > length:
            raise WireError(file.p, f"its frame ends at {position}, behind the artifact's {length} bytes")
        starts.append(file.o)
        ends.append(position)
    if not starts:
        return ()
    budget = int((sum(ends) - sum(starts)) * MAX_WASTE)
    spans = _join(starts, ends, budget)
    margin = length - spans[0].length
    spent = spans[0].length - (sum(ends) - sum(starts))
    if len(spans) == 1 and margin <= max(min(MAX_GAP_BYTES, budget - spent), REQUEST_BYTES):
        return (Span(0, length),)
    return spans


def _join(starts: "array[int]", ends: "array[int]", budget: int) -> tuple[Span, ...]:
    """Span the gaps that ``budget`` allows, smallest first."""
    gaps = sorted(start - end for end, start in zip(ends, starts[1:], strict=False))
    chosen = 0
    for size in gaps:
        budget -= size
        if size > REQUEST_BYTES and (size > MAX_GAP_BYTES or budget < 0):
            break
        chosen += 1
    largest = gaps[chosen - 1] if chosen else -1
    left = chosen - bisect.bisect_left(gaps, largest)
    spans = []
    begin = starts[0]
    for end, start in zip(ends, starts[1:], strict=False):
        size = start - end
        if size < largest or (size == largest and left):
            left -= size == largest
        else:
            spans.append(Span(begin, end))
            begin = start
    return (*spans, Span(begin, ends[-1]))


Write = Callable[[File, Iterator[Block]], None]
"""Takes one file's content. It must use up the blocks, each before it asks for the next."""


def receive(files: Iterable[File], length: int, source: Source, write: Write) -> None:
    """Fetch and unpack ``files`` (in the order of their offsets), each handed to ``write`` as blocks.

    ``files`` are run through twice: a list, or whatever starts anew each time. TrustError comes out of the
    blocks when a frame is not the signed one. Such frames are fetched again while the source has somebody
    to ask; what was written stays. Raises: WireError for an impossible manifest; FetchError; TrustError;
    whatever ``write`` raises.
    """
    with reception(files, length, source) as arriving:
        arriving.drain(write)
    while spoilt := arriving.spoilt():
        with reception(spoilt, length, source) as arriving:
            arriving.drain(write)


@contextlib.contextmanager
def reception(files: Iterable[File], length: int, source: Source) -> Generator["Reception"]:
    """Begin to fetch ``files`` for as many threads as call ``drain``; otherwise as ``receive``."""
    spans = plan_spans(files, length)
    with read_ahead(source.read(spans), _AHEAD) as pieces:
        yield Reception(iter(files), _Stream(pieces, spans), source)


@contextlib.contextmanager
def receive_raw(frames: Sequence[File], length: int, source: Source) -> Generator[Iterator[bytes]]:
    """Begin to fetch ``frames``; give the bytes of each as they came, to be judged. Otherwise as ``receive``."""
    spans = plan_spans(frames, length)
    with read_ahead(source.read(spans), _AHEAD) as pieces:
        stream = _Stream(pieces, spans)
        yield (stream.frame(frame).read_all() for frame in frames)


class Reception:
    """Frames as they arrive, each unpacked in the thread that took it."""

    def __init__(self, files: Iterator[File], stream: "_Stream", source: Source) -> None:
        self._files = files
        self._stream = stream
        self._source = source
        self._spoilt: list[File] = []
        self._taking = threading.Lock()
        self._stopped = False

    def spoilt(self) -> list[File]:
        """Give the files whose frames were not the signed ones and may be had elsewhere, by their offsets."""
        return sorted(self._spoilt, key=lambda file: file.o)

    def stop(self) -> None:
        """Let no thread take another file."""
        self._stopped = True

    def drain(self, write: Write) -> None:
        """Take files until none is left or another thread failed. Raises: as ``receive``; the others stop then."""
        unpacker = Unpacker()
        try:
            while self._take(write, unpacker):
                pass
        except BaseException:
            self.stop()
            raise

    def _take(self, write: Write, unpacker: Unpacker) -> bool:
        with self._taking:
            file = None if self._stopped else next(self._files, None)
            if file is None:
                return False
            try:
                frame = self._stream.frame(file)
                if file.z > MAX_HELD_BYTES:
                    self._write(file, write, unpacker.unpack(file, frame))
                    return True
                held = io.BytesIO(frame.read_all())
            except BaseException:
                # said while the next one still waits for its turn: it would find the stream torn
                self.stop()
                raise
        self._write(file, write, unpacker.unpack(file, held))
        return True

    def _write(self, file: File, write: Write, blocks: Iterator[Block]) -> None:
        try:
            write(file, blocks)
        except TrustError as exc:
            if not self._source.doubt(Span(file.o, file.o + file.z), exc):
                raise
            self._spoilt.append(file)


class _Stream:
    """Pieces of consecutive spans, read by offset, only ever forwards."""

    def __init__(self, pieces: Iterator[bytes], spans: Sequence[Span]) -> None:
        self._pieces = pieces
        self._spans = list(reversed(spans))
        self._position = spans[0].start if spans else 0
        self._piece = b""
        self._used = 0

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
        if self._used == len(self._piece):
            self._piece = next(self._pieces, b"")
            self._used = 0
            if not self._piece:
                raise FetchError(f"the artifact ended at offset {self._position}; try again")
        part = self._piece[self._used : self._used + size]
        self._used += len(part)
        self._position += len(part)
        return part


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

    def read_all(self) -> bytes:
        """Give what is left of it."""
        return b"".join(iter(lambda: self.read(self._left), b""))


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
