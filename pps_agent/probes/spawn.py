"""Starting programs: from a few threads, so that starts overlap and a hung one does not stop the loop.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import collections
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pps_agent.probes import contain
from pps_agent.probes.contain import MARK, ProcessKey
from pps_agent.probes.protocol import RunRequest
from pps_agent.probes.scratch import RUN, make_scratch, remove_tree

SPAWNERS: Final = 2
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_Lock = contextlib.AbstractContextManager[bool]  # threading.Lock is a function until Python 3.13
_RESET_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class Gate:
    """Tells finished spawns from those under way, so that no new program is taken for a stray.

    A program exists before its spawner knows its number. Strays that carry no sign of their run are
    therefore killed only while the gate is quiet.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spawning = 0
        self._known: set[int] = set()

    def spawn(self, start: Callable[[], int]) -> int:
        """Start a program and remember its number. Raises: what ``start`` raises."""
        with self._lock:
            self._spawning += 1
        pid = 0
        try:
            pid = start()
        finally:
            with self._lock:
                self._spawning -= 1
                if pid:
                    self._known.add(pid)
        return pid

    def forget(self, pid: int) -> None:
        """Drop the number of a program that was waited for."""
        with self._lock:
            self._known.discard(pid)

    def adopted(self) -> tuple[set[int], bool]:
        """List the runner's children that it did not start, and whether that list is beyond doubt."""
        with self._lock:
            return contain.children_of(os.getpid()) - self._known, self._spawning == 0


@dataclass(frozen=True, slots=True)
class Spawned:
    """What a spawner thread hands over: the program, its pipes, its directory."""

    pid: int
    pidfd: int
    stdout: int
    stderr: int
    scratch: str
    started: float


class Spawner:
    """Starts programs from one thread: own working directory, own session, no shell, no inherited files."""

    def __init__(self, base: str, owner: str, runner: ProcessKey, gate: Gate) -> None:
        self._base, self._owner, self._runner, self._gate = base, owner, runner, gate

    def spawn(self, request: RunRequest, directory_lock: _Lock | None) -> Spawned:
        """Start a program. ``directory_lock`` is needed where the thread shares its working directory.

        Raises: OSError; nothing is left behind then.
        """
        scratch = make_scratch(self._base, RUN, self._runner)
        pipes: list[int] = []
        pid = 0
        try:
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(pipes[1], True)
            os.set_blocking(pipes[3], True)
            with directory_lock or contextlib.nullcontext():
                pid = self._start(request, scratch, pipes)
            contain.limit_program(pid, request.limits)
            spawned = Spawned(pid, os.pidfd_open(pid), pipes[0], pipes[2], scratch, time.monotonic())
        except OSError:
            self._undo(pid, pipes, scratch)
            raise
        os.close(pipes[1])
        os.close(pipes[3])
        return spawned

    def _undo(self, pid: int, pipes: list[int], scratch: str) -> None:
        for end in pipes:
            os.close(end)
        if pid:
            contain.kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._gate.forget(pid)
        remove_tree(scratch)

    def _start(self, request: RunRequest, scratch: str, pipes: list[int]) -> int:
        os.chdir(scratch)
        environment = self._environment(request, scratch)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, pipes[1], 1),
            (os.POSIX_SPAWN_DUP2, pipes[3], 2),
        ]
        try:
            return self._gate.spawn(
                lambda: os.posix_spawn(
                    request.argv[0],
                    request.argv,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=_RESET_SIGNALS,
                )
            )
        finally:
            os.chdir("/")

    def _environment(self, request: RunRequest, scratch: str) -> Mapping[str, str]:
        mark = f"{self._owner}:{self._runner}:{request.run}"
        # The marker comes first, so that a look at the start of /proc/PID/environ finds it.
        environment = {MARK: mark, "PATH": _DEFAULT_PATH, **request.env}
        return environment | {MARK: mark, "LC_ALL": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch}


class Spawners:
    """The threads that start programs and remove directories: what may block, blocks there."""

    def __init__(self, spawner: Spawner, wake: Callable[[], None]) -> None:
        self._spawner, self._wake = spawner, wake
        self._tasks: queue.SimpleQueue[Callable[[_Lock | None], None]] = queue.SimpleQueue()
        self._shared_directory = threading.Lock()
        self.done: collections.deque[Callable[[], None]] = collections.deque()
        for _ in range(SPAWNERS):
            threading.Thread(target=self._work, daemon=True).start()

    def spawn(self, request: RunRequest, then: Callable[[Spawned | OSError], None]) -> None:
        """Start a program; ``then`` is called by the loop with what came of it."""

        def task(directory_lock: _Lock | None) -> None:
            try:
                result: Spawned | OSError = self._spawner.spawn(request, directory_lock)
            except OSError as exc:
                result = exc
            self.done.append(lambda: then(result))

        self._tasks.put(task)

    def remove(self, scratch: str, then: Callable[[], None]) -> None:
        """Remove a run's directory; ``then`` is called by the loop afterwards."""

        def task(_: _Lock | None) -> None:
            try:
                remove_tree(scratch)
            except OSError as exc:
                sys.stderr.write(f"probe runner: {scratch} could not be removed: {exc}\n")
            self.done.append(then)

        self._tasks.put(task)

    def _work(self) -> None:
        lock = None if contain.unshare_directory() else self._shared_directory
        while True:
            self._tasks.get()(lock)
            self._wake()
