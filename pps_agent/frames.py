"""Bounded decompression: a frame gives exactly the bytes its signed manifest promises, or an error.

Every zstd frame is judged by its header before a byte of it is unpacked: window, stated size,
dictionary. Memory is bounded by MAX_WINDOW_BYTES and one block, whatever the bytes say. Pure.
Source: RFC 8878, section 3.1.1.1 (frame header).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final, Protocol, cast

import zstandard

from pps_agent.errors import TrustError
from pps_wire.errors import WireError
from pps_wire.manifest import MAX_LINE_BYTES, MAX_WINDOW_BYTES, File, Manifest, parse_manifest

MAX_MANIFEST_TEXT_BYTES: Final = 512 * 1024**2
"""Largest manifest once unpacked; it is read line by line, never as a whole."""

_BLOCK_BYTES: Final = 256 * 1024
_HEADER_BYTES: Final = 18
"""Longest frame header, magic number included (RFC 8878)."""


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest with the very bytes that were signed."""

    manifest: Manifest
    raw: bytes


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
        digest = hashlib.sha256()
        left = file.s
        try:
            whole = _Headed(body)
            _judge_header(whole.head, file.s)
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
        except zstandard.ZstdError as exc:
            raise _fault(file, str(exc)) from exc
        if left:
            raise _fault(file, f"unpacks to only {file.s - left} of its {file.s} bytes")
        if digest.hexdigest() != file.h:
            raise _fault(file, "has another sha256 than signed")


def unpack_manifest(raw: bytes) -> Manifest:
    """Read a compressed manifest. Raises: WireError and nothing else, for any bytes."""
    try:
        _judge_header(raw[:_HEADER_BYTES], None)
        with _decoder().stream_reader(raw) as reader:
            return parse_manifest(_lines(reader))
    except zstandard.ZstdError as exc:
        raise WireError("manifest", str(exc)) from exc


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


def _judge_header(head: bytes, size_bytes: int | None) -> None:
    """Refuse a frame by its header. Raises: ZstdError, also for bytes that are no frame."""
    frame = zstandard.get_frame_parameters(head)
    if frame.window_size > MAX_WINDOW_BYTES:
        raise zstandard.ZstdError(
            f"the frame asks for a window of {frame.window_size} bytes, {MAX_WINDOW_BYTES} is allowed"
        )
    if frame.dict_id:
        raise zstandard.ZstdError("the frame asks for a dictionary")
    if size_bytes is not None and frame.content_size not in (size_bytes, zstandard.CONTENTSIZE_UNKNOWN):
        raise zstandard.ZstdError(f"the frame states {frame.content_size} bytes where {size_bytes} are signed")


def _lines(reader: Body) -> Iterator[bytes]:
    """Cut lines of bounded length out of a bounded text."""
    pending = b""
    total = 0
    while block := reader.read(_BLOCK_BYTES):
        total += len(block)
        if total > MAX_MANIFEST_TEXT_BYTES:
            raise WireError("manifest", f"unpacks to more than {MAX_MANIFEST_TEXT_BYTES} bytes")
        *lines, pending = (pending + block).split(b"\n")
        yield from lines
        if len(pending) > MAX_LINE_BYTES:
            raise WireError("manifest", f"has a line of more than {MAX_LINE_BYTES} bytes")
    if pending:
        yield pending


def _fault(file: File, problem: str) -> TrustError:
    return TrustError(
        f"{file.p}, frame at {file.o}: {problem}; the artifact is not the signed one: "
        "have it copied again, or tell the release managers"
    )
