"""When the newest results and the agent's own state are published, and what stands in them."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

from pps_agent import __version__
from pps_agent.errors import SiteError
from pps_agent.log import Log
from pps_agent.probes.agenda import Agenda
from pps_agent.probes.exporter import Exporter
from pps_agent.probes.exposition import AgentFigures
from pps_agent.probes.publish import AgentState, Publisher, Tagging
from pps_agent.probes.slots import Instant, Key
from pps_agent.results import Recorded, Results
from pps_agent.state import ProbeResult
from pps_agent.tags.glue2 import is_glue2

_WRITE_EVERY_S: Final = 1.0
_COUNT_EVERY_S: Final = 30.0
_FEW: Final = 5000
"""Time between two counts of the outbox once it holds more than a few: it may hold weeks of results."""


class Snapshots:
    """Publishes at most once a second, where a directory is set, and for Prometheus, where that is wanted."""

    def __init__(self, database: sqlite3.Connection, log: Log, exporter: Exporter | None = None) -> None:
        self._database, self._log = database, log
        self._agenda: Agenda | None = None
        self._publisher: Publisher | None = None
        self._given, self._exporter = exporter, exporter
        self._others: dict[Key, int] = {}
        self._outbox: tuple[int, datetime | None] = (0, None)
        self._counted_s = self._written_s = float("-inf")
        self._lag_s, self._is_due = 0.0, False
        self._problems: dict[str, str] = {}
        self.misfires = 0

    def take_over(self, agenda: Agenda, results: Results, newest: Mapping[Key, Recorded]) -> None:
        """Publish by this agenda from now on, first what is remembered: ``newest`` of its jobs, the rest by a look."""
        before, self._agenda = self._agenda, agenda
        probes = agenda.settings.probes
        if probes.publish is None:
            self._publisher = None
        elif self._publisher is None or before is None or before.settings.probes.publish != probes.publish:
            self._publisher = Publisher(probes.publish)
        self._exporter = self._given if probes.textfile is not None or probes.metrics_port else None
        fresh_s = {**self._others, **{key: job.fresh_s for key, job in agenda.jobs.items()}}
        for keeper in self._keepers():
            keeper.forget_others(fresh_s)
            for key, good_for_s in fresh_s.items():
                if (seen := newest.get(key) or (None if key in agenda.jobs else results.newest(*key))) is not None:
                    keeper.note(seen.result, good_for_s)
            self._is_due = True

    def expect(self, key: Key, fresh_s: int) -> None:
        """Have results of a metric that no job runs published too."""
        self._others[key] = fresh_s

    def note(self, results: Iterable[ProbeResult]) -> None:
        """Take results that are on disk now."""
        keepers = self._keepers()
        if not keepers or self._agenda is None:
            return
        for result in results:
            key = Key(result.probe, result.release)
            job = self._agenda.jobs.get(key if result.parent is None else Key(result.parent, result.release))
            if job is not None and result.parent is not None:
                self._others[key] = job.fresh_s
            fresh_s = self._others.get(key) if job is None else job.fresh_s
            if fresh_s is not None:
                for keeper in keepers:
                    keeper.note(result, fresh_s)
        self._is_due = True

    def _keepers(self) -> tuple[Publisher | Exporter, ...]:
        return tuple(keeper for keeper in (self._publisher, self._exporter) if keeper is not None)

    def note_lag(self, late_s: float) -> None:
        """Take how late a run started; the worst since the last snapshot is told."""
        self._lag_s = max(self._lag_s, late_s)

    def write(self, now: Instant, *, running: int, is_idle: bool = False) -> None:
        """Write the files if there is news, and it is time or nothing else to do. A failure is told once."""
        if self._agenda is None:
            return
        is_time = is_idle or now.steady_s - self._written_s >= _WRITE_EVERY_S
        if self._is_due and is_time and self._keepers():
            self._publish(self._agenda, running, now)
        textfile, exporter = self._agenda.settings.probes.textfile, self._exporter
        if exporter is not None and textfile is not None and exporter.is_due(now.steady_s, is_idle=is_idle):
            self._tell_once("textfile", partial(exporter.save, textfile, now.steady_s))

    def _publish(self, agenda: Agenda, running: int, now: Instant) -> None:
        if self._outbox[0] < _FEW or now.steady_s - self._counted_s >= _COUNT_EVERY_S:
            self._count(now)
        self._written_s, self._is_due = now.steady_s, False
        state = self._describe(agenda, running)
        self._lag_s = 0.0
        if self._exporter is not None:
            self._exporter.note_figures(_figures(agenda, state))
        if self._publisher is not None:
            self._tell_once("publish", partial(self._publisher.write, state))

    def _tell_once(self, what: str, write: Callable[[], None]) -> None:
        """Write something; a failure is told, until it is another one or none."""
        try:
            write()
            problem = ""
        except SiteError as exc:
            problem = str(exc)
            if problem != self._problems.get(what):
                self._log.error("results.unpublished", error=problem)
        self._problems[what] = problem

    def _count(self, now: Instant) -> None:
        self._counted_s = now.steady_s
        count, oldest = self._database.execute("SELECT count(*), min(at) FROM outbox").fetchone()
        self._outbox = count, None if oldest is None else datetime.fromisoformat(oldest)

    def _describe(self, agenda: Agenda, running: int) -> AgentState:
        return AgentState(
            written_at=datetime.now(UTC),
            round_ended_at=agenda.round_ended_at,
            round_interval_s=agenda.settings.daemon.interval_s,
            outbox_waiting=self._outbox[0],
            outbox_oldest_at=self._outbox[1],
            metadata_expires_at=agenda.expires_at,
            misfires=self.misfires,
            due_lag_s=round(self._lag_s, 6),
            running=running,
            site=agenda.settings.site.name,
            tagging=_describe_tags(agenda),
        )


def _figures(agenda: Agenda, state: AgentState) -> AgentFigures:
    return AgentFigures(
        version=__version__,
        site=state.site,
        group=agenda.settings.group.name,
        running=state.running,
        misfires=state.misfires,
        due_lag_s=state.due_lag_s,
        outbox_waiting=state.outbox_waiting,
        outbox_oldest_at=state.outbox_oldest_at,
        round_interval_s=state.round_interval_s,
        round_ended_at=state.round_ended_at,
        metadata_expires_at=state.metadata_expires_at,
    )


def _describe_tags(agenda: Agenda) -> Tagging:
    settings, listed = agenda.settings, agenda.listed
    own = None if listed is None else {name: listed[name] for name in settings.site.subclusters if name in listed}
    return Tagging(
        base=str(settings.paths.tags),
        subclusters=settings.site.subclusters,
        url=None if is_glue2(settings.infosys.base) else settings.infosys.url or None,  # the probe reads GLUE 1.3
        ldap_base=settings.infosys.base,
        tags=own,
    )
