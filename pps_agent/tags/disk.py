"""Tag lists on disk: the one lock, bounded reads, writes that keep a file's rights.

List files often belong to a VO's software manager, who may write into the directory: nothing
planted there (link, fifo, huge file) may make the agent read or write anything else.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.files import sync_directory
from pps_agent.tags import layout
from pps_agent.tags.errors import TagFileError
from pps_agent.tags.replacement import replace_list, sweep

LOCK_NAME: Final = layout.LOCK
MAX_LIST_BYTES: Final = 4 * 1024**2
"""Ten thousand tags of full length and as many again; in GLUE 2 a list is up to fifty times as long."""
MAX_LEDGER_BYTES: Final = 16 * 1024**2
_LOCK_POLL_S: Final = 0.01


@contextlib.contextmanager
def locked(base: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a tag base. The base must exist. Raises: TagFileError."""
    path = base / LOCK_NAME
    try:
        descriptor = _open_lock(path)
    except OSError as exc:
        raise TagFileError(f"cannot open the lock {path}: {exc.strerror}; {_remedy(base)}") from exc
    try:
        _wait_for_lock(descriptor, path, timeout_s)
        yield
    finally:
        os.close(descriptor)


def open_list(path: Path) -> int | None:
    """Open a file for reading, which must be a regular one; None when there is none. Raises: TagFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise TagFileError(_unreadable(path, exc)) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TagFileError(f"{path} is not a regular file: move it away")
    return descriptor


def load_list(path: Path, max_bytes: int = MAX_LIST_BYTES) -> bytes | None:
    """Read one list, or another file of such; None when there is none. Raises: TagFileError when it cannot be known."""
    descriptor = open_list(path)
    if descriptor is None:
        return None
    try:
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as exc:
        raise TagFileError(_unreadable(path, exc)) from exc
    if len(content) > max_bytes:
        raise TagFileError(f"{path} is larger than {max_bytes} bytes: see who fills it and cut it down")
    return content


def size_bytes(path: Path) -> int:
    """Give a file's size; 0 where it cannot be looked at."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def list_directories(path: Path) -> tuple[str, ...]:
    """Give the sorted names of the directories in ``path``; none when it is absent. Raises: TagFileError."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    except FileNotFoundError:
        return ()
    except OSError as exc:
        raise TagFileError(_unreadable(path, exc)) from exc


def save_list(path: Path, content: bytes) -> None:
    """Replace one list durably under the rights it has (see ``replacement.py``).

    The caller holds the lock. Raises: TagFileError; the list is as it was then.
    """
    try:
        sweep(path)
        replace_list(path, content)
    except OSError as exc:
        raise TagFileError(
            f"cannot write {path}: {exc.strerror}; check space and permissions, or have root run pps-agent setup"
        ) from exc


def make_directories(path: Path, base: Path) -> tuple[Path, ...]:
    """Create the missing directories from ``base`` (which must exist) down to ``path``; give those created.

    Readable for all whatever the umask, since other accounts publish the lists; a setgid bit the
    parent hands down stays. Raises: TagFileError.
    """
    created: list[Path] = []
    try:
        for directory in reversed([path, *path.parents]):
            if directory.is_relative_to(base) and directory != base and not directory.is_dir():
                directory.mkdir()
                created.append(directory)
                _open_to_readers(directory)
                sync_directory(directory.parent)
    except OSError as exc:
        remove_directories(created)
        raise TagFileError(f"cannot create {path}: {exc.strerror}; {_remedy(base)}") from exc
    return tuple(created)


def _open_to_readers(directory: Path) -> None:
    mode = stat.S_IMODE(directory.stat().st_mode)
    wanted = (mode | 0o755) & ~0o002
    if mode != wanted:  # no call without need: the agent's unit forbids any that names the setgid bit
        directory.chmod(wanted)


def remove_directories(created: list[Path] | tuple[Path, ...]) -> None:
    """Remove directories made a moment ago, deepest first; one that somebody uses meanwhile stays."""
    for directory in reversed(created):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _open_lock(path: Path) -> int:
    """Open the lock, and make it where setup did not. Raises: OSError.

    Whoever may open it, if only to read, may hold it and so stop every change of tags. Those who may write the base
    could take it away as well, so a new one lets them in, whatever the umask; and nobody else.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    base = path.parent.stat()
    if base.st_mode & stat.S_IWGRP and base.st_gid == os.fstat(descriptor).st_gid:
        os.fchmod(descriptor, 0o660)
    return descriptor


def _wait_for_lock(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()  # never set: flock has no time limit of its own
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise TagFileError(f"cannot lock {path}: {exc.strerror}; does its file system support flock?") from exc
            if time.monotonic() >= deadline:
                raise TagFileError(
                    f"{path} has been locked for {timeout_s:g} s: find its holder with `fuser {path}`, then try again"
                ) from exc
            pause.wait(_LOCK_POLL_S)
        else:
            return


def _unreadable(path: Path, exc: OSError) -> str:
    if exc.errno == errno.ELOOP:
        return f"{path} is a symbolic link, which is not followed: put a regular file there"
    return f"cannot read {path}: {exc.strerror}; its tags are unknown until this account may read it"


def _remedy(base: Path) -> str:
    if not base.is_dir():
        return f"create the tag directory {base}, or set paths.tags to where the site's tag files are"
    return f"have root run pps-agent setup, or let this account write to {base}"
