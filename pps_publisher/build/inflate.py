"""Foreign compressed bytes as a bounded stream: gzip, bzip2, xz, lzma and zstd, told apart by their first bytes.

Whatever the input, memory stays small and the output ends: each step gives one block at most,
dictionaries are capped, and output that dwarfs its input is refused. Sources: RFC 1952; RFC 8878; the
.xz file format 1.1, clause 2.1.1.1.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol, cast

import zstandard

from pps_publisher.errors import ArchiveError

MAX_RATIO: Final = 200
"""Output bytes for each input byte, beyond FREE_BYTES: clients compress 3:1, zeros up to 32,000:1."""
FREE_BYTES: Final = 256 * 1024**2
"""Output that is allowed however small the input is."""
MAX_OUTPUT_BYTES: Final = 32 * 1024**3

_BLOCK: Final = 256 * 1024
_LZMA_MEMORY: Final = 128 * 1024**2
_ZSTD_WINDOW: Final = 128 * 1024**2
_FAULTS: Final = (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
"""What decompressors answer to damaged input; bzip2 uses OSError, so reading the file stays outside."""


class _Decoder(Protocol):
    """What the decompressors of the standard library have in common, or are given here."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused(self) -> bytes: ...
    def step(self, data: bytes) -> bytes: ...


class Inflated:
    """The plain bytes of a stream that may be compressed; ``where`` names it in errors."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.where = where
        self._source = _Source(stream)
        self._pieces = self._inflate()
        self._block = b""
        self._at = 0
        self._given_bytes = 0

    def read(self, size: int) -> bytes:
        """Give ``size`` bytes, fewer only at the end. Raises: ArchiveError for damage or a bomb; OSError."""
        found = bytearray()
        while len(found) < size:
            if self._at == len(self._block):
                self._block, self._at = next(self._pieces, b""), 0
                if not self._block:
                    break
                self._refuse_bomb()
            taken = self._block[self._at : self._at + size - len(found)]
            self._at += len(taken)
            found += taken
        return bytes(found)

    def read_exactly(self, size: int) -> bytes:
        """Give ``size`` bytes. Raises: ArchiveError where the stream ends before; OSError."""
        found = self.read(size)
        if len(found) != size:
            raise ArchiveError(f"{self.where}: is cut off; fetch it again")
        return found

    def copy(self, size: int) -> Iterator[bytes]:
        """Give ``size`` bytes in blocks. Raises: as ``read_exactly``."""
        while size:
            block = self.read_exactly(min(size, _BLOCK))
            size -= len(block)
            yield block

    def demand_end(self) -> None:
        """Read to the end, where only zeros may follow: check sums come last, and hidden data mean two things.

        Raises: as ``read``.
        """
        while block := self.read(_BLOCK):
            if block.strip(b"\0"):
                raise ArchiveError(f"{self.where}: holds more data behind its end mark; pack it again")

    def _refuse_bomb(self) -> None:
        self._given_bytes += len(self._block)
        allowed = min(MAX_OUTPUT_BYTES, FREE_BYTES + MAX_RATIO * self._source.read_bytes)
        if self._given_bytes > allowed:
            raise ArchiveError(
                f"{self.where}: {self._source.read_bytes:,} bytes became more than {allowed:,}; "
                "what unpacks like this is no client: look into it by hand"
            )

    def _inflate(self) -> Iterator[bytes]:
        head = self._source.peek(6)
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            return self._inflate_zstd()
        make = _decoder_for(head)
        return self._inflate_streams(make) if make else iter(lambda: self._source.read(_BLOCK), b"")

    def _inflate_zstd(self) -> Iterator[bytes]:
        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        reader = decoder.stream_reader(cast("BinaryIO", self._source), read_size=_BLOCK, read_across_frames=True)
        while block := self._step(lambda _: reader.read(_BLOCK), b""):
            yield block

    def _inflate_streams(self, make: Callable[[], _Decoder]) -> Iterator[bytes]:
        """Streams may follow one another, and zeros may fill up the last block, as the tools allow."""
        data = self._source.read(_BLOCK)
        while data:
            decoder = make()
            while True:
                block = self._step(decoder.step, data)
                if block:
                    yield block
                if decoder.eof:
                    data = decoder.unused.lstrip(b"\0") or self._source.read(_BLOCK).lstrip(b"\0")
                    break
                data = b"" if block else self._source.read(_BLOCK)
                if not data and not block:
                    raise ArchiveError(f"{self.where}: is cut off; fetch it again")

    def _step(self, step: Callable[[bytes], bytes], data: bytes) -> bytes:
        try:
            return step(data)
        except _FAULTS as exc:
            if self._source.fault is not None:
                raise self._source.fault from exc
            raise ArchiveError(f"{self.where}: its compressed data are damaged ({exc}); fetch it again") from exc


class _Source:
    """Counts what is read, and remembers a fault of the disk, which is none of the archive's."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead = b""
        self.read_bytes = 0
        self.fault: OSError | None = None

    def peek(self, size: int) -> bytes:
        self._ahead = self.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            taken, self._ahead = self._ahead[:size], self._ahead[size:]
            return taken
        try:
            found = self._stream.read(size)
        except OSError as exc:
            self.fault = exc
            raise
        self.read_bytes += len(found)
        return found


class _Gzip:
    def __init__(self) -> None:
        self._worker = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._worker.eof

    @property
    def unused(self) -> bytes:
        return self._worker.unused_data

    def step(self, data: bytes) -> bytes:
        return self._worker.decompress(self._worker.unconsumed_tail + data, _BLOCK)


class _Standard:
    """bz2 and lzma keep what they could not use yet by themselves."""

    def __init__(self, worker: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._worker = worker

    @property
    def eof(self) -> bool:
        return self._worker.eof

    @property
    def unused(self) -> bytes:
        return self._worker.unused_data

    def step(self, data: bytes) -> bytes:
        return self._worker.decompress(data, _BLOCK)


def _decoder_for(head: bytes) -> Callable[[], _Decoder] | None:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip
    if head.startswith(b"BZh"):
        return lambda: _Standard(bz2.BZ2Decompressor())
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lambda: _Standard(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY))
    return None
