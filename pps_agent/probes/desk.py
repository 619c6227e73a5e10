"""Where results go: state.db in groups, the file of open runs, the published snapshots. For one thread at a time."""

import contextlib
import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from pps_agent.database import open_database
from pps_agent.errors import SiteError
from pps_agent.log import Log
from pps_agent.probes.agenda import Agenda
from pps_agent.probes.attempts import UNCOUNTED
from pps_agent.probes.exporter import Exporter
from pps_agent.probes.recorder import Pending, Recorder
from pps_agent.probes.running import OpenRun, RunningFile
from pps_agent.probes.slots import Instant, Key
from pps_agent.probes.snapshot import Snapshots
from pps_agent.results import Recorded, Results
from pps_agent.settings import Settings
from pps_agent.state import ProbeResult
from pps_agent.store import MANIFEST
from pps_wire.names import ReleaseId

_CACHE_KIB: Final = 512


class Desk:
    """What one state directory holds of the runs."""

    def __init__(self, settings: Settings, log: Log, exporter: Exporter | None = None) -> None:
        """Open it. Raises: SiteError."""
        self._settings, self._log = settings, log
        self.is_in_use = False
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            state = settings.paths.state
            database = open_database(state / "state.db", settings.paths.journal, one_thread=False)
            opening.callback(database.close)
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")  # results are written, hardly ever read
            self._open_runs = RunningFile(state)
            opening.callback(self._open_runs.close)
            self._resources = opening.pop_all()
        self.results = Results(database)
        self.snapshots = Snapshots(database, log, exporter)
        self._recorder = Recorder(database, settings.site.name, socket.gethostname(), settings.group.name)

    def close(self) -> None:
        """Close everything."""
        self._resources.close()

    @property
    def waiting(self) -> int:
        """How many results are not on disk yet."""
        return self._recorder.waiting

    def due_s(self) -> float | None:
        """Give when to commit, on the steady clock; None when there is nothing."""
        return self._recorder.due_s()

    def take_over(self, agenda: Agenda) -> dict[Key, Recorded]:
        """Go on by this agenda; give the newest result of each of its jobs."""
        self._settings, self.is_in_use = agenda.settings, True
        newest = {key: seen for key in agenda.jobs if (seen := self.results.newest(*key)) is not None}
        self.snapshots.take_over(agenda, self.results, newest)
        return newest

    def find_counted(self, key: Key, newest: Recorded) -> Recorded | None:
        """Give the newest result that says something, where the newest of all is known."""
        return newest if newest.result.cause not in UNCOUNTED else self.results.newest_counted(*key)

    def add(self, result: ProbeResult, profile: str, now: Instant, mark: str | None = None) -> None:
        """Take a result, the fingerprint of its environment, and the mark of the tree that was tested."""
        self._recorder.add(Pending(result, profile, mark), now.steady_s)

    def note_starts(self, runs: Iterable[OpenRun]) -> None:
        """Note runs that start now, so that the next start can tell them as lost."""
        self._open_runs.add(runs)

    def find_left_open(self) -> list[OpenRun]:
        """Give the runs that an earlier daemon left without a result."""
        return [run for run in self._open_runs.load() if not self._has_result(run)]

    def _has_result(self, run: OpenRun) -> bool:
        """Tell whether a result reached the disk just before the end; times there have microseconds."""
        newest = self.results.newest(*run.key)
        return newest is not None and newest.result.started_at.timestamp() >= run.started_s - 1e-3

    def commit(self, now: Instant, open_runs: Iterable[OpenRun], *, at_once: bool = False) -> bool:
        """Put results on disk when it is time; tell whether there were any. Failures are told and tried again."""
        due_s = self._recorder.due_s()
        if due_s is None or (due_s > now.steady_s and not at_once):
            return False
        try:
            done = self._recorder.commit(self.mark_of, now.steady_s, datetime.now(UTC))
        except SiteError as exc:
            self._log.error("results.delayed", error=str(exc), waiting=self._recorder.waiting)
            return False
        self._open_runs.keep(open_runs)
        self.snapshots.note(done)
        return True

    def mark_of(self, release: ReleaseId) -> str:
        """Give a text that is another one once a release was installed anew; empty when it is not installed."""
        try:
            status = os.stat(f"{self._settings.paths.store}/releases/{release}/{MANIFEST}")  # noqa: PTH116 - each run
        except OSError:
            return ""
        return f"{status.st_ino}:{status.st_mtime_ns}"
