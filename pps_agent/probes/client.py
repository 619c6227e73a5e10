"""The agent's end: start or reach a runner, have probes run, get results.

The runner starts as the agent's user and, when that is root and another user is named, gives its rights
up before it reads the first request. It gets no file of the agent but its end of the socket.
"""

import contextlib
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.answers import parse_answer
from pps_agent.probes.connection import RunnerConnection
from pps_agent.probes.definition import DEFAULT_LIMITS, ProbeDefinition
from pps_agent.probes.parse import clean_line
from pps_agent.probes.preparation import (
    NOTHING,
    Preparation,
    Provision,
    hide_in_output,
    hide_secrets,
    prepare,
    tested_version,
)
from pps_agent.probes.protocol import RunResponse
from pps_agent.probes.runner_process import run_process
from pps_agent.probes.verdict import Child, judge
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId
from pps_wire.report import Cause, Status

DEFAULT_MAX_TIMEOUT_S: Final = 300
_START_S: Final = 30.0


class RunnerClient(RunnerConnection):
    """A connection to a runner that knows probes. Not for use by several threads."""

    parse_line = staticmethod(parse_answer)

    def __init__(self, connected: socket.socket, *, max_timeout_s: int = DEFAULT_MAX_TIMEOUT_S) -> None:
        """Take a connected socket and read the greeting. Raises: SiteError."""
        super().__init__(connected)
        self._max_timeout_s = max_timeout_s

    def run(
        self,
        definition: ProbeDefinition,
        env: Mapping[str, str],
        release: ReleaseId | None,
        now: datetime | None = None,
        provision: Provision = NOTHING,
    ) -> ProbeResult:
        """Run one probe in this environment and give its result. Raises: SiteError when the runner is gone."""
        return self.run_all((definition,), env, release, now, provision)[0]

    def run_all(
        self,
        definitions: Sequence[ProbeDefinition],
        env: Mapping[str, str],
        release: ReleaseId | None,
        now: datetime | None = None,
        provision: Provision = NOTHING,
    ) -> tuple[ProbeResult, ...]:
        """Run probes side by side; results stand in the order of the definitions, those of further metrics after all.

        ``now`` is the start noted in the results, ``provision`` what the site has for probes beside ``env``. Runs
        that were under way when the runner died come back UNKNOWN, as lost. Raises: SiteError when the runner was
        gone before.
        """
        started_at = now or datetime.now(UTC)
        results: dict[int, tuple[ProbeResult, ...]] = {}
        asked: dict[str, int] = {}
        prepared = [prepare(definition, env, provision) for definition in definitions]
        for index, (definition, preparation) in enumerate(zip(definitions, prepared, strict=True)):
            try:
                asked[self._start(definition, env, preparation)] = index
            except WireError as exc:
                results[index] = (_unknown(definition, release, started_at, exc.problem, Cause.REQUIREMENT),)
        for run, outcome in self._wait_for(asked):
            definition, redactor = definitions[asked[run]], prepared[asked[run]].redactor
            said = (
                (_unknown(definition, release, started_at, outcome, Cause.LOST),)
                if isinstance(outcome, str)
                else render_results(
                    definition,
                    release,
                    started_at,
                    hide_in_output(outcome, redactor),
                    self._timeout_s(definition),
                    tested_version(env),
                )
            )
            results[asked[run]] = tuple(hide_secrets(result, redactor) for result in said)
        ordered = [results[index] for index in range(len(definitions))]
        return (*(main for main, *_ in ordered), *(child for _, *children in ordered for child in children))

    def _start(self, definition: ProbeDefinition, env: Mapping[str, str], preparation: Preparation) -> str:
        """Ask for one run. Raises: WireError when something it needs is missing, or all that is too long."""
        if preparation.missing:
            raise WireError("requirement", preparation.reason)
        return self.submit(
            (str(definition.run),),
            env,
            float(self._timeout_s(definition)),
            more=preparation.more,
            limits=definition.limits,
            secret_files=preparation.secret_files,
        )

    def run_command(self, argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> RunResponse | str:
        """Run one command, contained as a probe is; a reason instead of an answer where none comes.

        ``argv[0]`` is an absolute path. Raises: WireError when it is none, or all that is too long.
        """
        run = self.submit(argv, env, timeout_s, limits=DEFAULT_LIMITS)
        return next(outcome for _, outcome in self._wait_for((run,)))

    def _timeout_s(self, definition: ProbeDefinition) -> int:
        return min(definition.timeout_s, self._max_timeout_s)

    def _wait_for(self, asked: Collection[str]) -> Iterator[tuple[str, RunResponse | str]]:
        """Give the answers to these runs as they come. Answers to others that are under way are dropped."""
        left = set(asked)
        while left:
            for run, outcome in self.poll(60.0):
                if run in left:
                    left.discard(run)
                    yield run, outcome


def render_results(
    definition: ProbeDefinition,
    release: ReleaseId | None,
    started_at: datetime,
    response: RunResponse,
    timeout_s: float,
    client: str = "",
) -> tuple[ProbeResult, ...]:
    """Give the results that one finished run amounts to: the probe's own, then those of further metrics. Pure.

    ``client`` is the version of what was tested; empty where nobody knows it.
    """
    verdict = judge(response, definition, timeout_s)
    own = ProbeResult(
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
        cause=verdict.cause,
        output_bytes=response.stdout_bytes + response.stderr_bytes,
        perfdata=verdict.perfdata,
        digest=definition.digest,
        client=client,
    )
    return (own, *(_render_child(own, child) for child in verdict.children))


def _render_child(own: ProbeResult, child: Child) -> ProbeResult:
    """Give the result of a further metric; what the run took is told once, with the probe's own."""
    return ProbeResult(
        probe=child.metric,
        release=own.release,
        status=child.status,
        summary=child.summary,
        details=child.details,
        started_at=own.started_at,
        duration_s=own.duration_s,
        cause=own.cause,
        perfdata=child.perfdata,
        digest=own.digest,
        client=own.client,
        parent=own.probe,
    )


@contextlib.contextmanager
def start_runner(
    user: str = "",
    *,
    state: Path | None = None,
    max_timeout_s: int = DEFAULT_MAX_TIMEOUT_S,
    temporary: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[RunnerClient]:
    """Start a runner of our own for as long as the context lasts; nothing it started outlives it.

    ``user``: the account that runs probes when we are root, else without effect. ``state``: the agent's
    state directory; what an earlier runner for the same directory left behind is ended first. ``options``
    go to the runner's command line. Raises: ConfigError for an unknown user, SiteError when the runner does
    not start.
    """
    with run_process(user, state, temporary, options) as connected:
        yield RunnerClient(connected, max_timeout_s=max_timeout_s)


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


def _unknown(
    definition: ProbeDefinition, release: ReleaseId | None, started_at: datetime, reason: str, cause: Cause
) -> ProbeResult:
    return ProbeResult(
        probe=definition.name,
        release=release,
        status=Status.UNKNOWN,
        summary=clean_line(reason)[:512],
        details="",
        started_at=started_at,
        duration_s=0.0,
        cause=cause,
        digest=definition.digest,
    )
