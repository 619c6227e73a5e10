"""Access lists of open files, and whether a file system keeps any."""

import errno
import os
from typing import Final

from pps_agent.acl import ACCESS, Acl, parse_acl, render_acl

_NONE: Final = errno.ENODATA
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS)


def has_acls(descriptor: int) -> bool:
    """Tell whether the file system of an open file keeps access lists. Raises: OSError."""
    try:
        os.getxattr(descriptor, ACCESS)
    except OSError as exc:
        if exc.errno == _NONE:
            return True
        if exc.errno in _UNSUPPORTED:
            return False
        raise
    return True


def load_raw_acl(descriptor: int, name: str = ACCESS) -> bytes | None:
    """Give the bytes of an open file's access list; None where mode bits say all. Raises: OSError."""
    try:
        return os.getxattr(descriptor, name)
    except OSError as exc:
        if exc.errno == _NONE or exc.errno in _UNSUPPORTED:
            return None
        raise


def load_acl(descriptor: int, name: str = ACCESS) -> Acl | None:
    """Give an open file's access list (``name`` DEFAULT: what it hands down); None without one. Raises: OSError."""
    raw = load_raw_acl(descriptor, name)
    try:
        return None if raw is None else parse_acl(raw)
    except ValueError as exc:
        raise OSError(errno.EINVAL, str(exc)) from exc


def save_raw_acl(descriptor: int, raw: bytes | None) -> None:
    """Give an open file this access list, None: none, whatever its directory handed down. Raises: OSError."""
    if raw is not None:
        os.setxattr(descriptor, ACCESS, raw)
    elif load_raw_acl(descriptor) is not None:
        os.removexattr(descriptor, ACCESS)


def save_acl(descriptor: int, acl: Acl, name: str = ACCESS) -> None:
    """Give an open file or directory an access list. Raises: OSError."""
    os.setxattr(descriptor, name, render_acl(acl))
