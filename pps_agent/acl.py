"""POSIX access lists as values, and the form in which the kernel takes them; pure.

A list adds accounts and groups to what owner, group and others may do; rights are 0 to 7 as in a file mode. Source:
acl(5), and linux/posix_acl_xattr.h, version 2: a 32-bit version, then for each entry 16-bit tag, 16-bit rights,
32-bit id, all little-endian.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
"""What a directory hands down to all that is made in it."""

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFF_FFFF
_OWNER, _USER, _OWN_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

Named = tuple[tuple[int, int], ...]
"""Id and rights, sorted by id."""


@dataclass(frozen=True, slots=True)
class Acl:
    """What who may do. ``mask`` bounds group and named ones; it is there when any are named."""

    owner: int
    group: int
    other: int
    users: Named = ()
    groups: Named = ()
    mask: int | None = None

    @property
    def mode(self) -> int:
        """The nine bits that stat(2) shows: the mask stands where the group's would."""
        return self.owner << 6 | (self.group if self.mask is None else self.mask) << 3 | self.other


def acl_of_mode(mode: int) -> Acl:
    """Give what the nine bits of a mode say, with nobody named."""
    return Acl(mode >> 6 & 7, mode >> 3 & 7, mode & 7)


def name_all(acl: Acl, users: Named, groups: Named) -> Acl:
    """Let these in beside those named already, with the rights given here; the mask holds nobody back."""
    named = {**dict(acl.users), **dict(users)}, {**dict(acl.groups), **dict(groups)}
    if not any(named):
        return replace(acl, mask=None)
    mask = acl.group
    for rights in (right for kind in named for right in kind.values()):
        mask |= rights
    all_users, all_groups = (tuple(sorted(kind.items())) for kind in named)
    return replace(acl, users=all_users, groups=all_groups, mask=mask)


def clip_acl(acl: Acl) -> Acl:
    """Give an access list that says the same without help of its mask: what is handed down is written wider."""
    if acl.mask is None:
        return acl
    users, groups = (tuple((number, rights & acl.mask) for number, rights in kind) for kind in (acl.users, acl.groups))
    return replace(acl, group=acl.group & acl.mask, users=users, groups=groups)


def render_acl(acl: Acl) -> bytes:
    """Give the bytes of an access list."""
    entries = [(_OWNER, acl.owner, _NO_ID)]
    entries += [(_USER, rights, number) for number, rights in acl.users]
    entries += [(_OWN_GROUP, acl.group, _NO_ID)]
    entries += [(_GROUP, rights, number) for number, rights in acl.groups]
    entries += [] if acl.mask is None else [(_MASK, acl.mask, _NO_ID)]
    entries += [(_OTHER, acl.other, _NO_ID)]
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def parse_acl(raw: bytes) -> Acl:
    """Read an access list. Raises: ValueError and nothing else, for any bytes."""
    if len(raw) < _HEADER.size or (len(raw) - _HEADER.size) % _ENTRY.size or _HEADER.unpack_from(raw)[0] != _VERSION:
        raise ValueError("not an access list of version 2")
    one: dict[int, int] = {}
    users: dict[int, int] = {}
    groups: dict[int, int] = {}
    for tag, rights, number in _ENTRY.iter_unpack(raw[_HEADER.size :]):
        home, key = (users, number) if tag == _USER else (groups, number) if tag == _GROUP else (one, tag)
        if key in home or rights > 7 or tag not in (_OWNER, _USER, _OWN_GROUP, _GROUP, _MASK, _OTHER):
            raise ValueError(f"not an access list: entry {tag:#x} of {number}")
        home[key] = rights
    if not {_OWNER, _OWN_GROUP, _OTHER} <= one.keys() or ((users or groups) and _MASK not in one):
        raise ValueError("not an access list: an entry is missing")
    all_users, all_groups = (tuple(sorted(kind.items())) for kind in (users, groups))
    return Acl(one[_OWNER], one[_OWN_GROUP], one[_OTHER], all_users, all_groups, one.get(_MASK))
