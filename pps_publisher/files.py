"""Durable writes and the lock: the one way the publisher changes files that others rely on."""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pps_publisher.errors import PublishError

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a stream whose bytes become ``path`` when the block ends well, and vanish when it does not.

    Temporary file in the same directory, write, fsync, rename, fsync of the directory; missing parent
    directories are made. ``mode`` holds whatever the umask. Raises: OSError.
    """
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def save_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content``; after any crash it holds the old or the new bytes. Raises: OSError."""
    with replacing(path, mode=mode) as stream:
        stream.write(content)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file durably, readable by all. Raises: OSError."""
    with source.open("rb") as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer, 1024 * 1024)


def sweep_temporaries(directory: Path, name: str = "") -> None:
    """Remove what a process that was killed while writing ``name…`` left here, not below.

    The caller knows that nobody else is writing it. Raises: OSError.
    """
    for path in directory.glob(f".{name}*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sweep_tree(top: Path) -> None:
    """Remove what a killed process left anywhere below a directory; as ``sweep_temporaries``. Raises: OSError."""
    for path in top.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, readable by a web server whatever the umask. Raises: OSError."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Give a file's sha256 in hexadecimal. Raises: OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file while the block runs. Raises: PublishError when another process holds it."""
    with path.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise PublishError(
                f"{path}: another pps-publish works on this repository; try again when it is done"
            ) from exc
        yield
