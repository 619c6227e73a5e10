"""Reads JSON documents of the contract: WireError and nothing else for any bytes, and clear words for newer formats.

Every versioned document carries ``v``; where it is absent it means 1. A reader ignores fields it does not
know and refuses a ``v`` above its own. Integers stay within what every JSON reader keeps exactly.
"""

from datetime import datetime
from typing import Annotated, Final, TypeVar

import msgspec

from pps_wire.errors import WireError

MAX_INTEGER: Final = 2**53 - 1
"""Largest whole number in any document. Source: RFC 7493 (I-JSON), clause 2.2."""

FormatVersion = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time; one without a time zone is refused."""


class _Versioned(msgspec.Struct):
    """The one field that must be understood even when the rest is not."""

    v: FormatVersion = 1


_T = TypeVar("_T")
_VERSION = msgspec.json.Decoder(_Versioned)


def decode_document(raw: bytes, decoder: msgspec.json.Decoder[_T], where: str, newest: int) -> _T:
    """Decode one document of a format up to ``newest``.

    A newer one is refused as newer, also where its fields no longer fit. Raises: WireError and nothing
    else, for any bytes.
    """
    try:
        value = decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        refuse_newer(_peek_version(raw), where, newest)
        raise WireError(where, str(exc)) from exc
    refuse_newer(getattr(value, "v", 1), where, newest)
    return value


def refuse_newer(version: int, where: str, newest: int) -> None:
    """Refuse a format above ``newest``. Raises: WireError."""
    if version > newest:
        raise WireError(where, f"format {version} is newer than {newest}: update this program")


def _peek_version(raw: bytes) -> int:
    try:
        return _VERSION.decode(raw).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 1
