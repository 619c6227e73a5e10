"""Durable writes and locks: the one way the agent puts bytes into a file that others rely on."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pps_agent.disk import site_error
from pps_agent.errors import SiteError


def save_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` so that after any crash it holds the old or the new bytes.

    Temporary file in the same directory, write, fsync, rename, fsync of the directory. The parent
    must exist. Raises: OSError; the temporary file is gone then and ``path`` untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
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

    Raises: SiteError at once, naming the holder's process, when another one holds it.
    """
    try:
        # 0600: whoever may open it, if only to read, may hold it and stop us.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise site_error(exc, path) from exc
    with os.fdopen(descriptor, "r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = stream.read(20).strip() or "unknown"
            raise SiteError(f"{path}: process {holder} {what}; wait for it to end") from exc
        except OSError as exc:
            raise site_error(exc, path, ", taking the lock") from exc
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield
