"""What the agent remembers of probes, drains and people's decisions, in state.db."""

import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pps_agent.policy import Consent, Decision, Resolve
from pps_agent.state import ProbeResult, ProbeSeen
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Status

KEPT_RESULTS: Final = 100
"""Results kept per release and probe."""


class History:
    """Reads and writes the remembered facts; each call is one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def resolve(self) -> Resolve:
        """Give the site's standing will."""
        rows = self._db.execute("SELECT release, decision, reason FROM consent").fetchall()
        consents = {ReleaseId(row["release"]): Consent(Decision(row["decision"]), row["reason"]) for row in rows}
        return Resolve(consents, paused=self._has("paused"), leaving=self._has("leaving"))

    def decide(self, release: ReleaseId, consent: Consent, at: datetime) -> None:
        """Record what a person decided of a release; the newest decision counts."""
        self._db.execute(
            "INSERT OR REPLACE INTO consent VALUES (?, ?, ?, ?)",
            (release, consent.decision.value, consent.reason, _text(at)),
        )

    def set_paused(self, *, paused: bool) -> None:
        """Stop (or allow again) every change but the untagging of what must not be announced."""
        self._set("paused", on=paused)

    def set_leaving(self, *, leaving: bool) -> None:
        """Have every release untagged, drained and removed (or end that)."""
        self._set("leaving", on=leaving)

    def verdicts(self) -> Mapping[tuple[ReleaseId, ProbeName], ProbeSeen]:
        """Give the newest verdict of each probe on each release; the production client's are left out."""
        rows = self._db.execute(
            "SELECT * FROM probe_result WHERE release <> '' AND id IN"
            " (SELECT max(id) FROM probe_result GROUP BY release, probe)"
        )
        return {
            (ReleaseId(row["release"]), ProbeName(row["probe"])): ProbeSeen(
                Status(row["status"]), datetime.fromisoformat(row["at"]), row["summary"], row["profile"]
            )
            for row in rows
        }

    def add_result(self, result: ProbeResult, profile: str) -> None:
        """Remember one probe run made in the environment with this fingerprint."""
        release = result.release or ""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO probe_result (release, probe, status, summary, details, at, duration_s, profile)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    release,
                    result.probe,
                    int(result.status),
                    result.summary,
                    result.details,
                    _text(result.started_at),
                    result.duration_s,
                    profile,
                ),
            )
            self._db.execute(
                "DELETE FROM probe_result WHERE release = ? AND probe = ? AND id NOT IN"
                " (SELECT id FROM probe_result WHERE release = ? AND probe = ? ORDER BY id DESC LIMIT ?)",
                (release, result.probe, release, result.probe, KEPT_RESULTS),
            )

    def forget_results(self, release: ReleaseId) -> None:
        """Drop a release's verdicts, because its tree is a new one: they prove nothing any more."""
        self._db.execute("DELETE FROM probe_result WHERE release = ?", (release,))

    def drains(self) -> Mapping[ReleaseId, datetime]:
        """Give since when each draining release gets no new jobs."""
        rows = self._db.execute("SELECT release, since FROM drain")
        return {ReleaseId(row["release"]): datetime.fromisoformat(row["since"]) for row in rows}

    def start_drain(self, release: ReleaseId, since: datetime) -> None:
        """Note that a release gets no new jobs from now on; an earlier note stays."""
        self._db.execute("INSERT OR IGNORE INTO drain VALUES (?, ?)", (release, _text(since)))

    def end_drain(self, release: ReleaseId) -> None:
        """Forget that a release is draining."""
        self._db.execute("DELETE FROM drain WHERE release = ?", (release,))

    def _has(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM setting WHERE name = ?", (name,)).fetchone() is not None

    def _set(self, name: str, *, on: bool) -> None:
        if on:
            self._db.execute("INSERT OR REPLACE INTO setting VALUES (?, '1')", (name,))
        else:
            self._db.execute("DELETE FROM setting WHERE name = ?", (name,))


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
