"""Reads a tar stream member by member into a harvest; a parser of our own, because it meets foreign bytes.

Python's ``tarfile`` has had endless loops and quadratic patterns in its header reader, in versions we
support (CVE-2025-8194, CVE-2024-6232), and keeps extended headers of any size in memory. This one reads
forwards only, and each step consumes a block. Sources: POSIX.1-2017, pax, "ustar Interchange Format" and
"pax Header Block"; GNU tar manual, "Basic Tar Format" (long names ``L`` and ``K``, base-256 numbers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pps_publisher.build.harvest import Harvest
from pps_publisher.build.inflate import Inflated
from pps_publisher.errors import ArchiveError

BLOCK: Final = 512
MAX_EXTENDED_BYTES: Final = 1024**2
"""One extended header; a path and a link text need 8 KiB."""
MAX_HEADERS: Final = 8
"""Extended headers that may stand before one member."""
MAX_SIZE: Final = 2**62
_END: Final = bytes(BLOCK)
_FILES: Final = frozenset("07\0")
_SPECIAL: Final = frozenset("346")
_DENIED: Final = {
    "S": "is a sparse file; pack without --sparse",
    "M": "continues another volume; pack into one archive",
    "D": "belongs to an incremental backup; pack without --incremental",
}


@dataclass(frozen=True, slots=True)
class Header:
    """One header block: all a release needs of it. ``size_bytes`` counts the data that follow."""

    name: str
    kind: str
    mode: int
    size_bytes: int
    link: str


def harvest_tar(stream: Inflated, harvest: Harvest) -> None:
    """Read every member of a tar archive. Raises: ArchiveError and, for the disk, OSError; nothing else."""
    shared: dict[str, str] = {}
    while (header := _read_member(stream, shared)) is not None:
        _add(header, stream, harvest)
    stream.demand_end()


def parse_header(block: bytes, where: str) -> Header:
    """Read one header block of 512 bytes. Raises: ArchiveError and nothing else, for any bytes."""
    told = _number(block[148:156], where)
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if told != unsigned:
        raise ArchiveError(f"{where}: a header's checksum is wrong, or this is no tar archive; fetch it again")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    return Header(
        name=name,
        kind=chr(block[156]),
        mode=_number(block[100:108], where) & 0o7777,
        size_bytes=_number(block[124:136], where),
        link=_text(block[157:257]),
    )


def parse_records(content: bytes, where: str) -> dict[str, str]:
    """Read pax records, ``<length> <key>=<value>`` and a newline each.

    Raises: ArchiveError and nothing else, for any bytes.
    """
    records: dict[str, str] = {}
    at = 0
    while at < len(content):
        blank = content.find(b" ", at, at + 8)
        digits = content[at:blank] if blank > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, separator, value = content[blank + 1 : max(end - 1, 0)].partition(b"=")
        if end > len(content) or content[end - 1 : end] != b"\n" or not separator or end <= blank:
            raise ArchiveError(f"{where}: a pax header is damaged; fetch it again")
        if key.startswith(b"GNU.sparse."):
            raise ArchiveError(f"{where}: holds a sparse file; pack without --sparse")
        if key in _PAX:
            records[_PAX[key]] = value.decode(errors="surrogateescape")
        at = end
    return records


_PAX: Final[Mapping[bytes, str]] = {b"path": "name", b"linkpath": "link", b"size": "size"}


def _read_member(stream: Inflated, shared: dict[str, str]) -> Header | None:
    """Give the next member with what extended headers say of it; None at the end mark."""
    own: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        block = stream.read_exactly(BLOCK)
        if block == _END:
            return None
        header = parse_header(block, stream.where)
        match header.kind:
            case "x":
                own |= parse_records(_extended(stream, header), stream.where)
            case "g":
                shared |= parse_records(_extended(stream, header), stream.where)
            case "L" | "K":
                field = "name" if header.kind == "L" else "link"
                own[field] = _text(_extended(stream, header))
            case _:
                return _join(header, shared | own, stream.where)
    raise ArchiveError(f"{stream.where}: more than {MAX_HEADERS} extended headers before one member; pack it again")


def _join(header: Header, told: Mapping[str, str], where: str) -> Header:
    size = told.get("size", str(header.size_bytes))
    if not (size.isascii() and size.isdigit()) or len(size) > 19 or int(size) > MAX_SIZE:
        raise ArchiveError(f"{where}: a size of {size[:40]!r} makes no sense; fetch it again")
    name, link = told.get("name", header.name), told.get("link", header.link)
    for text in (name, link):
        if any("\udc80" <= character <= "\udcff" for character in text):
            raise ArchiveError(f"{where}: the name {text[:80]!a} is not UTF-8; rename it and pack again")
    return Header(name, header.kind, header.mode, int(size), link)


def _add(header: Header, stream: Inflated, harvest: Harvest) -> None:
    if header.kind in _FILES and header.name.endswith("/"):
        harvest.add_directory(header.name, header.mode)  # as archives older than POSIX say it
    elif header.kind in _FILES:
        harvest.add_file(header.name, header.mode, header.size_bytes, stream.copy(header.size_bytes))
        stream.read_exactly(-header.size_bytes % BLOCK)
        return
    elif header.kind == "5":
        harvest.add_directory(header.name, header.mode)
    elif header.kind == "2":
        harvest.add_link(header.name, header.link)
    elif header.kind == "1":
        harvest.add_twin(header.name, header.link)
    elif header.kind in _SPECIAL:
        harvest.add_other(header.name, header.mode)
    elif header.kind != "V":  # a volume's label says nothing of the tree
        told = _DENIED.get(header.kind, f"is of the unknown type {header.kind!r}; pack it again with another tool")
        raise ArchiveError(f"{stream.where}: {header.name[:200]!r} {told}")
    # Old archives state sizes for these, and POSIX lets a reader skip them; data would be lost silently.
    if header.size_bytes and header.kind not in _SPECIAL | {"5"}:
        raise ArchiveError(f"{stream.where}: {header.name[:200]!r} has data that its type cannot have; pack it again")


def _extended(stream: Inflated, header: Header) -> bytes:
    if header.size_bytes > MAX_EXTENDED_BYTES:
        raise ArchiveError(f"{stream.where}: an extended header of {header.size_bytes:,} bytes; pack it again")
    content = stream.read_exactly(header.size_bytes)
    stream.read_exactly(-header.size_bytes % BLOCK)
    return content


def _number(field: bytes, where: str) -> int:
    """Read octal text, or GNU's base-256 form, whose first bit is set; a negative one is refused."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value > MAX_SIZE:
            raise ArchiveError(f"{where}: a number in a header is negative or too large; fetch it again")
        return value
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ArchiveError(
            f"{where}: a header holds no number where one belongs, or this is no tar archive; fetch it again"
        )
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    """Give the text before the first NUL; what is not UTF-8 is judged when it turns out to be a member's name."""
    return field.partition(b"\0")[0].decode(errors="surrogateescape")
