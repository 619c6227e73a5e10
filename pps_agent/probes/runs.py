"""One run of one probe inside the runner: started, listened to, ended, accounted for.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import contextlib
import os
import signal
from enum import Enum, auto
from typing import Final

from pps_agent.probes import contain, protocol
from pps_agent.probes.peer import Job
from pps_agent.probes.protocol import RunResponse
from pps_agent.probes.spawn import Spawned
from pps_agent.probes.strays import Children, Sessions, find_adopted, find_strays, kill_strays

DRAIN_S: Final = 0.2
"""How long output is still read after the program itself ended; somebody else may hold the pipe for ever."""
SWEEP_S: Final = 2.0
SWEEP_EVERY_S: Final = 0.01
UNKILLABLE_S: Final = 5.0
SETTLE_S: Final = 0.05
"""Most checks are over by then, and need no more than to be started and waited for."""
MEASURE_AFTER_S: Final = 1.0
MEASURE_SHARE: Final = 20
"""A run's directory is measured again after so many times the time that took, and not before MEASURE_AFTER_S."""

_CHUNK_BYTES: Final = 64 * 1024
_FEW_CHUNKS: Final = 4
_MOST_LOOKS: Final = 8
_CROWDED_SHARE: Final = 0.75


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

    def __init__(self, job: Job, spawned: Spawned, children: Children, *, timed_out: bool) -> None:
        """``timed_out``: the start had to be ended, so that what was started is no more than that."""
        self.peer, self.request, self.base, self.spawned = job.peer, job.request, job.base, spawned
        self.phase = Phase.RUNNING
        self.deadline = spawned.started + job.request.timeout_s
        self.open_descriptors = {spawned.stdout, spawned.stderr, spawned.pidfd}
        self.settle_at: float | None = spawned.started + SETTLE_S
        self.measure_at = spawned.started + MEASURE_AFTER_S
        self._children = children
        self._stdout = Capture(protocol.STDOUT_HEAD_BYTES, protocol.STDOUT_TAIL_BYTES)
        self._stderr = Capture(protocol.STDERR_HEAD_BYTES, 0)
        self._timed_out = timed_out
        self._killed: set[int] = set()
        self._killed_by = ""
        self._failure = ""
        self._sweep_until = 0.0

    def read(self, pipe: int) -> bool:
        """Take one chunk of output; False when the pipe has come to its end. Raises: BlockingIOError when empty."""
        chunk = os.read(pipe, _CHUNK_BYTES)
        (self._stdout if pipe == self.spawned.stdout else self._stderr).feed(chunk)
        return bool(chunk)

    def on_pipe_end(self, pipe: int, now: float) -> None:
        """Note that a pipe was closed by everybody who held it."""
        self.open_descriptors.remove(pipe)
        os.close(pipe)
        if self.phase is Phase.DRAINING and not self.open_descriptors:
            self.deadline = now

    def on_exit(self, now: float) -> None:
        """Note that the program itself has ended. It stays unreaped, so that its group's number stays ours."""
        self.open_descriptors.remove(self.spawned.pidfd)
        os.close(self.spawned.pidfd)
        if self.phase in (Phase.RUNNING, Phase.TERMINATED, Phase.KILLED):
            self.phase = Phase.DRAINING
            if self.settle_at is not None:
                self._read_all(now)
            self.deadline = now + DRAIN_S if self.open_descriptors else now

    def _read_all(self, now: float) -> None:
        """Read pipes that nobody watches, as far as there is something, but no flood."""
        for pipe in tuple(self.open_descriptors):
            with contextlib.suppress(BlockingIOError):
                for _ in range(_FEW_CHUNKS):
                    if not self.read(pipe):
                        self.on_pipe_end(pipe, now)
                        break

    def settle(self) -> tuple[int, ...]:
        """Take a run for one that lasts: gives the pipes that are to be watched from now on.

        What it had started before its limits were set, in its first moments, gets them now.
        """
        self.settle_at = None
        if self.phase is Phase.RUNNING:
            self._limit_early_starts()
        return tuple(self.open_descriptors - {self.spawned.pidfd})

    def _limit_early_starts(self) -> None:
        admit = self.spawned.leaf.admit if self.spawned.leaf else None
        contain.limit_descendants(contain.children_of(self.spawned.pid), self.base.resources, admit)
        limited: set[int] = set()
        for _ in range(_MOST_LOOKS):  # meanwhile those that had no limits yet may have started more, and ended
            adopted = find_adopted(self._children, self.request.run, self.spawned.pid) - limited
            if not adopted:
                return
            contain.limit_descendants(adopted, self.base.resources, admit)
            limited |= adopted

    def close(self) -> None:
        """Close all that is still open: for the end."""
        for descriptor in self.open_descriptors:
            os.close(descriptor)
        self.open_descriptors.clear()

    def on_abandoned(self, now: float) -> None:
        """End the run at once: nobody waits for its answer any more."""
        if self.phase in (Phase.RUNNING, Phase.TERMINATED):
            self._kill(now)

    def on_measured(self, used_bytes: int, now: float, took_s: float) -> None:
        """Kill the run when its directory has outgrown its limit; else say when to measure again."""
        self.measure_at = now + max(MEASURE_AFTER_S, took_s * MEASURE_SHARE)
        if used_bytes > self.base.limits["directory_bytes"] and self.phase in (Phase.RUNNING, Phase.TERMINATED):
            self._killed_by = protocol.KILLED_BY_DIRECTORY
            self._kill(now)

    def on_deadline(self, now: float, running: Sessions) -> RunResponse | None:
        """Take the next step; gives the answer once the run is over. ``running`` gives all runs under way."""
        match self.phase:
            case Phase.RUNNING:
                self._timed_out = True
                self.phase = Phase.TERMINATED
                self.deadline = now + self.request.grace_s
                contain.kill_group(self.spawned.pid, signal.SIGTERM)
                contain.kill_group(self.spawned.pid, signal.SIGCONT)  # one that is stopped cannot heed it
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

    def processes(self) -> set[int]:
        """List the run's processes, as far as one look shows them."""
        members = self.spawned.leaf.members() if self.spawned.leaf else set[int]()
        return members | {self.spawned.pid} | contain.descendants_of(self.spawned.pid)

    def _kill(self, now: float) -> None:
        self.phase = Phase.KILLED
        self.deadline = now + UNKILLABLE_S
        contain.kill_group(self.spawned.pid, signal.SIGKILL)

    def _sweep(self, now: float, running: Sessions) -> RunResponse | None:
        """Kill the run's group and what escaped it; come back until nothing is left or time is up."""
        left = find_strays(self._children, running, self.request.run)
        leaf = self.spawned.leaf
        members = leaf.members() - {self.spawned.pid} if leaf else set[int]()
        if left or members:
            for pid in left:
                self._killed |= {pid} | contain.descendants_of(pid)
            self._killed |= members
            contain.kill_group(self.spawned.pid, signal.SIGKILL)
            kill_strays(left)
            if leaf:
                leaf.kill()
            if now < self._sweep_until:
                self.deadline = now + SWEEP_EVERY_S
                return None
        return self._finish(now)

    def _is_crowded(self) -> bool:
        """Tell whether runs hold so many processes that one may have failed for want of another.

        The limit counts the whole account, so a run that could not fork is not to blame for what it then says.
        """
        limit = self.base.limits.get("processes")
        return limit is not None and len(contain.descendants_of(os.getpid())) >= _CROWDED_SHARE * limit

    def _finish(self, now: float) -> RunResponse:
        pid, status, usage = os.wait4(self.spawned.pid, os.WNOHANG)
        self._children.forget(self.spawned.pid)  # one that does not die is a stray from now on
        code = os.waitstatus_to_exitcode(status) if pid else None
        number = -code if code is not None and code < 0 else None
        oom = number == signal.SIGKILL and self.spawned.leaf is not None and self.spawned.leaf.had_oom()
        killed_by = self._killed_by or (protocol.KILLED_BY_MEMORY if oom else "")
        if not killed_by and not self._timed_out and code and self._is_crowded():
            killed_by = protocol.KILLED_BY_PROCESSES
        return RunResponse(
            run=self.request.run,
            exit=code if code is not None and code >= 0 else None,
            signal=number,
            timed_out=self._timed_out,
            failure=self._failure,
            killed_by=killed_by,
            oom=oom,
            stdout=self._stdout.kept(),
            stdout_bytes=self._stdout.total_bytes,
            stderr=self._stderr.kept(),
            stderr_bytes=self._stderr.total_bytes,
            leftovers_killed=len(self._killed),
            cpu_s=usage.ru_utime + usage.ru_stime if pid else 0.0,
            max_rss_bytes=usage.ru_maxrss * 1024 if pid else 0,
            duration_s=now - self.spawned.started,
        )
