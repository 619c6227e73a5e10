"""Runs on their way to the runner and back: one connection for a long time, replaced when it is lost."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.agenda import Job
from pps_agent.probes.client import RunnerClient, connect_runner, render_results, start_runner
from pps_agent.probes.preparation import Preparation, hide_in_output, hide_secrets, tested_version
from pps_agent.probes.protocol import RunResponse
from pps_agent.probes.redact import Redactor
from pps_agent.probes.slots import Instant, Key
from pps_agent.probes.untested import moment, untested
from pps_agent.settings import ProbeSettings
from pps_agent.state import ProbeResult
from pps_wire.report import Cause

_REOPEN_S: Final = 10.0
"""Time between two tries to have a runner."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A run under way: the job as it was at the start, the tree and the version it tests, and what must not be told."""

    job: Job
    key: Key
    started: Instant
    mark: str
    redactor: Redactor
    client: str


class Dispatcher:
    """Sends runs to a runner that it opens when there is need. Not for use by several threads."""

    def __init__(self, settings: ProbeSettings, state: Path) -> None:
        self._settings, self._state = settings, state
        self._resources = contextlib.ExitStack()
        self._runner: RunnerClient | None = None
        self._errands: dict[str, Errand] = {}
        self._failure, self._failed_s = "", float("-inf")

    @property
    def errands(self) -> Mapping[str, Errand]:
        """The runs under way, by their ids."""
        return self._errands

    def fileno(self) -> int:
        """Give the descriptor that can be read when there are answers; -1 where there is no runner."""
        return -1 if self._runner is None else self._runner.fileno()

    def send(self, job: Job, env: Mapping[str, str], preparation: Preparation, now: Instant, mark: str) -> None:
        """Ask for a run in ``env``.

        Raises: SiteError when no runner can be had, WireError when it takes no such request.
        """
        probe = job.definition
        run = self._open(now).submit(
            (str(probe.run),),
            env,
            float(self._timeout_s(job)),
            more=preparation.more,
            limits=probe.limits,
            secret_files=preparation.secret_files,
        )
        self._errands[run] = Errand(job, job.key, now, mark, preparation.redactor, tested_version(env))

    def collect(self) -> list[tuple[Errand, tuple[ProbeResult, ...]]]:
        """Give the runs that came to an end, each with its result and those of further metrics it reported."""
        if self._runner is None:
            return []
        ended = []
        for run, outcome in self._runner.poll():
            errand = self._errands.pop(run, None)
            if errand is not None:
                ended.append((errand, self._judge(errand, outcome)))
        if self._runner.is_lost:
            self.close()
        return ended

    def close(self) -> list[Errand]:
        """Let the runner go, and with it all runs under way; give those."""
        self._runner = None
        self._resources.close()
        given_up, self._errands = list(self._errands.values()), {}
        return given_up

    def _open(self, now: Instant) -> RunnerClient:
        """Give the runner; after a failure another try is made only some time later. Raises: SiteError."""
        if self._runner is not None and not self._runner.is_lost:
            return self._runner
        if now.steady_s - self._failed_s < _REOPEN_S:
            raise SiteError(self._failure)
        settings = self._settings
        try:
            self._runner = self._resources.enter_context(
                connect_runner(settings.socket, max_timeout_s=settings.timeout_s)
                if settings.socket is not None
                else start_runner(settings.user, state=self._state, max_timeout_s=settings.timeout_s)
            )
        except SiteError as exc:
            self._failure, self._failed_s = str(exc), now.steady_s
            raise
        return self._runner

    def _timeout_s(self, job: Job) -> int:
        return min(job.definition.timeout_s, self._settings.timeout_s)

    def _judge(self, errand: Errand, outcome: RunResponse | str) -> tuple[ProbeResult, ...]:
        at, probe = moment(errand.started.wall_s), errand.job.definition
        if isinstance(outcome, str):
            return (untested(errand.key, Cause.LOST, outcome, at, digest=probe.digest),)
        timeout_s = self._timeout_s(errand.job)
        outcome = hide_in_output(outcome, errand.redactor)
        own, *others = render_results(probe, errand.key.release, at, outcome, timeout_s, errand.client)
        if own.probe != errand.key.metric:  # asked for by an alias
            own = replace(own, probe=errand.key.metric)
        return tuple(hide_secrets(result, errand.redactor) for result in (own, *others))
