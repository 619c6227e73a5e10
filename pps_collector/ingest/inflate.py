"""Bounded decompression of what agents send. Pure; the input is untrusted."""

import zlib
from enum import Enum
from typing import Final

import zstandard

_STEP_BYTES: Final = 64 * 1024
_MAX_WINDOW_BYTES: Final = 8 * 1024**2


class Encoding(Enum):
    """The content encodings that are understood."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


class TooLargeError(ValueError):
    """More came out than is allowed; nothing beyond the limit was inflated."""


class DamagedError(ValueError):
    """The bytes are not of this encoding."""


def inflate(raw: bytes, encoding: Encoding, limit_bytes: int) -> bytes:
    """Give the decompressed bytes, at most ``limit_bytes`` of them.

    One frame or member only; what follows it is damage. Raises: TooLargeError, DamagedError.
    """
    match encoding:
        case Encoding.IDENTITY:
            plain = raw
        case Encoding.GZIP:
            plain = _inflate_gzip(raw, limit_bytes)
        case Encoding.ZSTD:
            plain = _inflate_zstd(raw, limit_bytes)
    if len(plain) > limit_bytes:
        raise TooLargeError(f"more than {limit_bytes} bytes after decompression")
    return plain


def _inflate_gzip(raw: bytes, limit_bytes: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(raw, limit_bytes + 1)
    except zlib.error as exc:
        raise DamagedError(f"not gzip: {exc}") from exc
    if len(plain) <= limit_bytes and (not inflater.eof or inflater.unused_data):
        raise DamagedError("not gzip: cut short, or something follows it")
    return plain


def _inflate_zstd(raw: bytes, limit_bytes: int) -> bytes:
    # The reader gives a frame's bytes without saying whether the frame ended; a cut one is found by
    # the JSON that does not end. It never holds more than one step beyond the limit.
    pieces = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(raw) as reader:
            while len(pieces) <= limit_bytes and (piece := reader.read(_STEP_BYTES)):
                pieces += piece
    except zstandard.ZstdError as exc:
        raise DamagedError(f"not zstd: {exc}") from exc
    return bytes(pieces)
