"""Looks at one place and makes it what it is to be; root's hands in directories that belong to others.

Whoever owns such a directory may put anything there, at any moment. So each name is opened without following links,
beginning at a root that people chose, and what was opened is judged and changed by its descriptor: nothing that takes
its name meanwhile is touched. A file with a second name elsewhere (a hard link) is refused.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from pps_agent.acl import DEFAULT
from pps_agent.acl_files import has_acls, load_acl, save_acl
from pps_agent.errors import SiteError
from pps_agent.setup.rights import Change, Kind, Place, Rights, Seen, decide, seen_new

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_DIRECTORY: Final = (errno.ELOOP, errno.ENOTDIR)


def look(place: Place, kind: Kind) -> Seen | None:
    """Give what is at a place; None when nothing is. Raises: SiteError, also when it is of another kind."""
    with _told(place), _parent(place) as parent:
        if parent is None:
            return None
        try:
            descriptor = _open(parent, place, kind)
        except FileNotFoundError:
            return None
        try:
            return _see(descriptor, kind)
        finally:
            os.close(descriptor)


def establish(place: Place, rights: Rights, *, dry_run: bool) -> Change | None:
    """Make a place what it is to be; give what was done about it. Raises: SiteError."""
    with _told(place), _parent(place) as parent:
        if parent is None:  # in a dry run what holds it is not made either
            return decide(rights, seen_new(rights.kind), made=True) if dry_run and rights.is_made else None
        made = False
        try:
            descriptor = _open(parent, place, rights.kind)
        except FileNotFoundError:
            if not rights.is_made:
                return None
            if dry_run:
                return decide(rights, seen_new(rights.kind, has_acls=has_acls(parent)), made=True)
            descriptor, made = _make(parent, place, rights.kind), True
        try:
            change = decide(rights, _see(descriptor, rights.kind), made=made)
            if change is not None and not dry_run:
                _apply(descriptor, change)
        finally:
            os.close(descriptor)
        if made:
            os.fsync(parent)
        return change


def _apply(descriptor: int, change: Change) -> None:
    if change.owner is not None or change.group is not None:
        unchanged = -1
        os.fchown(
            descriptor,
            unchanged if change.owner is None else change.owner,
            unchanged if change.group is None else change.group,
        )
    if change.access is not None:
        save_acl(descriptor, change.access)
    if change.mode is not None:  # last: both calls before take bits away
        os.fchmod(descriptor, change.mode)
    if change.default is not None:
        save_acl(descriptor, change.default, DEFAULT)


def _see(descriptor: int, kind: Kind) -> Seen:
    status = os.fstat(descriptor)
    return Seen(
        status.st_uid,
        status.st_gid,
        stat.S_IMODE(status.st_mode),
        load_acl(descriptor),
        load_acl(descriptor, DEFAULT) if kind is Kind.DIRECTORY else None,
        has_acls(descriptor),
    )


@contextlib.contextmanager
def _parent(place: Place) -> Iterator[int | None]:
    """Open the directory that holds a place; None where that is missing. Raises: OSError, SiteError."""
    with contextlib.ExitStack() as opened:
        descriptor = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        is_there = True
        for depth in range(1, len(place.names)):
            try:
                descriptor = _open(descriptor, Place(place.root, place.names[:depth]), Kind.DIRECTORY)
            except FileNotFoundError:
                is_there = False
                break
            opened.callback(os.close, descriptor)
        yield descriptor if is_there else None


def _open(parent: int, place: Place, kind: Kind) -> int:
    """Open the last name of a place, which must be of this kind. Raises: OSError, SiteError."""
    try:
        descriptor = os.open(place.names[-1], _DIRECTORY if kind is Kind.DIRECTORY else _FILE, dir_fd=parent)
    except OSError as exc:
        if exc.errno in _NO_DIRECTORY:
            raise _refusal(place, f"no {kind.value}, or a symbolic link") from exc
        raise
    status = os.fstat(descriptor)
    problem = ""
    if kind is Kind.FILE and not stat.S_ISREG(status.st_mode):
        problem = f"no {kind.value}"
    elif kind is Kind.FILE and status.st_nlink != 1:
        problem = f"a file with {status.st_nlink} names (hard links)"
    if problem:
        os.close(descriptor)
        raise _refusal(place, problem)
    return descriptor


def _make(parent: int, place: Place, kind: Kind) -> int:
    """Make what is missing, for root alone, and open it. Raises: OSError, SiteError."""
    if kind is Kind.DIRECTORY:
        os.mkdir(place.names[-1], 0o700, dir_fd=parent)
        return _open(parent, place, kind)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(place.names[-1], flags, 0o600, dir_fd=parent)


def _refusal(place: Place, what: str) -> SiteError:
    return SiteError(f"{place.path} is {what}, so that root does not touch it: see who put it there and move it away")


@contextlib.contextmanager
def _told(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise SiteError(
            f"{place.path}: {exc.strerror}; where the file system comes from a server that root may not write to"
            " (root_squash), run pps-agent setup there"
        ) from exc
