"""Apply one delta, bounded: the right file or an error, whatever the bytes say. Form: ``pps_wire/delta.py``.

A delta is hashed before anything in it is looked at, unpacked into exactly the bytes that the manifest
implies, and its control entries are followed once, in numbers alone, before code that writes memory gets
them. Old content, delta and at most three times the new content are in memory at once: less than
5 x MAX_DELTA_FILE_BYTES, with the control entries.
"""

import hashlib
import lzma
from collections.abc import Iterator
from typing import Final

from bsdiff4 import core

from pps_agent.errors import TrustError
from pps_wire.delta import (
    CONTROL,
    DELTA_HEAD,
    DICTIONARY_BYTES,
    MAX_CONTROLS,
    MAX_DELTA_FILE_BYTES,
    SIGN_BIT,
)
from pps_wire.manifest import Delta, File

_FILTERS: Final = ({"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY_BYTES},)
_NOTHING: Final = memoryview(b"")


def choose_deltas(file: File, pack_bytes: int) -> Iterator[Delta]:
    """Give the deltas of a file that may be tried: inside the pack, shorter than the frame, within the limits. Pure."""
    if file.s <= MAX_DELTA_FILE_BYTES:
        yield from (delta for delta in file.d if 0 < delta.z < file.z and delta.o + delta.z <= pack_bytes)


def apply_delta(file: File, delta: Delta, old: bytes, raw: bytes) -> bytes:
    """Give the content of ``file`` from ``old`` content and the bytes of one of its deltas.

    Raises: TrustError naming the file and the delta's offset, for any bytes.
    """
    if _sha256(raw) != delta.h:
        raise _fault(file, delta, "has another sha256 than signed")
    if _sha256(old) != delta.b:
        raise _fault(file, delta, "the old content is not what it starts from")
    if max(len(old), file.s) > MAX_DELTA_FILE_BYTES:
        raise _fault(file, delta, f"old or new content has more than {MAX_DELTA_FILE_BYTES} bytes")
    if len(raw) < DELTA_HEAD.size:
        raise _fault(file, delta, "ends within its head")
    count, diff_bytes = DELTA_HEAD.unpack_from(raw)
    if count > MAX_CONTROLS or diff_bytes > file.s:
        raise _fault(file, delta, f"announces {count} control entries and {diff_bytes} bytes of difference")
    sizes = (count * CONTROL.size, diff_bytes, file.s - diff_bytes)
    control, diff, extra = _unpack(file, delta, memoryview(raw)[DELTA_HEAD.size :], sizes)
    if problem := _control_problem(control, len(old), diff_bytes, file.s):
        raise _fault(file, delta, problem)
    try:
        new: bytes = core.patch(old, file.s, control, diff, extra)
    except ValueError as exc:
        raise _fault(file, delta, str(exc)) from exc
    if _sha256(new) != file.h:
        raise _fault(file, delta, "gives a file of another sha256 than signed")
    return new


def _unpack(file: File, delta: Delta, packed: memoryview, sizes: tuple[int, ...]) -> list[bytes]:
    """Decompress to streams of exactly these sizes, and at most one byte more."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)

    def take(size: int, more: memoryview = _NOTHING) -> bytes:
        return b"" if decoder.eof else decoder.decompress(more, max_length=size)

    try:
        take(0, packed)
        streams = [take(size) for size in sizes]
        too_much = take(1)
    except (lzma.LZMAError, EOFError) as exc:
        raise _fault(file, delta, f"cannot be unpacked ({exc})") from exc
    if tuple(map(len, streams)) != sizes or too_much or not decoder.eof or decoder.unused_data:
        raise _fault(file, delta, f"does not unpack to {sum(sizes)} bytes")
    return streams


def _control_problem(control: bytes, old_bytes: int, diff_bytes: int, new_bytes: int) -> str:
    """Follow the control entries in numbers; give the first that leaves the old file or a stream, or nothing.

    bsdiff itself never writes an entry that reads outside the old file; the library would take it as zeros.
    """
    position = added = taken = 0
    for add, take, move in CONTROL.iter_unpack(control):
        added += add
        taken += take
        if add > old_bytes - position or added > diff_bytes or added + taken > new_bytes:
            return "a control entry reads behind an end"
        position += add + (move if move < SIGN_BIT else SIGN_BIT - move)
        if position < 0:
            return "a control entry moves before the old file"
    if (added, added + taken) != (diff_bytes, new_bytes):
        return f"its control entries make {added + taken} of {new_bytes} bytes"
    return ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fault(file: File, delta: Delta, problem: str) -> TrustError:
    return TrustError(
        f"{file.p}, delta at {delta.o}: {problem}; its frame is fetched instead, tell the release managers"
    )
