"""Processes that left their run, found and ended.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

from pps_agent.probes import contain, marks

Sessions = Callable[[], Mapping[str, int]]
"""Gives the runs under way, each with its session."""

_ENOUGH_BYTES: Final = 1024**2


class Children:
    """The runner's children: the programs it started, and what it adopted as a subreaper.

    A thread that starts a program notes its number before the thread ends. Until then the program is that
    thread's child; the kernel hands everything adopted to the first thread of the process. What is the
    first thread's child and was not noted is therefore a stray, beyond doubt.
    """

    def __init__(self) -> None:
        self._started: set[int] = set()
        try:
            self._list = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            sys.stderr.write(f"probe runner: processes that leave their runs cannot be found: {exc}\n")
            self._list = -1

    def note(self, pid: int) -> None:
        """Remember a program that was started."""
        self._started.add(pid)

    def forget(self, pid: int) -> None:
        """Drop the number of a program: it was waited for, or has become a stray itself."""
        self._started.discard(pid)

    def adopted(self) -> set[int]:
        """List the children that were not started here, the dead ones among them included."""
        if self._list < 0:
            return set()
        return set(map(int, os.pread(self._list, _ENOUGH_BYTES, 0).split())) - self._started


def find_strays(children: Children, running: Sessions, ending: str = "") -> set[int]:
    """List adopted processes of the run that is ending, and those of no run under way.

    ``running`` gives all runs under way (the ending one included) with their sessions. A process that
    wiped its marker and left its session belongs to nobody, whoever started it. Dead ones are waited for.
    """
    living = [pid for pid in children.adopted() if not _is_reaped(pid)]
    found: set[int] = set()
    sessions = running() if living else {}
    for pid in living:
        run, session = marks.variable_of(pid).rpartition(":")[2], contain.session_of(pid)
        mine = bool(ending) and (run == ending or session == sessions[ending])
        if mine or (run not in sessions and session not in sessions.values()):
            found.add(pid)
    return found


def find_adopted(children: Children, run: str, session: int) -> set[int]:
    """List the adopted processes of a run that is under way: what it started whose parent has ended."""
    return {
        pid
        for pid in children.adopted()
        if contain.session_of(pid) == session or marks.variable_of(pid).rpartition(":")[2] == run
    }


def kill_strays(strays: set[int]) -> None:
    """Kill adopted processes. They are our children: no other process can have taken their numbers."""
    for pid in strays:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in strays:
        _is_reaped(pid)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
