"""The form of one per-file delta: how to get a file's content from another that a site may have.

The algorithm is bsdiff's, its three streams are compressed as one. All numbers are little-endian::

    4 bytes   n, how many control entries follow
    8 bytes   m, length of the diff stream
    the rest  one raw LZMA2 stream of 24 n bytes control ‖ m bytes diff ‖ s - m bytes extra

where s is the size of the new file. A control entry is three 64-bit numbers, sign and magnitude: add so
many diff bytes to as many of the old file, take so many extra bytes, move so far in the old file.
The bytes are worth nothing before their sha256 was compared with the signed one.
Source: bsdiff (C. Percival, "Naive differences of executable code"); the LZMA2 chunks of the .xz file format 1.1.0.
"""

import struct
from typing import Final

DELTA_FORMAT: Final = "bsdiff4+lzma2"
"""What ``deltas.format`` of a release says; readers ignore deltas of any other."""
DELTA_HEAD: Final = struct.Struct("<IQ")
CONTROL: Final = struct.Struct("<QQQ")
SIGN_BIT: Final = 1 << 63
DICTIONARY_BYTES: Final = 8 * 1024**2
"""Bounds the memory of unpacking, besides the sizes below."""
MAX_DELTA_FILE_BYTES: Final = 64 * 1024**2
"""Larger files, old or new, have no deltas: making one takes 17 times the old size of memory, applying one
the old size and three times the new."""
MAX_CONTROLS: Final = 1_000_000
