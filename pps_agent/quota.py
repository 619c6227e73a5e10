"""What the quotas of user, group and project leave the agent on a file system, as the kernel tells.

Where there are none, or the kernel will not tell (an old one, a network file system, another's project),
nothing is given: unknown is not "none", and a write that a quota stops is an error of its own.
Source: quotactl(2), quotactl_fd (Linux 5.14), linux/quota.h, linux/fs.h (FS_IOC_FSGETXATTR).
"""

import ctypes
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.disk import Space

_SYS_QUOTACTL_FD: Final = 443
"""The same number on every architecture, as for all calls since Linux 5.1 (syscalls(2))."""
_Q_GETQUOTA: Final = 0x800007
_KINDS: Final = {"user": 0, "group": 1, "project": 2}
_BLOCK_BYTES: Final = 1024
_FSGETXATTR: Final = 0x801C581F
_PROJECT_INHERITED: Final = 0x200
_UNLIMITED_BYTES: Final = 2**63


class _Record(ctypes.Structure):
    """struct if_dqblk: limits in blocks of 1 KiB, space in bytes, times in seconds since 1970."""

    _fields_ = (
        ("block_hard", ctypes.c_uint64),
        ("block_soft", ctypes.c_uint64),
        ("used_bytes", ctypes.c_uint64),
        ("inode_hard", ctypes.c_uint64),
        ("inode_soft", ctypes.c_uint64),
        ("used_inodes", ctypes.c_uint64),
        ("block_until", ctypes.c_uint64),
        ("inode_until", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """Use and limits of one account, in one unit. 0 is no limit; ``until_s`` is when the soft one turns hard."""

    used: int
    hard: int
    soft: int
    until_s: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What one quota leaves: ``kind`` is user, group or project, ``owner`` its number."""

    kind: str
    owner: int
    left: Space


def judge_left(usage: Usage, now_s: float) -> int | None:
    """Give how much may still be used; None means no limit. Pure.

    A soft limit stops nobody before its grace is over; then nothing more may be used.
    """
    if usage.soft and usage.used > usage.soft and 0 < usage.until_s <= now_s:
        return 0
    return max(0, usage.hard - usage.used) if usage.hard else None


def observe_quotas(path: Path) -> list[Quota]:
    """Give every quota that limits what this process writes below a directory. Raises: OSError if it is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owners = _owners(descriptor)
        found = ((kind, owner, _ask(descriptor, _KINDS[kind], owner)) for kind, owner in owners)
        return [
            Quota(kind, owner, space)
            for kind, owner, record in found
            if record is not None and (space := _space_left(record, time.time())) is not None
        ]
    finally:
        os.close(descriptor)


def _owners(descriptor: int) -> Iterator[tuple[str, int]]:
    """Give whose quotas count: of this user, of the group new files get, of the directory's project."""
    seen = os.fstat(descriptor)
    yield "user", os.geteuid()
    yield "group", seen.st_gid if seen.st_mode & stat.S_ISGID else os.getegid()
    try:
        flags, _, _, project, _ = struct.unpack("=5I8x", fcntl.ioctl(descriptor, _FSGETXATTR, bytes(28)))
    except OSError:
        return  # a file system without projects
    if flags & _PROJECT_INHERITED:
        yield "project", project


def _ask(descriptor: int, kind: int, owner: int) -> _Record | None:
    record = _Record()
    command = ctypes.c_uint(_Q_GETQUOTA << 8 | kind)
    number = ctypes.c_long(_SYS_QUOTACTL_FD)
    library = ctypes.CDLL(None, use_errno=True)
    answer = library.syscall(number, ctypes.c_uint(descriptor), command, ctypes.c_uint(owner), ctypes.byref(record))
    return record if answer == 0 else None


def _space_left(record: _Record, now_s: float) -> Space | None:
    blocks = Usage(
        record.used_bytes, record.block_hard * _BLOCK_BYTES, record.block_soft * _BLOCK_BYTES, record.block_until
    )
    inodes = Usage(record.used_inodes, record.inode_hard, record.inode_soft, record.inode_until)
    size_left, inodes_left = judge_left(blocks, now_s), judge_left(inodes, now_s)
    if size_left is None and inodes_left is None:
        return None
    return Space(_UNLIMITED_BYTES if size_left is None else size_left, inodes_left)
