"""Starting a program, confined and limited.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import _thread
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Final

from pps_agent.probes import contain
from pps_agent.probes.cgroup import Leaf
from pps_agent.probes.confine import Confinement
from pps_agent.probes.contain import ProcessKey
from pps_agent.probes.launch import Launcher, Texts, variables
from pps_agent.probes.marks import VARIABLE
from pps_agent.probes.peer import Job
from pps_agent.probes.protocol import RunRequest
from pps_agent.probes.scratch import RUN, make_scratch, scratch_prefix
from pps_agent.probes.strays import Children

_QUICK_S: Final = 0.5
_KILL_EVERY_S: Final = 1.0
_DEFAULTS: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
_FORCED: Final = {"LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Spawned:
    """What a start gives: the program, its pipes, its directory, its control group where it has one."""

    pid: int
    pidfd: int
    stdout: int
    stderr: int
    scratch: str
    leaf: Leaf | None
    started: float


class Start:
    """A start under way, in a thread of its own.

    ``slow_at`` is when it can be said to hang, ``deadline`` when it has taken too long; ``scratch`` the
    run's directory, once there is one, which stays to be removed also when the start fails.
    """

    def __init__(self, job: Job, leaf: Leaf | None) -> None:
        self.job, self.leaf = job, leaf
        now = time.monotonic()
        self.slow_at = now + _QUICK_S
        self.deadline = now + job.request.timeout_s
        self.scratch = ""
        self.is_overdue = False
        self._thread: int | None = None

    def begin(self) -> None:
        """Note the calling thread as the one that starts the program."""
        self._thread = _thread.get_native_id()

    def kill(self, now: float) -> None:
        """End a start that hangs, on a file system that does not answer: kill what is to become the program."""
        self.deadline, self.is_overdue = now + _KILL_EVERY_S, True
        for pid in contain.children_of_thread(self._thread) if self._thread is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Spawner:
    """Starts programs: own directory, own session, own bounds, no shell, no inherited files."""

    def __init__(self, base: str, owner: str, runner: ProcessKey, children: Children, confinement: Confinement) -> None:
        self._mark, self._scratch = f"{owner}:{runner}:", scratch_prefix(base, RUN, runner)
        self._children = children
        self.confinement = confinement
        self._launcher = Launcher()
        self._defaults, self._forced = variables(_DEFAULTS), variables(_FORCED)

    def spawn(self, start: Start) -> Spawned:
        """Start a program. The calling thread must end afterwards: it is confined as the program is.

        Raises: OSError; nothing but the run's directory is left behind then.
        """
        start.begin()
        request = start.job.request
        start.scratch = make_scratch(self._scratch)
        own = self._own_variables(request, start.scratch)
        # The marker comes first, so that a look at the start of /proc/PID/environ finds it.
        environment = (own, self._defaults, start.job.base.variables, own, self._forced)
        pipes: list[int] = []
        pid = 0
        try:
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pipes += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(pipes[1], True)
            os.set_blocking(pipes[3], True)
            self.confinement.enter(start.scratch)
            started = time.monotonic()
            pid = self._launcher.launch(request.argv, environment, start.scratch, pipes[1], pipes[3])
            self._children.note(pid)
            contain.limit_process(pid, start.job.base.resources)
            if start.leaf is not None:
                start.leaf.admit(pid)
            pidfd = os.pidfd_open(pid)
        except OSError:
            self._undo(pid, pipes)
            raise
        os.close(pipes[1])
        os.close(pipes[3])
        return Spawned(pid, pidfd, pipes[0], pipes[2], start.scratch, start.leaf, started)

    def _undo(self, pid: int, pipes: list[int]) -> None:
        for end in pipes:
            os.close(end)
        if pid:
            contain.kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._children.forget(pid)

    def _own_variables(self, request: RunRequest, scratch: str) -> Texts[str]:
        """Give a run's own environment, its secrets written to files first. Raises: OSError."""
        own = {VARIABLE: "", **request.env}
        own |= {VARIABLE: self._mark + request.run, "HOME": scratch, "TMPDIR": scratch}
        for number, (variable, content) in enumerate(request.secret_files.items()):
            own[variable] = f"{scratch}/.secret-{number}"
            _write_secret(own[variable], content)
        return variables(own)


def _write_secret(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)
