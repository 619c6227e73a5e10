"""The agent's connection to a runner: runs asked for without waiting, answers taken as they come.

run = connection.submit(["/…/run"], environment, 60.0)
…  when the selector says that ``connection.fileno()`` can be read:
for run, outcome in connection.poll(): …
"""

import collections
import contextlib
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes import protocol
from pps_agent.probes.fields import LineBuffer
from pps_agent.probes.parse import clean_line
from pps_agent.probes.protocol import MAX_BASES, Base, RunRequest, RunResponse
from pps_wire.errors import WireError

GRACE_S: Final = 5.0
SILENCE_S: Final = 6 * protocol.BEAT_S
"""A runner that owes answers and says nothing for so long is taken for dead."""
_DOUBT_S: Final = 5.0
_START_S: Final = 30.0
_CHUNK_BYTES: Final = 256 * 1024
_MAX_TEMPLATES: Final = 4096
_BaseKey = tuple[frozenset[tuple[str, str]], frozenset[tuple[str, int]]]


class RunnerConnection:
    """A connection to a runner. Not for use by several threads."""

    parse_line: Callable[[bytes], RunResponse | None] = staticmethod(protocol.parse_runner_line)
    """Reads an answer; who has more than the standard library may read faster."""

    def __init__(self, connected: socket.socket) -> None:
        """Take a connected socket and read the greeting. Raises: SiteError."""
        self._socket = connected
        self._lines = LineBuffer()
        self._unsent = bytearray()
        self._open: set[str] = set()
        self._bases: collections.OrderedDict[_BaseKey, str] = collections.OrderedDict()
        self._asked: dict[tuple[tuple[str, ...], float, float, str], protocol.Template] = {}
        self._last_base: tuple[Mapping[str, str], Mapping[str, int], str] | None = None
        self._prefix, self._count = secrets.token_hex(8), 0
        self._lost = ""
        self._heard_at = time.monotonic()
        self._doubted_at: float | None = None
        try:
            greeting, early = _read_greeting(connected, self._lines)
        except (OSError, WireError) as exc:
            raise SiteError(
                f"the probe runner did not start: {exc}; see its messages on stderr or in the journal"
            ) from exc
        self._ready = collections.deque(early)
        self.runner_pid, self.runner_uid = greeting.pid, greeting.uid
        self.confinement: int = greeting.landlock
        """Version of the kernel's Landlock by which the runner confines each run; 0: it has none."""
        self.has_cgroups: bool = greeting.cgroup
        """Whether each run gets a control group of its own."""
        connected.setblocking(False)

    @property
    def is_lost(self) -> bool:
        """Whether the runner went away; start another one then."""
        return bool(self._lost)

    @property
    def single_user(self) -> bool:
        """Whether probes run as the agent's own user."""
        return self.runner_uid == os.geteuid()

    @property
    def open_runs(self) -> int:
        """How many runs have no answer yet."""
        return len(self._open)

    def fileno(self) -> int:
        """Give the descriptor that can be read when ``poll`` has something to do; -1 once the runner is lost."""
        return self._socket.fileno()

    def submit(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        timeout_s: float,
        *,
        more: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        secret_files: Mapping[str, bytes] | None = None,
        grace_s: float = GRACE_S,
    ) -> str:
        """Ask for one run and give its id at once; ``poll`` brings the answer.

        ``argv[0]`` is an absolute path. ``env`` and ``limits`` are sent once for all runs that have the same;
        ``more`` holds this run's own variables and goes over ``env``. ``secret_files``: variable → content of
        a file that only this run can read; the variable holds its path. Raises: WireError when it is too
        long or not as the protocol has it, SiteError when the runner is gone.
        """
        if self._lost:
            raise SiteError("the probe runner is gone: start the round again, and see its last message on stderr")
        self._count += 1
        run = f"{self._prefix}{self._count:x}"
        base, grace_s = self._share(env, limits or {}), min(grace_s, timeout_s)
        if more or secret_files:
            request = RunRequest(run, tuple(argv), more or {}, timeout_s, grace_s, base, secret_files or {})
            line = protocol.render_request(request)
        else:
            line = self._find_template((tuple(argv), timeout_s, grace_s, base)).render(run)
        if not self._open:
            self._heard_at = time.monotonic()
        self._open.add(run)
        self._unsent += line
        self._send()
        return run

    def poll(self, timeout_s: float = 0.0) -> list[tuple[str, RunResponse | str]]:
        """Give the answers that are there, waiting at most so long for the first one.

        Where the runner was lost, all runs without an answer come back with the reason in its place.
        """
        deadline = time.monotonic() + timeout_s
        answers: list[tuple[str, RunResponse | str]] = []
        try:
            while self._open and not self._lost:
                self._send()
                self._receive(answers)
                left_s = deadline - time.monotonic()
                if answers or left_s <= 0:
                    break
                writers = [self._socket] if self._unsent else []
                select.select([self._socket], writers, [], min(left_s, _DOUBT_S))
        except (OSError, WireError) as exc:
            self._lose(str(exc))
        if self._lost:
            answers += [(run, self._lost) for run in sorted(self._open)]
            self._open.clear()
        return answers

    def _receive(self, answers: list[tuple[str, RunResponse | str]]) -> None:
        """Take what has arrived. Raises: OSError, WireError."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while True:
                chunk = self._socket.recv(_CHUNK_BYTES)
                if not chunk:
                    self._take_lines(answers)
                    raise ConnectionResetError("it closed the connection")
                self._heard_at, self._doubted_at = now, None
                self._ready.extend(self._lines.feed(chunk))
                if len(chunk) < _CHUNK_BYTES:
                    break
        self._take_lines(answers)
        self._check_silence(now)

    def _take_lines(self, answers: list[tuple[str, RunResponse | str]]) -> None:
        while self._ready:
            response = self.parse_line(self._ready.popleft())
            if response is not None and response.run in self._open:
                self._open.discard(response.run)
                answers.append((response.run, response))

    def _check_silence(self, now: float) -> None:
        """Give up a runner that does not beat. Raises: TimeoutError.

        In doubt it gets some seconds more: after a pause of the whole machine we may be the first to wake.
        """
        if not self._open or now - self._heard_at < SILENCE_S:
            return
        if self._doubted_at is None:
            self._doubted_at = now
        elif now - self._doubted_at > _DOUBT_S:
            raise TimeoutError(f"it said nothing for {now - self._heard_at:.0f} s")

    def _send(self) -> None:
        """Send what the socket takes now; a broken one is noticed, and told, by the next ``poll``."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def _find_template(self, request: tuple[tuple[str, ...], float, float, str]) -> protocol.Template:
        """Give the line of a request that comes again and again, but for the name of the run. Raises: WireError."""
        if (template := self._asked.get(request)) is None:
            argv, timeout_s, grace_s, base = request
            template = protocol.Template(RunRequest("0", argv, {}, timeout_s, grace_s, base))
            if len(self._asked) >= _MAX_TEMPLATES:
                self._asked.clear()
            self._asked[request] = template
        return template

    def _share(self, env: Mapping[str, str], wanted: Mapping[str, int]) -> str:
        """Make a base known to the runner, unless it is; give its name. Raises: WireError."""
        last = self._last_base
        if last is not None and last[0] is env and last[1] == wanted:
            return last[2]
        limits = self._usable_limits(wanted)
        key = (frozenset(env.items()), frozenset(limits.items()))
        if (name := self._bases.get(key)) is not None:
            self._bases.move_to_end(key)
            self._last_base = env, wanted, name
            return name
        full = len(self._bases) >= MAX_BASES
        name = next(iter(self._bases.values())) if full else f"b{len(self._bases)}"
        self._unsent += protocol.render_base(Base(name, env, limits))
        if full:
            self._bases.popitem(last=False)
        self._bases[key] = name
        self._last_base = env, wanted, name
        return name

    def _usable_limits(self, wanted: Mapping[str, int]) -> Mapping[str, int]:
        # "processes" counts all processes of the user, in a single-user agent the agent's own among them.
        return {name: limit for name, limit in wanted.items() if name != "processes" or not self.single_user}

    def _lose(self, problem: str) -> None:
        self._lost = clean_line(f"lost: the probe runner ended or stopped answering while it ran: {problem}")
        self._unsent.clear()
        self._socket.close()


def _read_greeting(connected: socket.socket, lines: LineBuffer) -> tuple[protocol.Greeting, list[bytes]]:
    """Read the runner's first line, and what came with it. Raises: OSError, WireError."""
    deadline = time.monotonic() + _START_S
    while True:
        connected.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = connected.recv(4096)
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        if found := list(lines.feed(chunk)):
            return protocol.parse_greeting(found[0]), found[1:]
