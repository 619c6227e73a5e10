"""One run of one probe inside the runner: started, listened to, ended, accounted for.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from pps_agent.probes import contain, protocol
from pps_agent.probes.protocol import RunRequest, RunResponse
from pps_agent.probes.spawn import Gate, Spawned

DRAIN_S: Final = 0.2
"""How long output is still read after the program itself ended; somebody else may hold the pipe for ever."""
SWEEP_S: Final = 2.0
SWEEP_EVERY_S: Final = 0.01
UNKILLABLE_S: Final = 5.0

_CHUNK_BYTES: Final = 64 * 1024


class Capture:
    """Keeps the head and the tail of a stream and counts the rest."""

    __slots__ = ("_head", "_head_bytes", "_tail", "_tail_bytes", "total_bytes")

    def __init__(self, head_bytes: int, tail_bytes: int) -> None:
        self._head_bytes, self._tail_bytes = head_bytes, tail_bytes
        self._head, self._tail = bytearray(), bytearray()
        self.total_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.total_bytes += len(chunk)
        room = self._head_bytes - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:] if room > 0 else chunk
        del self._tail[: max(0, len(self._tail) - self._tail_bytes)]

    def kept(self) -> bytes:
        """Give the head and the tail, joined."""
        return bytes(self._head + self._tail)


class Phase(Enum):
    """Where a run stands, in this order; the middle two only after a time-out."""

    RUNNING = auto()
    TERMINATED = auto()
    KILLED = auto()
    DRAINING = auto()
    SWEEPING = auto()


class Run:
    """A program under way. The service calls ``on_…`` when something happened; ``deadline`` is when to look again."""

    def __init__(self, request: RunRequest, spawned: Spawned, gate: Gate) -> None:
        self.request, self.spawned = request, spawned
        self.phase = Phase.RUNNING
        self.deadline = spawned.started + request.timeout_s
        self.open_pipes = {spawned.stdout, spawned.stderr}
        self._gate = gate
        self._stdout = Capture(protocol.STDOUT_HEAD_BYTES, protocol.STDOUT_TAIL_BYTES)
        self._stderr = Capture(protocol.STDERR_HEAD_BYTES, 0)
        self._timed_out = False
        self._killed: set[int] = set()
        self._failure = ""
        self._sweep_until = 0.0

    def read(self, pipe: int) -> bool:
        """Take one chunk of output; False when the pipe has come to its end."""
        try:
            chunk = os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        (self._stdout if pipe == self.spawned.stdout else self._stderr).feed(chunk)
        return bool(chunk)

    def close(self) -> tuple[int, ...]:
        """Close all that is still open; gives the descriptors. For the end, after the answer."""
        descriptors = (*self.open_pipes, self.spawned.pidfd)
        for descriptor in descriptors:
            os.close(descriptor)
        self.open_pipes.clear()
        return descriptors

    def on_exit(self, now: float) -> None:
        """Note that the program itself has ended. It stays unreaped, so that its group's number stays ours."""
        if self.phase in (Phase.RUNNING, Phase.TERMINATED, Phase.KILLED):
            self.phase = Phase.DRAINING
            self.deadline = now + DRAIN_S if self.open_pipes else now

    def on_pipe_end(self, now: float) -> None:
        """Note that a pipe was closed by everybody who held it."""
        if self.phase is Phase.DRAINING and not self.open_pipes:
            self.deadline = now

    def on_abandoned(self, now: float) -> None:
        """End the run at once: nobody waits for its answer any more."""
        if self.phase in (Phase.RUNNING, Phase.TERMINATED):
            self._kill(now)

    def on_deadline(self, now: float, running: Mapping[str, int]) -> RunResponse | None:
        """Take the next step; gives the answer once the run is over. ``running``: sessions of all runs under way."""
        match self.phase:
            case Phase.RUNNING:
                self._timed_out = True
                self.phase = Phase.TERMINATED
                self.deadline = now + self.request.grace_s
                contain.kill_group(self.spawned.pid, signal.SIGTERM)
            case Phase.TERMINATED:
                self._kill(now)
            case Phase.KILLED:
                self._failure = "does not end even when killed (waits for a dead file system or device?)"
                return self._finish(now)
            case Phase.DRAINING:
                self.phase = Phase.SWEEPING
                self._sweep_until = now + SWEEP_S
                return self._sweep(now, running)
            case Phase.SWEEPING:
                return self._sweep(now, running)
        return None

    def _kill(self, now: float) -> None:
        self.phase = Phase.KILLED
        self.deadline = now + UNKILLABLE_S
        contain.kill_group(self.spawned.pid, signal.SIGKILL)

    def _sweep(self, now: float, running: Mapping[str, int]) -> RunResponse | None:
        """Kill the run's group and what escaped it; come back until nothing is left or time is up."""
        left = find_strays(self._gate, running, self.request.run)
        if left:
            for pid in left:
                self._killed |= {pid} | contain.descendants_of(pid)
            contain.kill_group(self.spawned.pid, signal.SIGKILL)
            kill_strays(left)
            if now < self._sweep_until:
                self.deadline = now + SWEEP_EVERY_S
                return None
        return self._finish(now)

    def _finish(self, now: float) -> RunResponse:
        pid, status, usage = os.wait4(self.spawned.pid, os.WNOHANG)
        self._gate.forget(self.spawned.pid)  # one that does not die is a stray from now on
        response = RunResponse(
            run=self.request.run,
            timed_out=self._timed_out,
            failure=self._failure,
            stdout=self._stdout.kept(),
            stdout_bytes=self._stdout.total_bytes,
            stderr=self._stderr.kept(),
            stderr_bytes=self._stderr.total_bytes,
            leftovers_killed=len(self._killed),
            duration_s=now - self.spawned.started,
        )
        if pid == 0:
            return response
        code = os.waitstatus_to_exitcode(status)
        return replace(
            response,
            exit=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            cpu_s=usage.ru_utime + usage.ru_stime,
            max_rss_bytes=usage.ru_maxrss * 1024,
        )


def find_strays(gate: Gate, running: Mapping[str, int], ending: str = "") -> set[int]:
    """List adopted processes of the run that is ending, and those of no run under way.

    ``running`` maps all runs under way (the ending one included) to their sessions. A process that wiped
    its marker and left its session belongs to nobody, whoever started it. Dead ones are waited for.
    """
    adopted, beyond_doubt = gate.adopted()
    found = set()
    for pid in adopted:
        # In doubt it may be a program just started, whose end its own run must see.
        if beyond_doubt and _is_reaped(pid):
            continue
        run, session = contain.mark_of(pid).rpartition(":")[2], contain.session_of(pid)
        mine = bool(ending) and (run == ending or session == running[ending])
        nobodys = beyond_doubt and run not in running and session not in running.values()
        if mine or nobodys:
            found.add(pid)
    return found


def kill_strays(strays: set[int]) -> None:
    """Kill adopted processes. They are our children: no other process can have taken their numbers."""
    for pid in strays:
        os.kill(pid, signal.SIGKILL)
    for pid in strays:
        _is_reaped(pid)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
