"""What the agent asks of a file system beyond Python's library: flush it, swap, measure, delete, explain."""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError

BLOCK_BYTES: Final = 4096
"""File sizes are rounded up to this when space is estimated."""

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_LEFT_BY_SERVER: Final = (".nfs", ".fuse_hidden")
"""A network file system keeps a deleted file that is still open under such a name, until it is closed."""
_GONE: Final = (errno.ENOENT, errno.ESTALE)
"""Deleted, here or (a handle that has gone stale) by another host."""
_STATFS_BYTES: Final = 256
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH_CALL: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_ADVICE: Final = {
    errno.ENOSPC: "free space on that file system, or move the store",
    errno.EDQUOT: "raise the quota of the agent's account, or free space",
    errno.EACCES: "make it readable and writable for the agent's account",
    errno.EPERM: "make it readable and writable for the agent's account",
    errno.ESTALE: "its file server exchanged it: mount the file system again",
    errno.ENOTCONN: "its mount is dead: mount the file system again",
    errno.EROFS: "mount the file system read-write, or move the store",
}


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes and inodes, as needed or as free; ``inodes`` None where the file system does not count them."""

    size_bytes: int
    inodes: int | None

    def holds(self, needed: "Space") -> bool:
        """Tell whether ``needed`` fits."""
        enough_inodes = self.inodes is None or needed.inodes is None or needed.inodes <= self.inodes
        return enough_inodes and needed.size_bytes <= self.size_bytes

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes" + ("" if self.inodes is None else f" and {self.inodes} inodes")


def site_error(exc: OSError, path: Path, note: str = "") -> SiteError:
    """Say what the administrator of this machine can do about a failed file operation."""
    where = exc.filename if isinstance(exc.filename, str) and exc.filename.startswith("/") else path
    advice = _ADVICE.get(exc.errno or 0, "check the file system and the kernel's log")
    return SiteError(f"{where}: {exc.strerror or exc}{note}; {advice}")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside the context into the SiteError of ``site_error``."""
    try:
        yield
    except OSError as exc:
        raise site_error(exc, path) from exc


def measure_free(path: Path) -> Space:
    """Give what an ordinary user may still use on the file system of ``path``. Raises: OSError."""
    seen = os.statvfs(path)
    return Space(seen.f_bavail * seen.f_frsize, seen.f_favail if seen.f_files else None)


def measure_used(root: Path) -> int:
    """Give the bytes a tree takes on disk, hard-linked files counted once. Raises: OSError."""
    blocks = {(seen.st_dev, seen.st_ino): seen.st_blocks for seen in _walk(root)}
    return 512 * sum(blocks.values())


def round_up(size_bytes: int) -> int:
    """Give the space a file of this size takes."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def file_system_type(path: Path) -> int:
    """Give the magic number of the file system of ``path``, as statfs(2) names it. Raises: OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    seen = ctypes.create_string_buffer(_STATFS_BYTES)
    if library.statfs(os.fsencode(path), seen) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    # f_type comes first, as long as a word of the machine; some file systems' numbers come out negative.
    return ctypes.c_long.from_buffer(seen).value & 0xFFFF_FFFF


def flush_file_system(path: Path) -> None:
    """Make everything on the file system of ``path`` durable, by syncfs(2). Raises: OSError."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


def exchange(left: Path, right: Path) -> bool:
    """Swap two names in one atomic step, by renameat2(2); False where that cannot be done. Raises: OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_SUCH_CALL:
        return False
    raise OSError(number, os.strerror(number), str(right))


def remove_tree(path: Path) -> bool:
    """Delete a file, link or directory with everything in it, read-only directories too; follow no link.

    What is gone already is no error. False when a file that a process still has open keeps directories
    alive (NFS renames it to ``.nfs…``): a later call takes them. Raises: OSError.
    """
    parent = os.open(path.parent, _DIRECTORY)
    try:
        return _remove(parent, path.name)
    finally:
        os.close(parent)


def _remove(parent: int, name: str) -> bool:
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=parent)
            return True
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=parent)
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as exc:
        if exc.errno == errno.EBUSY and name.startswith(_LEFT_BY_SERVER):
            return False
        if exc.errno in _GONE:
            return True
        raise
    try:
        gone = [_remove(directory, child) for child in os.listdir(directory)]  # noqa: PTH208 - by descriptor
    finally:
        os.close(directory)
    return all(gone) and _remove_directory(parent, name)


def _remove_directory(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as exc:
        if exc.errno in _GONE:
            return True
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST) and _holds_only_left(parent, name):
            return False
        raise
    return True


def _holds_only_left(parent: int, name: str) -> bool:
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        return all(child.startswith(_LEFT_BY_SERVER) for child in os.listdir(directory))  # noqa: PTH208 - as above
    finally:
        os.close(directory)


def _walk(root: Path) -> Iterator[os.stat_result]:
    yield root.lstat()
    waiting = [os.fspath(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
