"""Reads the cpio archive of an RPM package, member by member, bounded. Pure but for the reading it is given.

Two forms: "new ASCII" with eight-digit hexadecimal fields, and rpm's own for packages with files above
4 GiB, which holds an index into the header's file list instead. Sources: cpio(5), "New ASCII Format";
RPM reference manual, "Payload".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pps_publisher.errors import ArchiveError
from pps_wire.paths import MAX_PATH_BYTES

Read = Callable[[int], bytes]
"""Gives exactly so many bytes or raises ArchiveError."""
HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
TRAILER: Final = "TRAILER!!!"

_FIELDS: Final = 13


@dataclass(frozen=True, slots=True)
class Member:
    """One member's header; its data follow in the stream. rpm's own form has only ``index``."""

    path: str
    size_bytes: int
    index: int | None = None


def read_member(read: Read, where: str) -> Member | None:
    """Read the next member's header; None at the end mark. The data, padded to 4 bytes, are the caller's.

    Raises: ArchiveError and nothing else but what ``read`` raises, for any bytes.
    """
    magic = read(6)
    if magic == b"07070X":
        index = _hex(read(8), where)
        read(2)  # the header's 14 bytes are padded to 4
        return Member("", 0, index)
    if magic not in (b"070701", b"070702"):
        raise ArchiveError(f"{where}: its payload is damaged or of an old form; fetch it again")
    raw = read(8 * _FIELDS)
    fields = [_hex(raw[at : at + 8], where) for at in range(0, len(raw), 8)]
    size, name_bytes = fields[6], fields[11]
    if not 0 < name_bytes <= MAX_PATH_BYTES + 8:
        raise ArchiveError(f"{where}: a name of {name_bytes} bytes in its payload; fetch it again")
    name = read(name_bytes)
    read(-(110 + name_bytes) % 4)
    if not name.endswith(b"\0") or b"\0" in name[:-1]:
        raise ArchiveError(f"{where}: a damaged name in its payload; fetch it again")
    try:
        path = name[:-1].decode()
    except UnicodeDecodeError as exc:
        raise ArchiveError(f"{where}: the name {name[:80]!r} is not UTF-8; no release can carry it") from exc
    if path == TRAILER:
        return None
    return Member(path, size)


def _hex(field: bytes, where: str) -> int:
    if not HEX_DIGITS.issuperset(field):
        raise ArchiveError(f"{where}: its payload is damaged; fetch it again")
    return int(field, 16)
