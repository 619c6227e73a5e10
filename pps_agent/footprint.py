"""Keeps a long-lived process small."""

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
_libc: Final = ctypes.CDLL(None)


def share_one_heap() -> None:
    """Have all threads take memory from one heap: each of their own keeps megabytes that nobody uses.

    Source: mallopt(3). A C library that has no such thing is left alone.
    """
    if (mallopt := getattr(_libc, "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)
