"""Results of probes in state.db: added in groups, the newest of each found fast, old ones swept."""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pps_agent.probes.attempts import UNCOUNTED, advance
from pps_agent.probes.definition import DAY_S, ProbeDefinition
from pps_agent.probes.slots import Key, Past
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Cause, Status

Find = Callable[[str], ProbeDefinition | None]
"""Gives the installed probe of a name or alias."""
KEPT_RESULTS: Final = 100
"""Results kept per release and probe."""

_ADD: Final = (
    "INSERT INTO probe_result (release, probe, status, summary, details, at, duration_s, profile,"
    " attempt, hard, cause, perfdata, digest, host, parent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEWEST: Final = "SELECT * FROM probe_result WHERE release = ? AND probe = ? AND host = '' ORDER BY id DESC LIMIT 1"
_NEWEST_COUNTED: Final = (
    "SELECT * FROM probe_result WHERE release = ? AND probe = ? AND host = ''"
    " AND cause NOT IN (?, ?, ?, ?) ORDER BY id DESC LIMIT 1"
)
_NEWEST_BY_RELEASE: Final = (
    "SELECT * FROM probe_result WHERE id IN"
    " (SELECT max(id) FROM probe_result WHERE probe = ? AND host = '' GROUP BY release)"
)
_UNCOUNTED: Final = tuple(sorted(cause.value for cause in UNCOUNTED))
_SWEEP: Final = (
    "DELETE FROM probe_result WHERE release = ? AND probe = ? AND id <="
    " (SELECT id FROM probe_result WHERE release = ? AND probe = ? ORDER BY id DESC LIMIT 1 OFFSET ?)"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One result as it was remembered, and the fingerprint of the environment it was had in."""

    result: ProbeResult
    profile: str

    @property
    def status(self) -> Status:
        """The result's status."""
        return self.result.status

    @property
    def summary(self) -> str:
        """The result's one line."""
        return self.result.summary

    @property
    def attempt(self) -> int:
        """The result's attempt."""
        return self.result.attempt

    @property
    def hard(self) -> bool:
        """Whether the state was hard with it."""
        return self.result.hard


class Results:
    """The results that one connection reads and writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, results: Iterable[tuple[ProbeResult, str]]) -> None:
        """Remember results, each with the fingerprint of its environment, in the transaction under way, if any."""
        self._db.executemany(_ADD, [_row_of(result, profile) for result, profile in results])

    def newest(self, probe: ProbeName, release: ReleaseId | None) -> Recorded | None:
        """Give the newest result of a probe on a release or (None) on the production client."""
        row = self._db.execute(_NEWEST, (release or "", probe)).fetchone()
        return None if row is None else _recorded(row)

    def newest_counted(self, probe: ProbeName, release: ReleaseId | None) -> Recorded | None:
        """Give the newest result that says something of what is tested."""
        row = self._db.execute(_NEWEST_COUNTED, (release or "", probe, *_UNCOUNTED)).fetchone()
        return None if row is None else _recorded(row)

    def newest_by_release(self, probe: ProbeName) -> dict[Key, Recorded]:
        """Give the newest result of a probe on the production client and on each release."""
        rows = self._db.execute(_NEWEST_BY_RELEASE, (probe,))
        return {Key(probe, seen.result.release): seen for seen in map(_recorded, rows)}

    def count(self, result: ProbeResult, profile: str, find: Find) -> ProbeResult:
        """Give a result with its attempt and state, in view of what is remembered for the same environment."""
        definition = find(result.parent or result.probe)
        max_attempts = 1 if definition is None else definition.max_attempts
        before = self.newest_counted(result.probe, result.release)
        previous = before if before is not None and before.profile == profile else None
        attempt, hard = advance(previous, max_attempts, result.status, result.cause)
        return replace(result, attempt=attempt, hard=hard)

    def find_held_up(
        self, names: Iterable[ProbeName], release: ReleaseId | None, find: Find, at: datetime
    ) -> dict[ProbeName, Key]:
        """Give those of these probes whose parent is not OK, each with it. An old result holds nothing up."""
        held_up: dict[ProbeName, Key] = {}
        for name in names:
            definition = find(name)
            for parent in () if definition is None else definition.depends_on:
                seen = self.newest_counted(parent, release) or self.newest_counted(parent, None)
                known = find(parent)
                fresh_s = (known.fresh_for_s() if known is not None else None) or DAY_S
                is_old = seen is None or at - seen.result.started_at > timedelta(seconds=fresh_s)
                if seen is not None and not is_old and seen.hard and seen.status is not Status.OK:
                    held_up.setdefault(name, Key(parent, seen.result.release))
        return held_up

    def sweep(self) -> int:
        """Drop all but the newest KEPT_RESULTS of each probe on each release; give how many those were."""
        many = self._db.execute(
            "SELECT release, probe FROM probe_result GROUP BY release, probe HAVING count(*) > ?", (KEPT_RESULTS,)
        ).fetchall()
        dropped = 0
        for release, probe in many:  # each by itself: who records results meanwhile must not wait for all
            dropped += self._db.execute(_SWEEP, (release, probe, release, probe, KEPT_RESULTS)).rowcount
        return dropped


def past_of(seen: Recorded) -> Past:
    """Give of a result what the timetable goes by."""
    result = seen.result
    return Past(result.started_at.timestamp(), result.status, result.attempt, result.hard, seen.profile)


def _row_of(result: ProbeResult, profile: str) -> tuple[object, ...]:
    return (
        result.release or "",
        result.probe,
        int(result.status),
        result.summary,
        result.details,
        result.started_at.astimezone(UTC).isoformat(),
        result.duration_s,
        profile,
        result.attempt,
        int(result.hard),
        result.cause.value,
        result.perfdata,
        result.digest,
        result.host,
        result.parent or "",
    )


def _recorded(row: sqlite3.Row) -> Recorded:
    result = ProbeResult(
        probe=ProbeName(row["probe"]),
        release=ReleaseId(row["release"]) if row["release"] else None,
        status=Status(row["status"]),
        summary=row["summary"],
        details=row["details"],
        started_at=datetime.fromisoformat(row["at"]),
        duration_s=row["duration_s"],
        cause=Cause(row["cause"]),
        perfdata=row["perfdata"],
        digest=row["digest"],
        attempt=row["attempt"],
        hard=bool(row["hard"]),
        parent=ProbeName(row["parent"]) if row["parent"] else None,
        host=row["host"],
    )
    return Recorded(result, row["profile"])
