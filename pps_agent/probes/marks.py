"""Signs by which a run's processes are known after whoever started them has died, and the sweep that ends them.

Two signs, both inherited at no cost. The variable PPS_RUN names owner, runner and run; a program can wipe
it. A limit that bounds nothing, since no probe has real-time priority, holds owner and runner as two
numbers (RLIMIT_RTTIME); a program could lower them, but has no reason to, and they do not go with the
environment. Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.probes.contain import ProcessKey, is_alive

VARIABLE: Final = "PPS_RUN"
"""``<owner>:<runner's pid>-<runner's start time>:<run>``"""

_ENVIRONMENT_BYTES: Final = 256 * 1024
_MARKED: Final = 2**62
_OWNER_BITS: Final = 60
_START_BITS: Final = 38
_LIMIT: Final = b"Max realtime timeout"


def take_limit_mark(owner: str, runner: ProcessKey) -> None:
    """Mark this process, and all it will start, by a limit; without effect where that limit is set already."""
    if resource.getrlimit(resource.RLIMIT_RTTIME) == (resource.RLIM_INFINITY, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_RTTIME, limit_mark(owner, runner))


def limit_mark(owner: str, runner: ProcessKey) -> tuple[int, int]:
    """Give the soft and the hard value that stand for an owner and a runner. Pure."""
    return _owner_number(owner), _MARKED | runner.pid << _START_BITS | runner.start


def parse_limit_mark(limits: bytes) -> tuple[int, ProcessKey] | None:
    """Read ``/proc/PID/limits`` into an owner's number and a runner; None when it is not one of ours. Pure."""
    line = next((line for line in limits.splitlines() if line.startswith(_LIMIT)), b"")
    values = line.removeprefix(_LIMIT).split()[:2]
    if len(values) != 2 or not all(value.isdigit() for value in values):
        return None
    soft, hard = int(values[0]), int(values[1])
    if not _MARKED <= hard < 2 * _MARKED or soft >= 2**_OWNER_BITS:
        return None
    number = hard - _MARKED
    return soft, ProcessKey(number >> _START_BITS, number & (2**_START_BITS - 1))


def variable_of(pid: int) -> str:
    """Give the PPS_RUN a process was started with; empty when there is none or it cannot be read."""
    prefix = f"{VARIABLE}=".encode()
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as stream:
            variables = stream.read(_ENVIRONMENT_BYTES).split(b"\0")
    except OSError:
        return ""
    return next((os.fsdecode(v[len(prefix) :]) for v in variables if v.startswith(prefix)), "")


def parse_variable(mark: str) -> tuple[str, ProcessKey] | None:
    """Read a PPS_RUN into owner and runner; None when it is not one of ours. Pure."""
    parts = mark.split(":")
    if len(parts) != 3:
        return None
    pid, _, start = parts[1].partition("-")
    if not (pid.isascii() and pid.isdigit() and start.isascii() and start.isdigit()):
        return None
    if len(pid) > 10 or len(start) > 20:
        return None
    return parts[0], ProcessKey(int(pid), int(start))


def sweep(owner: str, uid: int, *, within_s: float = 2.0) -> int:
    """Kill the runs of this owner and user whose runner is dead; give how many processes that were.

    Only processes of ``uid`` that carry a sign with this owner and the key of a runner that no longer
    exists. Each is pinned by a pidfd before it is looked at, so its number cannot be taken by another one
    in between.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + within_s
    while (found := _kill_orphaned(owner, uid)) and time.monotonic() < deadline:
        killed |= found
    return len(killed)


def _kill_orphaned(owner: str, uid: int) -> set[int]:
    killed = set()
    for pid in _processes_of(uid):
        try:
            pinned = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if not _is_orphaned(pid, owner):
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


def _is_orphaned(pid: int, owner: str) -> bool:
    limit = None
    with contextlib.suppress(OSError):
        limit = parse_limit_mark(Path(f"/proc/{pid}/limits").read_bytes())
    if limit is not None and limit[0] == _owner_number(owner):
        return not is_alive(limit[1])
    variable = parse_variable(variable_of(pid))
    return variable is not None and variable[0] == owner and not is_alive(variable[1])


def _processes_of(uid: int) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if process.stat().st_uid == uid:
                    yield int(process.name)


def _owner_number(owner: str) -> int:
    # FNV-1a: hashlib would bring OpenSSL into the runner's memory.
    number = 0xCBF29CE484222325
    for octet in owner.encode():
        number = (number ^ octet) * 0x100000001B3 % 2**64
    return number >> (64 - _OWNER_BITS)
