"""Durable writes and locks: the one way the agent puts bytes into a file that others rely on."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.errors import BusyError, SiteError

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_HOLDER: Final = re.compile(rb"([0-9]{1,10})(?: ([A-Za-z0-9._-]{1,255}))?\n")
_MAX_HOLDER_BYTES: Final = 300


def save_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` so that after any crash it holds the old or the new bytes.

    Temporary file in the same directory, write, fsync, rename, fsync of the directory. The parent
    must exist. Raises: OSError; the temporary file is gone then and ``path`` untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Point the symbolic link ``path`` at ``target`` in one atomic, durable step. Raises: OSError."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    temporary.symlink_to(target)
    try:
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the context lasts; the kernel lets go of it when its holder dies.

    Linux carries flock over NFS, so that it keeps hosts apart too. The file names its last holder,
    ``<pid> <host>``. Raises: BusyError at once, naming the holder, when another one holds it; SiteError where the
    file system gives no locks: without one nothing is changed.
    """
    try:
        # 0600: whoever may open it, if only to read, may hold it and stop us.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _site_error(exc, path) from exc
    try:
        _lock(descriptor, path, what)
        with contextlib.suppress(OSError):  # the name is for people: a full disk must not stop who holds the lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as exc:  # NFS makes it a lock of fcntl(2), which may say EACCES
        holder = _HOLDER.match(_read_holder(descriptor))
        pid, host = (holder[1].decode(), (holder[2] or b"").decode()) if holder else ("unknown", "")
        where = f" on {host}" if host else ""
        raise BusyError(f"{path}: process {pid}{where} {what}; wait for it to end") from exc
    except OSError as exc:
        if exc.errno in _NO_LOCKS:
            raise SiteError(
                f"{path}: this file system gives no locks ({exc.strerror}); mount it with locks"
                " (NFS: version 4 or rpc.statd, Lustre: -o flock), or move the directory to one that has them"
            ) from exc
        raise _site_error(exc, path, ", taking the lock") from exc


def _read_holder(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, _MAX_HOLDER_BYTES, 0)
    except OSError:
        return b""


def _site_error(exc: OSError, path: Path, note: str = "") -> SiteError:
    from pps_agent.disk import site_error  # only on the way to an error: tag commands save files without it

    return site_error(exc, path, note)
