"""Puts a new list in the place of the old one, under the same rights; or refuses.

Kept are owner, group, mode and access list. Where this account may not give files away, the owner alone may change, to
the account that writes, and only in a directory that was set up for several writers: it has the setgid bit and the
list's group, and this account may write the old list anyway. Whoever could change the list can still (ADR 0027).
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from pps_agent.acl_files import load_raw_acl, save_raw_acl
from pps_agent.files import save_bytes, sync_directory
from pps_agent.tags.errors import TagFileError

SHARED_MODE: Final = 0o664
PLAIN_MODE: Final = 0o644
_NOT_OURS: Final = (errno.EPERM, errno.EINVAL)
"""What chown says to an account without that right; EINVAL: of an id that a container does not know."""


class _Old(NamedTuple):
    """The list that is replaced. ``is_shared``: another owner will do, since nobody loses a right by it."""

    status: os.stat_result
    acl: bytes | None
    is_shared: bool


def replace_list(path: Path, content: bytes) -> None:
    """Replace one list durably. Raises: TagFileError, OSError; the list is as it was then."""
    directory = path.parent.stat()
    old = _look(path, directory)
    if old is None:
        is_shared = stat.S_IMODE(directory.st_mode) & (stat.S_ISGID | stat.S_IWGRP) == stat.S_ISGID | stat.S_IWGRP
        save_bytes(path, content, mode=SHARED_MODE if is_shared else PLAIN_MODE)
    else:
        _save_like(path, content, old)


def sweep(path: Path) -> None:
    """Remove what a writer killed in the middle left beside a file; the lock says it is dead. Raises: OSError."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _look(path: Path, directory: os.stat_result) -> _Old | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise TagFileError(f"{path} is not a regular file: move it away")
        return _Old(status, load_raw_acl(descriptor), _is_shared(directory, status) and _may_write(path))
    finally:
        os.close(descriptor)


def _is_shared(directory: os.stat_result, status: os.stat_result) -> bool:
    return bool(
        directory.st_mode & stat.S_ISGID
        and not directory.st_mode & stat.S_IWOTH
        and directory.st_gid == status.st_gid
        and status.st_mode & stat.S_IWGRP
    )


def _may_write(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _save_like(path: Path, content: bytes, old: _Old) -> None:
    """Replace a list as ``save_bytes`` does, its rights set before it takes the name.

    All through one descriptor: the directory may belong to an account that would swap the temporary
    file for a link to something better.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            _set_rights(descriptor, path, old)
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def _set_rights(descriptor: int, path: Path, old: _Old) -> None:
    """Give the new file the old one's rights. Raises: TagFileError where that cannot be; OSError."""
    is_kept = _set_owner(descriptor, old.status)
    if not is_kept and not (old.is_shared and os.fstat(descriptor).st_gid == old.status.st_gid):
        raise TagFileError(
            f"cannot write {path} and keep its owner {old.status.st_uid}:{old.status.st_gid}:"
            " run as that account, or have root run pps-agent setup"
        )
    # Under a new owner a list without an access list takes what the directory hands down: the old owner stays let in.
    if is_kept or old.acl is not None:
        save_raw_acl(descriptor, old.acl)
    os.fchmod(descriptor, stat.S_IMODE(old.status.st_mode))  # after the access list: its mask is the group's bits


def _set_owner(descriptor: int, wanted: os.stat_result) -> bool:
    """Set owner and group where they differ; False where this account may not."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) == (wanted.st_uid, wanted.st_gid):
        return True  # no call: the agent's unit forbids chown altogether
    try:
        os.fchown(descriptor, wanted.st_uid, wanted.st_gid)
    except OSError as exc:
        if exc.errno not in _NOT_OURS:
            raise
        return False
    return True
