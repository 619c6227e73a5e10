"""Linux means to keep processes in bounds, and to find and end those that tried to leave.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import ctypes
import functools
import os
import resource
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
STARTING_PROCESSES: Final = 1024
_CHILDREN_BYTES: Final = 1024**2
_RESOURCES: Final = {
    "cpu_s": resource.RLIMIT_CPU,
    "memory_bytes": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "file_bytes": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
}
ResourceLimits = list[tuple[int, tuple[int, int]]]
"""Kind of limit, and its soft and hard value."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """A process beyond doubt: its id and its start time in clock ticks since boot."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}"


def drop_privileges(uid: int, gid: int) -> None:
    """Become another user for good, without supplementary groups. Raises: OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PermissionError(f"could not become user {uid}, group {gid}")


def bound_starts() -> None:
    """Bound how many processes an account that only probes have may have before a run's own limit is set.

    A run gets its limits after its program was started: a fork bomb must not fill the machine meanwhile. The runner
    may then fail to start a run, which is UNKNOWN.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    soft = STARTING_PROCESSES if hard == resource.RLIM_INFINITY else min(STARTING_PROCESSES, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def contain_self() -> None:
    """Bound this process and everything it will start; runs inherit it at no cost. Raises: OSError.

    Not dumpable: a probe of the same user can neither trace the runner nor open its sockets by /proc.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.environ.clear()
    os.chdir("/")
    with contextlib.suppress(PermissionError):  # already a session leader
        os.setsid()


def become_subreaper() -> None:
    """Adopt what a dying runner leaves behind, so that it can be found. Raises: OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


@functools.cache
def _ceilings() -> Mapping[str, int]:
    """Give this process's own hard limits, over which nothing it starts can be raised."""
    return {name: resource.getrlimit(kind)[1] for name, kind in _RESOURCES.items()}


def limit_process(pid: int, limits: ResourceLimits) -> None:
    """Set the limits of a process that is ours to wait for; what it starts later inherits them. Raises: OSError."""
    with contextlib.suppress(ProcessLookupError):
        for kind, pair in limits:
            resource.prlimit(pid, kind, pair)


def limit_descendants(children: Iterable[int], limits: ResourceLimits, admit: Callable[[int], None] | None) -> None:
    """Set the limits of what a program had started before its own were set: of these and all below them.

    Each process is limited before its children are listed, so that none can slip through by starting
    more. ``admit`` takes a process into the run's control group.
    """
    todo = list(children)
    while todo:
        member = todo.pop()
        if admit is not None:
            admit(member)
        with contextlib.suppress(OSError):  # it ended, and its number is another's
            limit_process(member, limits)
        todo.extend(children_of(member))


def resource_limits(limits: Mapping[str, int]) -> ResourceLimits:
    """Give soft and hard values as the kernel takes them; what no resource limit bounds is left out."""
    wanted, allowed = [], _ceilings()
    for name, value in limits.items():
        if (kind := _RESOURCES.get(name)) is not None:
            # A second more, so that the soft limit's SIGXCPU is what ends a run, and says why.
            hard = value + 1 if kind == resource.RLIMIT_CPU else value
            if allowed[name] != resource.RLIM_INFINITY:
                hard = min(hard, allowed[name])
            wanted.append((kind, (min(value, hard), hard)))
    return wanted


def process_key(pid: int) -> ProcessKey | None:
    """Give a process's key, or None when there is no such process (or it cannot be seen)."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessKey(pid, int(fields[19]))


def session_of(pid: int) -> int | None:
    """Give the session id of a process, or None when there is no such process."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def is_alive(key: ProcessKey) -> bool:
    """Tell whether this very process still runs; True when that cannot be found out.

    One that is dead but not yet waited for has ended: in many containers nobody ever waits.
    """
    fields = _stat_fields(key.pid)
    if fields is not None:
        return int(fields[19]) == key.start and fields[0] not in ("Z", "X")
    try:
        os.kill(key.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def children_of(pid: int) -> set[int]:
    """List the children of a process, the adopted and the dead ones included; empty when it is gone."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= _read_children(str(task))
    return found


def children_of_thread(thread: int) -> set[int]:
    """List the children of one of our own threads; empty when it has ended."""
    return _read_children(f"/proc/self/task/{thread}")


def _read_children(task: str) -> set[int]:
    try:
        descriptor = os.open(f"{task}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        return set(map(int, os.read(descriptor, _CHILDREN_BYTES).split()))
    except OSError:
        return set()
    finally:
        os.close(descriptor)


def descendants_of(pid: int) -> set[int]:
    """List children, their children and so on, as far as one look shows them."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children_of(todo.pop()) - found
        found |= new
        todo.extend(new)
    return found


def kill_group(group: int, number: signal.Signals) -> None:
    """Signal a process group whose leader is still ours to wait for, so that its number is not reused."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _stat_fields(pid: int) -> list[str] | None:
    """Give the fields of /proc/PID/stat after the command name (which may hold anything); [0] is the state."""
    try:
        # Not read_text: after the change of user a codec may be out of reach of the importer.
        content = Path(f"/proc/{pid}/stat").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    return content.rpartition(")")[2].split()


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
