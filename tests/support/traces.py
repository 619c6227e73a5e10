"""What strace saw of a process: its durable system calls, and whether they came in a safe order. Pure."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

DURABLE = (
    "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "symlink", "symlinkat", "fsync", "fdatasync", "syncfs", "ftruncate", "chmod", "fchmod", "fchmodat",
    "openat", "write", "pwrite64",
)  # fmt: skip
"""System calls that change a file system, or make a change durable."""
SYNCS = ("fsync", "fdatasync", "syncfs")

_LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)")
_AT = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>, \"([^\"]*)\"")
_FD = re.compile(r"\d+<([^>]*)>")
_PATH = re.compile(r"\"([^\"]*)\"")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the ``number``-th of its ``name`` in its thread; ``paths`` are absolute."""

    thread: str
    name: str
    number: int
    paths: tuple[str, ...]
    creates: bool = False

    def changes(self, base: str) -> bool:
        """Tell whether it changes something below ``base`` or makes it durable."""
        below = any(path == base or path.startswith(f"{base}/") for path in self.paths)
        return below and (self.name != "openat" or self.creates)


def parse_calls(text: str) -> list[Call]:
    """Read the output of ``strace -f -y -o``."""
    counts: dict[tuple[str, str], int] = {}
    calls = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, name, rest = found[1] or "", found[2], found[3]
        counts[thread, name] = counts.get((thread, name), 0) + 1
        calls.append(Call(thread, name, counts[thread, name], _paths(name, rest), "O_CREAT" in rest))
    return calls


def _paths(name: str, rest: str) -> tuple[str, ...]:
    if name.endswith("at") or name in ("renameat2", "symlinkat", "openat"):
        return tuple(posixpath.join(folder, path) for folder, path in _AT.findall(rest))
    described = _FD.match(rest)
    if described is not None:
        return (described[1],)
    return tuple(_PATH.findall(rest))


def find_unsafe(calls: Iterable[Call], base: str) -> list[str]:
    """Give what could be lost or torn by a power cut: commits before their contents, names never made durable.

    A rename below ``base`` must come after the flush of everything written below its source, and the
    names it changes must be flushed before the end. SQLite looks after its own files; what moves into
    ``staging/`` goes to be deleted.
    """
    dirty: set[str] = set()
    unnamed: dict[str, str] = {}
    faults = []
    for call in calls:
        if not call.changes(base) or any("state.db" in path for path in call.paths):
            continue
        if call.name == "syncfs":
            dirty.clear()
            unnamed.clear()
        elif call.name in SYNCS:
            dirty -= {call.paths[0]}
            unnamed.pop(call.paths[0], None)
        elif call.name in ("write", "pwrite64", "ftruncate", "fchmod") or call.creates:
            dirty.add(call.paths[0])
        elif call.name.startswith(("mkdir", "symlink", "link")):
            dirty.add(posixpath.dirname(call.paths[-1]))
        elif call.name.startswith("rename"):
            source, target = call.paths
            if "/staging/" in target or ("/staging/repair@" in source and "/new." not in source):
                continue
            faults += [f"{target}: {path} was not flushed" for path in sorted(dirty) if _is_below(path, source)]
            unnamed[posixpath.dirname(target)] = target
    return faults + [f"{target}: its name was not flushed" for target in unnamed.values()]


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
