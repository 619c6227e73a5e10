"""The agent's end: start or reach a runner, have probes run, get results.

The runner starts as the agent's user and, when that is root and another user is named, gives its rights
up before it reads the first request. It gets no file of the agent but its end of the socket.
"""

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pps_agent.errors import ConfigError, SiteError
from pps_agent.probes import contain, protocol
from pps_agent.probes.catalogue import ProbeDefinition
from pps_agent.probes.parse import clean_line
from pps_agent.probes.protocol import LineBuffer, RunRequest, RunResponse
from pps_agent.probes.scratch import make_scratch, remove_tree, sweep_scratch
from pps_agent.probes.verdict import judge
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId
from pps_wire.report import Status

DEFAULT_MAX_TIMEOUT_S: Final = 300
GRACE_S: Final = 5.0
_START_S: Final = 30.0
_STOP_S: Final = 20.0
_MARGIN_S: Final = 60.0
"""Patience with the runner beyond a run's own limits: drain, sweep, removal of a large directory."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs probes."""

    uid: int
    gid: int


class RunnerClient:
    """A connection to a runner. Not for use by several threads."""

    def __init__(self, connected: socket.socket, *, max_timeout_s: int = DEFAULT_MAX_TIMEOUT_S) -> None:
        """Take a connected socket and read the greeting. Raises: SiteError."""
        self._socket, self._max_timeout_s = connected, max_timeout_s
        self._lines = LineBuffer()
        self._ready: list[bytes] = []
        self._lost = False
        try:
            greeting = protocol.parse_greeting(self._read_line(time.monotonic() + _START_S))
        except (OSError, WireError) as exc:
            raise SiteError(
                f"the probe runner did not start: {exc}; see its messages on stderr or in the journal"
            ) from exc
        self.runner_pid, self.runner_uid = greeting.pid, greeting.uid

    @property
    def is_lost(self) -> bool:
        """Whether the runner went away; start another one then."""
        return self._lost

    @property
    def single_user(self) -> bool:
        """Whether probes run as the agent's own user, so that only their good will protects its files."""
        return self.runner_uid == os.geteuid()

    def run(
        self,
        definition: ProbeDefinition,
        env: Mapping[str, str],
        release: ReleaseId | None,
        now: datetime | None = None,
    ) -> ProbeResult:
        """Run one probe in this environment and give its result. Raises: SiteError when the runner is gone."""
        return self.run_all((definition,), env, release, now)[0]

    def run_all(
        self,
        definitions: Sequence[ProbeDefinition],
        env: Mapping[str, str],
        release: ReleaseId | None,
        now: datetime | None = None,
    ) -> tuple[ProbeResult, ...]:
        """Run probes side by side; results stand in the order of the definitions.

        ``now`` is the start noted in the results. Runs that were under way when the runner died come back
        UNKNOWN, as lost. Raises: SiteError when the runner was gone before.
        """
        if self._lost:
            raise SiteError("the probe runner is gone: start the round again, and see its last message on stderr")
        started_at = now or datetime.now(UTC)
        results: dict[int, ProbeResult] = {}
        asked: dict[str, int] = {}
        lines: list[bytes] = []
        for index, definition in enumerate(definitions):
            try:
                if missing := missing_requirements(definition, env):
                    raise WireError("requirement", f"missing requirement: {'; '.join(missing)}")
                run = secrets.token_hex(8)
                lines.append(protocol.render_request(self._request(run, definition, env)))
                asked[run] = index
            except WireError as exc:
                results[index] = _unknown(definition, release, started_at, exc.problem)
        for run, outcome in self._exchange(lines, asked, definitions):
            definition = definitions[asked[run]]
            results[asked[run]] = (
                _unknown(definition, release, started_at, outcome)
                if isinstance(outcome, str)
                else render_result(definition, release, started_at, outcome, self._timeout_s(definition))
            )
        return tuple(results[index] for index in range(len(definitions)))

    def _timeout_s(self, definition: ProbeDefinition) -> int:
        return min(definition.timeout_s, self._max_timeout_s)

    def _request(self, run: str, definition: ProbeDefinition, env: Mapping[str, str]) -> RunRequest:
        limits = dict(definition.limits)
        if self.single_user:
            limits.pop("processes", None)  # it counts all processes of the user, the agent's own among them
        timeout_s = float(self._timeout_s(definition))
        return RunRequest(run, (str(definition.run),), env, timeout_s, min(GRACE_S, timeout_s), limits)

    def _exchange(
        self, lines: Sequence[bytes], asked: Mapping[str, int], definitions: Sequence[ProbeDefinition]
    ) -> Iterator[tuple[str, RunResponse | str]]:
        """Send all requests, give each answer as it comes; a reason instead where none will come."""
        if not asked:
            return
        limits = [self._timeout_s(definitions[index]) + GRACE_S for index in asked.values()]
        deadline = time.monotonic() + sum(limits) + _MARGIN_S
        open_runs = set(asked)
        try:
            self._socket.settimeout(_MARGIN_S)
            for line in lines:
                self._socket.sendall(line)
            while open_runs:
                response = protocol.parse_response(self._read_line(deadline))
                if response.run in open_runs:
                    open_runs.discard(response.run)
                    yield response.run, response
        except (OSError, WireError) as exc:
            self._lost = True
            self._socket.close()
            reason = clean_line(f"lost: the probe runner ended or stopped answering while it ran: {exc}")
            yield from ((run, reason) for run in open_runs)

    def _read_line(self, deadline: float) -> bytes:
        while not self._ready:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._socket.recv(64 * 1024)
            if not chunk:
                raise ConnectionResetError("it closed the connection")
            self._ready.extend(self._lines.feed(chunk))
        return self._ready.pop(0)


def missing_requirements(definition: ProbeDefinition, env: Mapping[str, str]) -> tuple[str, ...]:
    """List what a probe needs and this environment does not have, each with what to do about it."""
    path = env.get("PATH", os.defpath)
    commands = [name for name in definition.commands if shutil.which(name, path=path) is None]
    missing = [f"command {name} is not in PATH: install it or leave the probe out" for name in commands]
    missing += [
        f"variable {name} ({meaning}): set it under [probes.env] in the settings"
        for name, meaning in definition.variables.items()
        if not env.get(name)
    ]
    return tuple(missing)


def render_result(
    definition: ProbeDefinition,
    release: ReleaseId | None,
    started_at: datetime,
    response: RunResponse,
    timeout_s: float,
) -> ProbeResult:
    """Give the result that one finished run amounts to. Pure."""
    verdict = judge(response, timeout_s)
    return ProbeResult(
        probe=definition.name,
        release=release,
        status=verdict.status,
        summary=verdict.summary,
        details=verdict.details,
        started_at=started_at,
        duration_s=response.duration_s,
        exit_code=response.exit,
        signal=response.signal,
        timed_out=response.timed_out,
        truncated_bytes=max(0, response.stdout_bytes - len(response.stdout)),
        leftovers_killed=response.leftovers_killed,
        cpu_s=response.cpu_s,
        max_rss_bytes=response.max_rss_bytes,
    )


@contextlib.contextmanager
def start_runner(
    user: str = "",
    *,
    state: Path | None = None,
    max_timeout_s: int = DEFAULT_MAX_TIMEOUT_S,
    temporary: Path | None = None,
) -> Iterator[RunnerClient]:
    """Start a runner of our own for as long as the context lasts; nothing it started outlives it.

    ``user``: the account that runs probes when we are root, else without effect. ``state``: the agent's
    state directory; what an earlier runner for the same directory left behind is ended first. Raises:
    ConfigError for an unknown user, SiteError when the runner does not start.
    """
    account = _account(user)
    owner = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16] if state else secrets.token_hex(8)
    contain.become_subreaper()
    with _base_directory(owner, account, temporary) as base:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = _spawn(theirs, base, owner, account)
            try:
                yield RunnerClient(ours, max_timeout_s=max_timeout_s)
            finally:
                ours.close()
                _end(process)
                contain.sweep(owner, account.uid if account else os.geteuid())


@contextlib.contextmanager
def connect_runner(path: Path, *, max_timeout_s: int = DEFAULT_MAX_TIMEOUT_S) -> Iterator[RunnerClient]:
    """Reach the runner of the installed unit on its socket. Raises: SiteError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        try:
            connected.settimeout(_START_S)
            connected.connect(str(path))
        except OSError as exc:
            raise SiteError(f"{path}: {exc.strerror or exc}: start pps-agent-runner.service") from exc
        yield RunnerClient(connected, max_timeout_s=max_timeout_s)


def _account(user: str) -> _Account | None:
    """Give whom the runner must become; None when it stays what we are."""
    if not user or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError([f"probes.user: no account {user!r} on this machine: create it or leave it empty"]) from None
    return _Account(entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None


@contextlib.contextmanager
def _base_directory(owner: str, account: _Account | None, temporary: Path | None) -> Iterator[Path]:
    """Make the directory in which runs get theirs; another user's runs can neither list nor replace it."""
    parent, kind = str(temporary or tempfile.gettempdir()), f"pps-probes-{owner}"
    sweep_scratch(parent, kind)
    key = contain.process_key(os.getpid())
    if key is None:
        raise SiteError("/proc is not mounted: mount it, probes cannot be contained without")
    try:
        base = Path(make_scratch(parent, kind, key))
    except OSError as exc:
        raise SiteError(f"{parent}: {exc.strerror}: free space, or give the agent another TMPDIR") from exc
    try:
        if account:
            base.chmod(0o1733)
        yield base
    finally:
        with contextlib.suppress(OSError):  # a stray that could not be killed may still write there
            remove_tree(str(base))


def _spawn(theirs: socket.socket, base: Path, owner: str, account: _Account | None) -> "subprocess.Popen[bytes]":
    runner = Path(__file__).with_name("runner.py")
    command = [sys.executable, "-I", "-S", str(runner), "--base", str(base), "--owner", owner]
    command += ["--fd", str(theirs.fileno())]
    if account:
        command += ["--uid", str(account.uid), "--gid", str(account.gid)]
    try:
        return subprocess.Popen(
            command,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as exc:
        raise SiteError(f"the probe runner could not be started: {exc}: check {sys.executable}") from exc


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a runner whose socket we have closed; one that does not end by itself is killed."""
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _unknown(definition: ProbeDefinition, release: ReleaseId | None, started_at: datetime, reason: str) -> ProbeResult:
    return ProbeResult(
        probe=definition.name,
        release=release,
        status=Status.UNKNOWN,
        summary=clean_line(reason)[:512],
        details="",
        started_at=started_at,
        duration_s=0.0,
    )
