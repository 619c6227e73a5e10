"""Control groups: one for each run, where the runner's own was delegated to it.

Of the unified hierarchy (version 2) only. A run's group bounds its memory and the number of its processes
as a whole, which limits of single processes cannot, and ends everything in it at once, whoever left which
session. Groups are kept and used again, since to make and remove one costs more than a short run. Source:
Linux, Documentation/admin-guide/cgroup-v2.rst. Standard library only: the runner imports this module under
``python -I -S``.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_OWN: Final = "runner"
_CONTROLLERS: Final = ("memory", "pids")
_ENOUGH_BYTES: Final = 1024**2
_LIMITS: Final = {"memory.max": "memory_bytes", "pids.max": "processes"}


class Leaf:
    """The control group of one run."""

    def __init__(self, path: str, controllers: frozenset[str]) -> None:
        """Make it, or take what an earlier runner left. Raises: OSError."""
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir(0o755)
        self._path, self._controllers = path, controllers
        self._processes = os.open(f"{path}/cgroup.procs", os.O_RDWR | os.O_CLOEXEC)
        self._set: dict[str, str] = {}
        if "memory" in controllers:
            self._write("memory.oom.group", "1")  # one without some of its processes has tested nothing
        self._oom_kills = self._count_oom_kills()

    def limit(self, limits: Mapping[str, int]) -> None:
        """Set the limits that this kernel's controllers know. Raises: OSError."""
        for file, name in _LIMITS.items():
            if file.partition(".")[0] in self._controllers:
                self._write(file, str(limits.get(name, "max")))

    def admit(self, pid: int) -> None:
        """Move a process here; what it starts later begins here. One that has ended, or cannot be moved, is not."""
        with contextlib.suppress(OSError):
            os.write(self._processes, b"%d" % pid)

    def members(self) -> set[int]:
        """List the living processes."""
        try:
            return set(map(int, os.pread(self._processes, _ENOUGH_BYTES, 0).split()))
        except OSError:  # somebody removed the group, which is possible only while it is empty
            return set()

    def kill(self) -> None:
        """Kill all that is here, at once."""
        with contextlib.suppress(OSError):  # Linux 5.14; before, its members are killed one by one
            self._set.pop("cgroup.kill", None)
            self._write("cgroup.kill", "1")

    def had_oom(self) -> bool:
        """Tell whether the kernel killed something here for want of memory since this was asked last."""
        before, self._oom_kills = self._oom_kills, self._count_oom_kills()
        return self._oom_kills > before

    def _count_oom_kills(self) -> int:
        if "memory" not in self._controllers:
            return 0
        with contextlib.suppress(OSError):
            return parse_oom_kills(Path(self._path, "memory.events").read_bytes())
        return 0

    def _write(self, file: str, text: str) -> None:
        if self._set.get(file) != text:
            Path(self._path, file).write_bytes(text.encode())
            self._set[file] = text


class Leaves:
    """The runs' control groups below the runner's own."""

    def __init__(self, own: str | None) -> None:
        """``own``: the delegated group; None, or one that cannot be used, means that runs get none."""
        self._own = own
        self._controllers: frozenset[str] = frozenset()
        self._free: list[Leaf] = []
        self._count = 0
        if own is not None:
            try:
                self._controllers = _move_aside(own)
                self._free.append(self._make())
            except OSError:
                self._own = None

    @property
    def exist(self) -> bool:
        """Whether runs get control groups."""
        return self._own is not None

    def take(self, limits: Mapping[str, int]) -> Leaf | None:
        """Give an empty group with these limits; None where there are none."""
        if self._own is None:
            return None
        try:
            leaf = self._free.pop() if self._free else self._make()
            leaf.limit(limits)
        except OSError:
            return None
        return leaf

    def give_back(self, leaf: Leaf) -> None:
        """Keep a group for a later run, unless something in it does not die."""
        if not leaf.members():
            self._free.append(leaf)

    def _make(self) -> Leaf:
        self._count += 1
        return Leaf(f"{self._own}/run-{self._count}", self._controllers)


def find_own_group(mounts: str, membership: str) -> str | None:
    """Give the directory of a process's own group, from its mountinfo and cgroup in /proc. Pure.

    None without one that could be written to.
    """
    own = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), None)
    if own is None or own.startswith("/.."):
        return None
    for line in mounts.splitlines():
        fields, _, source = line.partition(" - ")
        if source.startswith("cgroup2 "):
            root, point, options = fields.split()[3:6]
            inside = own == root or own.startswith(root.rstrip("/") + "/")
            if inside and "rw" in options.split(",") and "\\" not in point:  # blanks are \040 there; nobody has any
                return point + own.removeprefix(root.rstrip("/"))
    return None


def parse_oom_kills(events: bytes) -> int:
    """Read the number of processes killed for want of memory from ``memory.events``. Pure."""
    for line in events.splitlines():
        name, _, count = line.partition(b" ")
        if name == b"oom_kill" and count.isdigit():
            return int(count)
    return 0


def _move_aside(own: str) -> frozenset[str]:
    """Move the runner into a group of its own and let its siblings have controllers; gives which. Raises: OSError."""
    aside = Path(own, _OWN)
    aside.mkdir(0o755, exist_ok=True)
    (aside / "cgroup.procs").write_bytes(b"%d" % os.getpid())
    offered = Path(own, "cgroup.controllers").read_text().split()
    for controller in _CONTROLLERS:
        if controller in offered:
            with contextlib.suppress(OSError):
                Path(own, "cgroup.subtree_control").write_bytes(b"+" + controller.encode())
    return frozenset(Path(own, "cgroup.subtree_control").read_text().split())
