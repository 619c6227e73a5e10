"""Bounded decompression: a frame gives exactly the bytes its signed manifest promises, or an error.

Every zstd frame is judged by its header before a byte of it is unpacked: window, stated size,
dictionary. Memory is bounded by MAX_WINDOW_BYTES and one block, whatever the bytes say. Pure.
Source: RFC 8878, section 3.1.1.1 (frame header).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final, Protocol, cast

import zstandard

from pps_agent.errors import TrustError
from pps_wire.errors import WireError
from pps_wire.manifest import (
    MAX_LINE_BYTES,
    MAX_WINDOW_BYTES,
    Directory,
    Entry,
    File,
    Head,
    Link,
    Lint,
    read_manifest,
)

MAX_MANIFEST_TEXT_BYTES: Final = 512 * 1024**2
"""Largest manifest once unpacked; it is read line by line, never as a whole."""

_BLOCK_BYTES: Final = 256 * 1024
_WHOLE_BYTES: Final = 1024**2
_LINES_BYTES: Final = 32 * 1024
_HEADER_BYTES: Final = 18
"""Longest frame header, magic number included (RFC 8878)."""


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """The very bytes that were signed, linted; every look at the entries unpacks them anew and keeps none.

    So a tree of any size is handled in the memory of its compressed manifest. Get one from ``open_manifest``.
    """

    head: Head
    raw: bytes = field(repr=False)

    def entries(self) -> Iterator[Entry]:
        """Give all entries in path order: a directory before what it holds."""
        return _read(self.raw)[1]

    def files(self) -> Iterator[File]:
        """Give the regular files in path order, which is that of their frames."""
        return (entry for entry in self.entries() if isinstance(entry, File))

    def directories(self) -> Iterator[Directory]:
        """Give the directories, each before those below it."""
        return (entry for entry in self.entries() if isinstance(entry, Directory))

    def links(self) -> Iterator[Link]:
        """Give the symbolic links in path order."""
        return (entry for entry in self.entries() if isinstance(entry, Link))


Block = bytes | memoryview
"""A piece of a file's content."""


class Body(Protocol):
    """Where the compressed bytes of one frame are read from."""

    def read(self, size: int, /) -> bytes:
        """Give at most ``size`` bytes; none at all only at the frame's end."""
        ...


class Unpacker:
    """Turns frames into file contents, one after the other, through one buffer; for one thread at a time."""

    def __init__(self) -> None:
        self._decoder = _decoder()
        self._buffer = memoryview(bytearray(_BLOCK_BYTES))

    def unpack(self, file: File, body: Body) -> Iterator[Block]:
        """Give the content of ``file`` block by block; a block is overwritten by the next.

        The last block is given before size and hash are judged, so what was written must not be
        used until the iterator has ended. Raises: TrustError naming the file and its offset.
        """
        try:
            whole = _Headed(body)
            stated = _judge_header(whole.head, file.s)
            if stated and max(file.s, file.z) <= _WHOLE_BYTES:
                yield self._unpack_whole(file, whole)
            else:
                yield from self._unpack_blocks(file, whole)
        except zstandard.ZstdError as exc:
            raise _fault(file, str(exc)) from exc

    def _unpack_whole(self, file: File, whole: "_Headed") -> bytes:
        """One call for a small file: setting up a stream costs more than unpacking it."""
        packed = b"".join(iter(lambda: whole.read(_BLOCK_BYTES), b""))
        content = self._decoder.decompress(packed)
        if hashlib.sha256(content).hexdigest() != file.h:
            raise _fault(file, "has another sha256 than signed")
        return content

    def _unpack_blocks(self, file: File, whole: "_Headed") -> Iterator[Block]:
        digest = hashlib.sha256()
        left = file.s
        # only read() is called of the source, which the stubs cannot say
        source = cast(IO[bytes], whole)
        with self._decoder.stream_reader(source, read_size=_BLOCK_BYTES, closefd=False) as reader:
            while size := reader.readinto(self._buffer):
                left -= size
                if left < 0:
                    raise _fault(file, f"unpacks to more than its {file.s} bytes")
                block = self._buffer[:size]
                digest.update(block)
                yield block
        if left:
            raise _fault(file, f"unpacks to only {file.s - left} of its {file.s} bytes")
        if digest.hexdigest() != file.h:
            raise _fault(file, "has another sha256 than signed")


def open_manifest(raw: bytes, length: int | None = None) -> SignedManifest:
    """Read and lint a compressed manifest; ``length`` is its artifact's, where known: no frame may lie behind it.

    Raises: WireError and nothing else, for any bytes. What was opened raises nothing later.
    """
    head, entries = _read(raw)
    lint = Lint(head, length)
    for entry in entries:
        lint.add(entry)
    lint.finish(_read(raw)[1])
    return SignedManifest(head, raw)


def _read(raw: bytes) -> tuple[Head, Iterator[Entry]]:
    return read_manifest(_lines(raw))


def _decoder() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)


class _Headed:
    """A body whose first bytes were looked at, still readable from its start."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.head = b""
        while len(self.head) < _HEADER_BYTES and (piece := body.read(_HEADER_BYTES - len(self.head))):
            self.head += piece
        self._pending = self.head

    def read(self, size: int, /) -> bytes:
        if not self._pending:
            return self._body.read(size)
        piece, self._pending = self._pending[:size], self._pending[size:]
        return piece


def _judge_header(head: bytes, size_bytes: int | None) -> bool:
    """Refuse a frame by its header; tell whether it states the size. Raises: ZstdError, also when it is none."""
    frame = zstandard.get_frame_parameters(head)
    if frame.window_size > MAX_WINDOW_BYTES:
        raise zstandard.ZstdError(
            f"the frame asks for a window of {frame.window_size} bytes, {MAX_WINDOW_BYTES} is allowed"
        )
    if frame.dict_id:
        raise zstandard.ZstdError("the frame asks for a dictionary")
    stated = frame.content_size != zstandard.CONTENTSIZE_UNKNOWN
    if size_bytes is not None and stated and frame.content_size != size_bytes:
        raise zstandard.ZstdError(f"the frame states {frame.content_size} bytes where {size_bytes} are signed")
    return stated


def _lines(raw: bytes) -> Iterator[bytes]:
    """Cut lines of bounded length out of a bounded text. Raises: WireError."""
    pending = b""
    total = 0
    try:
        _judge_header(raw[:_HEADER_BYTES], None)
        with _decoder().stream_reader(raw) as reader:
            while block := reader.read(_LINES_BYTES):
                total += len(block)
                if total > MAX_MANIFEST_TEXT_BYTES:
                    raise WireError("manifest", f"unpacks to more than {MAX_MANIFEST_TEXT_BYTES} bytes")
                *lines, pending = (pending + block).split(b"\n")
                yield from lines
                if len(pending) > MAX_LINE_BYTES:
                    raise WireError("manifest", f"has a line of more than {MAX_LINE_BYTES} bytes")
    except zstandard.ZstdError as exc:
        raise WireError("manifest", str(exc)) from exc
    if pending:
        yield pending


def _fault(file: File, problem: str) -> TrustError:
    return TrustError(
        f"{file.p}, frame at {file.o}: {problem}; the artifact is not the signed one: "
        "have it copied again, or tell the release managers"
    )
