"""How much a run keeps on disk, measured without being drawn into what it built.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pps_agent.probes.scratch import permit

ENTRY_BYTES: Final = 4096
"""What each name counts at least, so that a million empty files are not nothing, and end the walk."""
_DEEP_CHARACTERS: Final = 2000
_DEEPEST: Final = 64
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def measure_tree(path: str, enough_bytes: int) -> int:
    """Give the bytes below a directory, by blocks in use, counting no further than past ``enough_bytes``.

    A directory its owner cannot list is made listable, or it would hide what it holds. Symbolic links are
    not followed; a tree of absurd depth counts as too much; what vanishes meanwhile counts nothing. Raises:
    OSError when ``path`` cannot be opened.
    """
    counted, linked = 0, set[int]()
    bases = [_open(path, None)]
    todo = [(bases[0], ".")]
    try:
        while todo and counted <= enough_bytes:
            base, name = todo.pop()
            with contextlib.suppress(OSError), _listed(base, name) as entries:
                for entry in entries:
                    counted += _size_bytes(entry, linked)
                    if counted > enough_bytes:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        todo.append((base, f"{name}/{entry.name}"))
            while len(bases) > 1 and (not todo or todo[-1][0] != bases[-1]):
                os.close(bases.pop())
            if todo and len(todo[-1][1]) > _DEEP_CHARACTERS:
                todo[-1:] = _rebased(bases, *todo[-1])
            if len(bases) > _DEEPEST:
                return enough_bytes + 1
    finally:
        for base in bases:
            os.close(base)
    return counted


def measure_held(pids: Iterable[int], path: str) -> int:
    """Give the bytes of files on ``path``'s file system that these processes hold open though they have no name."""
    held: dict[int, int] = {}
    device = Path(path).stat().st_dev
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    status = descriptor.stat()
                    if status.st_nlink == 0 and status.st_dev == device and stat.S_ISREG(status.st_mode):
                        held[status.st_ino] = status.st_blocks * 512
    return sum(held.values())


def _open(name: str, base: int | None) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=base)
    except PermissionError:
        permit(name, base)
        return os.open(name, _OPEN, dir_fd=base)


@contextlib.contextmanager
def _listed(base: int, name: str) -> "Iterator[Iterator[os.DirEntry[str]]]":
    """Give the entries of a directory below an open one. Raises: OSError."""
    directory = _open(name, base)
    try:
        with os.scandir(directory) as entries:
            yield entries
    finally:
        os.close(directory)


def _size_bytes(entry: "os.DirEntry[str]", linked: set[int]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        if status.st_ino in linked:
            return ENTRY_BYTES
        linked.add(status.st_ino)
    return max(ENTRY_BYTES, status.st_blocks * 512)


def _rebased(bases: list[int], base: int, name: str) -> list[tuple[int, str]]:
    """Open a directory whose path from the last base is becoming too long for the kernel, as a base of its own."""
    try:
        bases.append(_open(name, base))
    except OSError:
        return []
    return [(bases[-1], ".")]
