"""Results on their way to disk in groups: one transaction for history and outbox together."""

import sqlite3
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from pps_agent.outbox import Outbox
from pps_agent.records import describe_results
from pps_agent.results import Results
from pps_agent.state import ProbeResult
from pps_wire.names import HostGroup, ReleaseId, Site

MAX_GROUP: Final = 256
MAX_WAIT_S: Final = 1.0
MAX_KEPT: Final = 10_000
"""What is held in memory while state.db takes nothing."""


class Pending(NamedTuple):
    """A result that is not on disk yet, the fingerprint of its environment, and the tree that was tested, if any."""

    result: ProbeResult
    profile: str
    mark: str | None


class Recorder:
    """Collects results and commits them once there are many, or the first has waited long enough."""

    def __init__(self, database: sqlite3.Connection, site: Site, host: str, group: HostGroup) -> None:
        self._database = database
        self._results = Results(database)
        self._outbox = Outbox(database, "", site)
        self._host, self._group = host, group
        self._pending: list[Pending] = []
        self._since_s = self._retry_s = 0.0
        self.lost = 0
        """Results that were dropped since nothing could be written for too long."""

    @property
    def waiting(self) -> int:
        """How many results are not on disk yet."""
        return len(self._pending)

    def add(self, pending: Pending, now_s: float) -> None:
        """Take a result; ``now_s`` is on the steady clock."""
        if not self._pending:
            self._since_s = now_s
        self._pending.append(pending)
        if len(self._pending) > MAX_KEPT:
            del self._pending[0]
            self.lost += 1

    def due_s(self) -> float | None:
        """Give when to commit, on the steady clock; None when there is nothing."""
        if not self._pending:
            return None
        wait_s = 0.0 if len(self._pending) >= MAX_GROUP else MAX_WAIT_S
        return max(self._since_s + wait_s, self._retry_s)

    def commit(self, mark_of: Callable[[ReleaseId], str], now_s: float, at: datetime) -> list[ProbeResult]:
        """Put everything on disk and give what was put there; what failed waits for the next try.

        A result of a release whose tree is another one by now proves nothing, and is dropped. Raises: SiteError.
        """
        marks: dict[ReleaseId, str] = {}
        for pending in self._pending:
            release = pending.result.release
            if release is not None and release not in marks:
                marks[release] = mark_of(release)
        group = [p for p in self._pending if _is_current(p, marks)]
        self._retry_s = now_s + MAX_WAIT_S  # should this try fail
        bodies = tuple(describe_results(tuple(p.result for p in group), self._host, self._group))
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._results.add((p.result, p.profile) for p in group)
            self._outbox.add(bodies, at)
        self._pending.clear()
        self._retry_s = 0.0
        return [p.result for p in group]


def _is_current(pending: Pending, marks: dict[ReleaseId, str]) -> bool:
    release = pending.result.release
    return release is None or pending.mark is None or pending.mark == marks[release] != ""
