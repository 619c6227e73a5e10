"""Per-run directories: made private, removed whatever a probe left in them.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import Final

from pps_agent.probes.contain import ProcessKey, is_alive

RUN: Final = "pps-run"
"""Kind of the directory that each run gets."""

_MAKER: Final = re.compile(r"-([0-9]{1,10})-([0-9]{1,20})-[0-9a-f]{32}", re.ASCII)
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def scratch_prefix(base: str, kind: str, maker: ProcessKey) -> str:
    """Give what the paths of one maker's directories begin with."""
    return f"{base}/{kind}-{maker}-"


def make_scratch(prefix: str) -> str:
    """Make a directory with a random name: only its owner can enter, nobody can guess it. Raises: OSError."""
    path = prefix + os.urandom(16).hex()
    os.mkdir(path, 0o700)  # noqa: PTH102 - on the path of every run
    return path


def sweep_scratch(base: str, kind: str) -> None:
    """Remove this user's directories of a kind whose maker is dead; what cannot be listed is left alone."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(base)):
            matched = _MAKER.fullmatch(entry.name.removeprefix(kind)) if entry.name.startswith(kind) else None
            if matched is None or is_alive(ProcessKey(int(matched[1]), int(matched[2]))):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    remove_tree(entry.path)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it, however deep, never through a symbolic link. Raises: OSError.

    Directories are lifted to the top before they are emptied: neither the depth of the recursion nor
    the length of a path grows with what a probe built.
    """
    top = _open_directory(path, None)
    try:
        while names := _some_names(top):
            for name in names:
                if not _is_removed(name, top):
                    _lift_content(name, top)
                    os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    Path(path).rmdir()


def permit(name: str, parent: int | None) -> None:
    """Undo a probe's chmod 0 on a directory; harmless when it fails, for the next call says why."""
    pinned = -1
    with contextlib.suppress(OSError):
        pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        if os.fstat(pinned).st_uid == os.geteuid():
            Path(f"/proc/self/fd/{pinned}").chmod(0o700)
    if pinned >= 0:
        os.close(pinned)


def _is_removed(name: str, parent: int) -> bool:
    """Remove a file, link or empty directory; False when it is a directory with content."""
    try:
        os.unlink(name, dir_fd=parent)
    except (IsADirectoryError, PermissionError):
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError:
            return False
    return True


def _lift_content(name: str, top: int) -> None:
    """Empty one directory below ``top``: files go, directories move up into ``top``."""
    directory = _open_directory(name, top)
    try:
        while children := _some_names(directory):
            for child in children:
                if not _is_removed(child, directory):
                    permit(child, directory)  # moving a directory writes its ".."
                    os.rename(child, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)


def _some_names(directory: int) -> list[str]:
    """Give some of the names in a directory: a million files must not fill the runner's memory."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, 1000)]


def _open_directory(name: str, parent: int | None) -> int:
    permit(name, parent)
    return os.open(name, _OPEN, dir_fd=parent)
