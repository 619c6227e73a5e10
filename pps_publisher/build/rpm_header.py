"""What an RPM package says of itself: its headers, read with bounds. Pure.

An RPM file is a lead of 96 bytes, a signature header padded to 8 bytes, the header, and a compressed
cpio archive. A header is an index of 16-byte entries over a store of values. Source: RPM reference
manual, "RPM V4 Package format" and "Tags".
"""

import posixpath
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pps_publisher.errors import ArchiveError
from pps_wire.manifest import MAX_ENTRIES

LEAD_BYTES: Final = 96
INTRO_BYTES: Final = 16
MAX_INDEX: Final = 65_536
MAX_STORE_BYTES: Final = 256 * 1024**2
"""rpm's own limit."""

_LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01"
_DIST: Final = re.compile(r"\.(?P<os>(?:el|fc|amzn|azl|cm|oe|ky)\d+)(?:[._-]|$)")
_FILE_GHOST: Final = 1 << 6
"""Listed, and not in the archive. Source: RPM, "RPMFILE_GHOST"."""
_SENSE_RPMLIB: Final = 1 << 24

Read = Callable[[int], bytes]
"""Gives exactly so many bytes or raises ArchiveError."""
Value = tuple[int, ...] | tuple[str, ...] | bytes


class Tag(IntEnum):
    """The tags that are read."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    ARCH = 1022
    FILE_SIZES = 1028
    FILE_MODES = 1030
    FILE_DIGESTS = 1035
    FILE_LINKS = 1036
    FILE_FLAGS = 1037
    SOURCE_RPM = 1044
    PROVIDES = 1047
    REQUIRE_FLAGS = 1048
    REQUIRES = 1049
    FILE_INODES = 1096
    DIR_INDEXES = 1116
    BASE_NAMES = 1117
    DIR_NAMES = 1118
    PAYLOAD_FORMAT = 1124
    LONG_FILE_SIZES = 5008
    FILE_CAPS = 5010
    DIGEST_ALGORITHM = 5011


DIGESTS: Final = {0: "md5", 1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
"""Digest algorithms by number; none stated means MD5. Source: RFC 4880, clause 9.4."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file as the header describes it; ``path`` has no leading slash, ``digest`` is empty but for files."""

    path: str
    mode: int
    size_bytes: int
    digest: str
    to: str
    inode: int
    """Files that share it are hard links of one another."""
    ghost: bool
    capabilities: str


@dataclass(frozen=True, slots=True)
class Package:
    """What an RPM package's header says."""

    name: str
    version: str
    release: str
    arch: str
    os: str
    """The distribution its dist tag names, e.g. ``el9``; empty when there is none."""
    files: tuple[FileEntry, ...]
    digest_name: str
    provides: tuple[str, ...]
    requires: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name, version, release and architecture, as file names have them."""
        return f"{self.name}-{self.version}-{self.release}.{self.arch}"


def read_package(read: Read, where: str) -> Package:
    """Read lead and headers; afterwards the stream stands at the payload.

    Raises: ArchiveError and nothing else but what ``read`` raises, for any bytes.
    """
    if not read(LEAD_BYTES).startswith(_LEAD_MAGIC):
        raise ArchiveError(f"{where}: is no RPM package; name .rpm files")
    signature_bytes = _read_header(read, where)[1]
    read(-signature_bytes % 8)
    tags = _read_header(read, where)[0]
    try:
        return _package_of(tags, where)
    except (IndexError, KeyError, TypeError, ValueError) as exc:
        raise ArchiveError(f"{where}: its header contradicts itself ({exc!r}); fetch it again") from exc


def dist_os(release: str) -> str:
    """Give the distribution that a release's dist tag names, e.g. ``el9`` of ``5.el9_2``; empty without one."""
    match = _DIST.search("." + release)
    return match["os"] if match else ""


def _package_of(tags: dict[int, Value], where: str) -> Package:
    if _one(tags, Tag.PAYLOAD_FORMAT, "cpio") != "cpio":
        raise ArchiveError(f"{where}: its payload is no cpio archive; delta packages cannot be used")
    if Tag.SOURCE_RPM not in tags:
        raise ArchiveError(f"{where}: is a source package; name binary packages")
    release = _one(tags, Tag.RELEASE)
    flags = _numbers(tags, Tag.REQUIRE_FLAGS)
    needs = _texts(tags, Tag.REQUIRES)
    return Package(
        name=_one(tags, Tag.NAME),
        version=_one(tags, Tag.VERSION),
        release=release,
        arch=_one(tags, Tag.ARCH),
        os=dist_os(release),
        files=_files_of(tags, where),
        digest_name=DIGESTS[(_numbers(tags, Tag.DIGEST_ALGORITHM) or (0,))[0]],
        provides=_texts(tags, Tag.PROVIDES),
        requires=tuple(name for name, flag in zip(needs, flags, strict=True) if not flag & _SENSE_RPMLIB),
    )


def _files_of(tags: dict[int, Value], where: str) -> tuple[FileEntry, ...]:
    names = _texts(tags, Tag.BASE_NAMES)
    if len(names) > MAX_ENTRIES:
        raise ArchiveError(f"{where}: lists more than {MAX_ENTRIES:,} files; split the client")
    directories = _texts(tags, Tag.DIR_NAMES)
    sizes = _numbers(tags, Tag.LONG_FILE_SIZES) or _numbers(tags, Tag.FILE_SIZES)
    capabilities = _texts(tags, Tag.FILE_CAPS) or ("",) * len(names)
    rows = zip(
        names,
        _numbers(tags, Tag.DIR_INDEXES),
        _numbers(tags, Tag.FILE_MODES),
        sizes,
        _texts(tags, Tag.FILE_DIGESTS),
        _texts(tags, Tag.FILE_LINKS),
        _numbers(tags, Tag.FILE_INODES),
        _numbers(tags, Tag.FILE_FLAGS),
        capabilities,
        strict=True,
    )
    return tuple(
        FileEntry(
            path=posixpath.join(directories[directory], name).lstrip("/"),
            mode=mode & 0xFFFF,
            size_bytes=size,
            digest=digest,
            to=to,
            inode=inode,
            ghost=bool(flag & _FILE_GHOST),
            capabilities=caps,
        )
        for name, directory, mode, size, digest, to, inode, flag, caps in rows
    )


def _one(tags: dict[int, Value], tag: Tag, default: str | None = None) -> str:
    if tag not in tags and default is not None:
        return default
    return _texts(tags, tag)[0]


def _texts(tags: dict[int, Value], tag: Tag) -> tuple[str, ...]:
    value = tags.get(tag, ())
    if isinstance(value, bytes) or any(not isinstance(item, str) for item in value):
        raise TypeError(f"tag {tag} holds no text")
    return tuple(str(item) for item in value)


def _numbers(tags: dict[int, Value], tag: Tag) -> tuple[int, ...]:
    value = tags.get(tag, ())
    if isinstance(value, bytes) or any(not isinstance(item, int) for item in value):
        raise TypeError(f"tag {tag} holds no numbers")
    return tuple(int(item) for item in value)


def _read_header(read: Read, where: str) -> tuple[dict[int, Value], int]:
    """Give the tags of one header and the length of its store."""
    magic, index, store_bytes = struct.unpack(">4s4xII", read(INTRO_BYTES))
    if magic != _HEADER_MAGIC or index > MAX_INDEX or store_bytes > MAX_STORE_BYTES:
        raise ArchiveError(f"{where}: has no header that rpm would accept; fetch it again")
    entries = tuple(struct.iter_unpack(">IIII", read(index * INTRO_BYTES)))
    store = read(store_bytes)
    wanted = set(Tag)
    try:
        return {
            tag: _value(store, kind, offset, count) for tag, kind, offset, count in entries if tag in wanted
        }, store_bytes
    except (ValueError, UnicodeDecodeError) as exc:
        raise ArchiveError(f"{where}: its header is damaged ({exc}); fetch it again") from exc


_WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}
_TEXT_KINDS: Final = (6, 8, 9)
_BINARY: Final = 7


def _value(store: bytes, kind: int, offset: int, count: int) -> Value:
    """Read one value; kinds are char, int8…int64, string, binary, string array, translated string."""
    if offset > len(store) or count > len(store):
        raise ValueError("an index entry points outside the store")
    if kind in _WIDTHS:
        width = _WIDTHS[kind]
        raw = store[offset : offset + width * count]
        if len(raw) != width * count:
            raise ValueError("numbers end outside the store")
        return tuple(int.from_bytes(raw[at : at + width], "big") for at in range(0, len(raw), width))
    if kind in _TEXT_KINDS:
        return _strings(store, offset, count)
    if kind == _BINARY:
        return store[offset : offset + count]
    raise ValueError(f"a value of the unknown kind {kind}")


def _strings(store: bytes, offset: int, count: int) -> tuple[str, ...]:
    found: list[str] = []
    for _ in range(count):
        end = store.find(b"\0", offset)
        if end < 0:
            raise ValueError("a text ends outside the store")
        found.append(store[offset:end].decode())
        offset = end + 1
    return tuple(found)
