"""Linux means to keep processes in bounds, and to find and end those that tried to leave.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "PPS_RUN"
"""Variable in every run's environment: ``<owner>:<runner's pid>-<runner's start time>:<run>``."""

_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_FS: Final = 0x200
_ENVIRONMENT_BYTES: Final = 256 * 1024
_RESOURCES: Final = {
    "cpu_s": resource.RLIMIT_CPU,
    "memory_bytes": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "file_bytes": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
}
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


def unshare_directory() -> bool:
    """Give this thread a working directory of its own; False where the kernel does not permit it."""
    return int(_libc.unshare(_CLONE_FS)) == 0


def limit_program(pid: int, limits: Mapping[str, int]) -> None:
    """Set the limits of a program that was just started as leader of its session. Raises: OSError.

    It may have started others by now: each process is limited before its children are listed, so that
    those it starts later inherit the limits. Only one that ran in the meantime and left the session, or
    used something up already, goes free; the time limit binds it all the same.
    """
    todo = [pid]
    while todo:
        member = todo.pop()
        _limit_process(member, limits)
        todo.extend(child for child in children_of(member) if session_of(child) == pid)


def _limit_process(pid: int, limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        kind = _RESOURCES[name]
        with contextlib.suppress(ProcessLookupError):
            _, ceiling = resource.prlimit(pid, kind)
            # A second more, so that the soft limit's SIGXCPU is what ends a run, and says why.
            hard = value + 1 if kind == resource.RLIMIT_CPU else value
            if ceiling != resource.RLIM_INFINITY:
                hard = min(hard, ceiling)
            resource.prlimit(pid, kind, (min(value, hard), hard))


def process_key(pid: int) -> ProcessKey | None:
    """Give a process's key, or None when there is no such process (or it cannot be seen)."""
    fields = _stat_fields(pid)
    return None if fields is None else ProcessKey(pid, int(fields[19]))


def session_of(pid: int) -> int | None:
    """Give the session id of a process, or None when there is no such process."""
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[3])


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
            with contextlib.suppress(OSError):
                found.update(map(int, (task / "children").read_bytes().split()))
    return found


def descendants_of(pid: int) -> set[int]:
    """List children, their children and so on, as far as one look shows them."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children_of(todo.pop()) - found
        found |= new
        todo.extend(new)
    return found


def mark_of(pid: int) -> str:
    """Give the run marker a process was started with; empty when there is none or it cannot be read."""
    prefix = f"{MARK}=".encode()
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as stream:
            variables = stream.read(_ENVIRONMENT_BYTES).split(b"\0")
    except OSError:
        return ""
    return next((os.fsdecode(v[len(prefix) :]) for v in variables if v.startswith(prefix)), "")


def kill_group(group: int, number: signal.Signals) -> None:
    """Signal a process group whose leader is still ours to wait for, so that its number is not reused."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def sweep(owner: str, uid: int, *, within_s: float = 2.0) -> int:
    """Kill the runs of this owner and user whose runner is dead; give how many processes that were.

    Only processes of ``uid`` that carry the marker with this owner's name and the key of a runner
    that no longer exists. Each is pinned by a pidfd before it is looked at, so its number cannot be
    taken by another one in between.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + within_s
    while (found := _kill_orphaned(owner, uid)) and time.monotonic() < deadline:
        killed |= found
    return len(killed)


def parse_mark(mark: str) -> tuple[str, ProcessKey] | None:
    """Read a run marker into owner and runner; None when it is not one of ours."""
    parts = mark.split(":")
    if len(parts) != 3:
        return None
    pid, _, start = parts[1].partition("-")
    if not (pid.isascii() and pid.isdigit() and start.isascii() and start.isdigit()):
        return None
    if len(pid) > 10 or len(start) > 20:
        return None
    return parts[0], ProcessKey(int(pid), int(start))


def _kill_orphaned(owner: str, uid: int) -> set[int]:
    killed = set()
    for pid in _processes_of(uid):
        try:
            pinned = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            parsed = parse_mark(mark_of(pid))
            if parsed is None or parsed[0] != owner or is_alive(parsed[1]):
                continue
            signal.pidfd_send_signal(pinned, signal.SIGKILL)
            select.select([pinned], [], [], 0.5)
            with contextlib.suppress(ChildProcessError):  # adopted by us, where we are a subreaper
                os.waitpid(pid, os.WNOHANG)
            killed.add(pid)
        except (ProcessLookupError, PermissionError):
            continue
        finally:
            os.close(pinned)
    return killed


def _processes_of(uid: int) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if process.stat().st_uid == uid:
                    yield int(process.name)


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
