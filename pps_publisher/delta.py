"""One delta: from the old content of a file to the new. Form and limits: ``pps_wire/delta.py``.

bsdiff finds what both have in common, LZMA2 packs what it found: bsdiff's own bzip2 was 14 % larger on
rebuilt libraries. The same contents give the same bytes with the same release of liblzma.
"""

import lzma
from typing import Final

from bsdiff4 import core

from pps_publisher.errors import PublishError
from pps_wire.delta import CONTROL, DELTA_HEAD, DICTIONARY_BYTES, MAX_CONTROLS

_FILTERS: Final = (
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY_BYTES, "pb": 0},
)


def make_delta(old: bytes, new: bytes) -> bytes | None:
    """Give a delta, or None when the two have too little in common to say it within the limits.

    Takes 17 times the length of ``old`` of memory. Raises: PublishError when the delta, applied again, gives
    something else: a fault of this machine.
    """
    control, diff, extra = core.diff(old, new)
    count = len(control) // CONTROL.size
    if count > MAX_CONTROLS:
        return None
    body = lzma.compress(control + diff + extra, lzma.FORMAT_RAW, filters=_FILTERS)
    plain = lzma.decompress(body, lzma.FORMAT_RAW, filters=_FILTERS)
    at = len(control) + len(diff)
    if core.patch(old, len(new), plain[: len(control)], plain[len(control) : at], plain[at:]) != new:
        raise PublishError(
            "a delta does not give the file it was made for; check this machine's memory, then try again"
        )
    return DELTA_HEAD.pack(count, len(diff)) + body
