"""What a file or directory is to be, what it is, and the change between the two; pure.

Accounts and groups are numbers here. Modes are as in chmod(2).
"""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from pps_agent.acl import Acl, acl_of_mode, clip_acl, name_all

ROOT: Final = 0
_NINE: Final = 0o777


class Kind(Enum):
    """What may stand at a place; the value is for people."""

    DIRECTORY = "directory"
    FILE = "regular file"


@dataclass(frozen=True, slots=True)
class Place:
    """A path below a root that people chose; no name below it may be a link."""

    root: Path
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The whole path, for people."""
        return self.root.joinpath(*self.names)


@dataclass(frozen=True, slots=True)
class Rights:
    """What is to be at a place. ``owner``, ``group`` and ``mode`` None: as they are, root's when made.

    ``mode`` is for owner, group and others; ``users`` and ``groups`` are let in besides, to read and write.
    ``hands_down``: the same for all that is made in it. ``is_exact``: nobody else is let in by an access list.
    ``is_made``: made when missing. ``is_kept``: left alone when it is there.
    """

    kind: Kind
    mode: int | None
    owner: int | None = None
    group: int | None = None
    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    hands_down: bool = False
    is_exact: bool = False
    is_made: bool = False
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What is at a place. ``has_acls``: its file system keeps access lists."""

    uid: int
    gid: int
    mode: int
    access: Acl | None = None
    default: Acl | None = None
    has_acls: bool = True

    @property
    def group_writes(self) -> bool:
        """Whether its group may write: with an access list the mode's bits are the mask, not the group's."""
        return bool(clip_acl(self.access or acl_of_mode(self.mode)).group & 2)


@dataclass(frozen=True, slots=True)
class Change:
    """What is done at one place; None: nothing to do about that."""

    made: bool = False
    owner: int | None = None
    group: int | None = None
    access: Acl | None = None
    mode: int | None = None
    default: Acl | None = None


def seen_new(kind: Kind, *, has_acls: bool = True) -> Seen:
    """Give what root's new file or directory is before anything was done about it."""
    return Seen(ROOT, ROOT, 0o700 if kind is Kind.DIRECTORY else 0o600, has_acls=has_acls)


def decide(rights: Rights, seen: Seen, *, made: bool = False) -> Change | None:
    """Give what is to be done at a place; None where all is in place. ``made``: it was made a moment ago."""
    if rights.is_kept and not made:
        return None
    change = Change(
        made=made,
        owner=None if rights.owner in (None, seen.uid) else rights.owner,
        group=None if rights.group in (None, seen.gid) else rights.group,
    )
    wanted_mode = seen.mode if rights.mode is None else rights.mode
    wanted = _wanted(rights, seen.access, wanted_mode) if seen.has_acls else acl_of_mode(wanted_mode)
    names_anybody = wanted.mask is not None or seen.access is not None  # else the mode says it all
    if seen.has_acls and names_anybody and wanted != clip_acl(seen.access or acl_of_mode(seen.mode)):
        change = replace(change, access=wanted)
    mode = wanted_mode & ~_NINE | wanted.mode
    if mode != seen.mode:
        change = replace(change, mode=mode)
    if rights.hands_down and seen.has_acls:
        handed = _wanted(rights, seen.default, wanted_mode)
        change = replace(change, default=None if handed == seen.default else handed)
    return None if change == Change() else change


def _wanted(rights: Rights, before: Acl | None, mode: int) -> Acl:
    """Give the access list: those of ours, and whom somebody else let in."""
    named = 7 if rights.kind is Kind.DIRECTORY else 6
    # Under an access list the mode's bits of the group are the mask.
    base = before if rights.mode is None and before is not None else acl_of_mode(mode)
    if before is not None and not rights.is_exact:
        base = replace(base, users=before.users, groups=before.groups)
    users, groups = (tuple((number, named) for number in numbers) for numbers in (rights.users, rights.groups))
    return name_all(base, users, groups)
