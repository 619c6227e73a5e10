"""What the agent remembers of probes, drains and people's decisions, in state.db."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pps_agent.memory import Memory, Offered
from pps_agent.policy import Acknowledgement, Consent, Decision, Resolve, add_wait, find_spurned
from pps_agent.probes.attempts import UNCOUNTED
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.results import Results
from pps_agent.state import Offer, ProbeResult, ProbeSeen
from pps_wire.names import Component, ProbeName, ReleaseId, Subcluster, Vo
from pps_wire.report import Cause, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One result as it was remembered: what people ask for when they look back."""

    release: ReleaseId | None
    status: Status
    at: datetime
    summary: str
    duration_s: float
    cause: Cause
    attempt: int
    hard: bool
    host: str
    digest: str


class History:
    """Reads and writes the remembered facts; each call is one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.recorded = Results(connection)

    def recall(self) -> Memory:
        """Give everything that is remembered, as of one moment."""
        with self._db:
            self._db.execute("BEGIN")
            return Memory(
                self.resolve(), self.verdicts(), self.drains(), self.offers(), self.served(), self.production()
            )

    def resolve(self) -> Resolve:
        """Give the site's standing will."""
        consents = {
            ReleaseId(row["release"]): Consent(Decision(row["decision"]), row["reason"], row["actor"], _time(row["at"]))
            for row in self._db.execute("SELECT * FROM consent")
        }
        acknowledged: dict[ReleaseId, dict[str, Acknowledgement]] = {}
        for row in self._db.execute("SELECT * FROM acknowledgement"):
            steps = acknowledged.setdefault(ReleaseId(row["release"]), {})
            steps[row["step"]] = Acknowledgement(row["actor"], _time(row["at"]))
        return Resolve(consents, paused=self._has("paused"), leaving=self._has("leaving"), acknowledged=acknowledged)

    def spurned(self) -> frozenset[ReleaseId]:
        """Give the releases that no rollback may go back to: declined, rolled back, or draining."""
        return find_spurned(self.resolve(), self.drains())

    def decide(self, release: ReleaseId, consent: Consent, at: datetime) -> None:
        """Record what a person decided of a release; the newest decision counts."""
        self._db.execute(
            "INSERT OR REPLACE INTO consent (release, decision, reason, at, actor) VALUES (?, ?, ?, ?, ?)",
            (release, consent.decision.value, consent.reason, _text(at), consent.actor),
        )

    def acknowledge(self, release: ReleaseId, step: str, acknowledgement: Acknowledgement) -> None:
        """Record that a configuration step is done; an earlier record of it stays."""
        self._db.execute(
            "INSERT OR IGNORE INTO acknowledgement VALUES (?, ?, ?, ?)",
            (release, step, acknowledgement.actor, _text(acknowledgement.at)),
        )

    def offers(self) -> Mapping[ReleaseId, Offered]:
        """Give since when each release is on offer."""
        return {
            ReleaseId(row["release"]): Offered(_time(row["first_seen"]), _time(row["seen"]), row["waited_s"])
            for row in self._db.execute("SELECT * FROM offer")
        }

    def note_offers(self, offers: Iterable[Offer], now: datetime) -> None:
        """Count the time these releases have been on offer; the others are forgotten, so that theirs begins anew.

        A release whose manifest is another one than before begins anew too.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            before = {row["release"]: row for row in self._db.execute("SELECT * FROM offer").fetchall()}
            self._db.execute("DELETE FROM offer")
            for offer in offers:
                first_seen, waited_s = _text(now), 0.0
                row = before.get(offer.release.id)
                if row is not None and row["manifest"] == offer.manifest.sha256:
                    first_seen, waited_s = row["first_seen"], add_wait(row["waited_s"], _time(row["seen"]), now)
                self._db.execute(
                    "INSERT OR REPLACE INTO offer VALUES (?, ?, ?, ?, ?)",
                    (offer.release.id, offer.manifest.sha256, first_seen, _text(now), waited_s),
                )

    def served(self) -> frozenset[tuple[Subcluster, Vo]]:
        """Give the tag lists that this site ever put a tag into."""
        rows = self._db.execute("SELECT subcluster, vo FROM served")
        return frozenset((Subcluster(row["subcluster"]), Vo(row["vo"])) for row in rows)

    def note_served(self, lists: Iterable[tuple[Subcluster, Vo]]) -> None:
        """Remember tag lists, so that they are cleared when the settings name them no more."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO served VALUES (?, ?)", list(lists))

    def production(self) -> Mapping[Component, str]:
        """Give the version of each production client as it was last known."""
        rows = self._db.execute("SELECT component, version FROM production")
        return {Component(row["component"]): row["version"] for row in rows}

    def note_production(self, versions: Mapping[Component, str], at: datetime) -> None:
        """Remember the versions of production clients."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO production VALUES (?, ?, ?)",
                [(component, version, _text(at)) for component, version in versions.items()],
            )

    def set_paused(self, *, paused: bool) -> None:
        """Stop (or allow again) every change but the untagging of what must not be announced."""
        self._set("paused", on=paused)

    def set_leaving(self, *, leaving: bool) -> None:
        """Have every release untagged, drained and removed (or end that)."""
        self._set("leaving", on=leaving)

    def verdicts(self) -> Mapping[tuple[ReleaseId, ProbeName], ProbeSeen]:
        """Give the newest verdict of each probe on each release; the production client's are left out.

        A result that says nothing of what is tested (a skipped or missed slot) hides no CRITICAL before it.
        """
        rows = self._db.execute(
            "SELECT * FROM probe_result WHERE release <> '' AND id IN"
            " (SELECT max(id) FROM probe_result WHERE release <> '' AND host = '' GROUP BY release, probe)"
        )
        return {(ReleaseId(row["release"]), ProbeName(row["probe"])): self._seen(row) for row in rows.fetchall()}

    def _seen(self, row: sqlite3.Row) -> ProbeSeen:
        seen = ProbeSeen(
            Status(row["status"]), _time(row["at"]), row["summary"], row["profile"], bool(row["hard"]), row["attempt"]
        )
        if Cause(row["cause"]) in UNCOUNTED:
            before = self.recorded.newest_counted(ProbeName(row["probe"]), ReleaseId(row["release"]))
            if before is not None and before.status is Status.CRITICAL and before.profile == seen.profile:
                return replace(seen, status=before.status, summary=before.result.summary)
        return seen

    def add_result(self, result: ProbeResult, profile: str) -> None:
        """Remember one probe run made in the environment with this fingerprint."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self.recorded.add([(result, profile)])

    def results(self, names: Iterable[str], limit: int = 10) -> list[Remembered]:
        """Give the newest results under a probe's name and aliases, of all releases and hosts, newest first."""
        asked = list(names)
        marks = ", ".join("?" * len(asked))
        rows = self._db.execute(
            f"SELECT * FROM probe_result WHERE probe IN ({marks}) ORDER BY id DESC LIMIT ?",  # noqa: S608 - marks only
            (*asked, limit),
        )
        return [_remembered(row) for row in rows]

    def newest_results(self) -> Mapping[ProbeName, Remembered]:
        """Give the newest result of each probe, whatever it ran against."""
        rows = self._db.execute(
            "SELECT * FROM probe_result WHERE id IN (SELECT max(id) FROM probe_result GROUP BY probe)"
        )
        return {ProbeName(row["probe"]): _remembered(row) for row in rows}

    def approvals(self) -> Mapping[ProbeName, str]:
        """Give the digest on record of each of the site's own probes."""
        return {
            ProbeName(row["probe"]): row["digest"] for row in self._db.execute("SELECT probe, digest FROM approval")
        }

    def approve(self, probes: Iterable[ProbeDefinition], actor: str, at: datetime, *, anew: bool) -> None:
        """Put the digests of probes on record. ``anew``: in place of earlier ones; else an earlier one stays."""
        verb = "REPLACE" if anew else "IGNORE"
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                f"INSERT OR {verb} INTO approval VALUES (?, ?, ?, ?)",  # noqa: S608 - one of two words
                [(probe.name, probe.digest, actor, _text(at)) for probe in probes],
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

    def note_propagation(self, delay_s: float, at: datetime) -> None:
        """Remember how long the latest change of tags took until the information systems showed it."""
        value = json.dumps({"delay_s": delay_s, "at": _text(at)})
        self._db.execute("INSERT OR REPLACE INTO setting VALUES ('propagation', ?)", (value,))

    def propagation(self) -> tuple[float, datetime] | None:
        """Give the latest measured delay in seconds, and when it was measured; None when none ever was."""
        row = self._db.execute("SELECT value FROM setting WHERE name = 'propagation'").fetchone()
        if row is None:
            return None
        known = json.loads(row["value"])
        return known["delay_s"], _time(known["at"])

    def _has(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM setting WHERE name = ?", (name,)).fetchone() is not None

    def _set(self, name: str, *, on: bool) -> None:
        if on:
            self._db.execute("INSERT OR REPLACE INTO setting VALUES (?, '1')", (name,))
        else:
            self._db.execute("DELETE FROM setting WHERE name = ?", (name,))


def _remembered(row: sqlite3.Row) -> Remembered:
    return Remembered(
        release=ReleaseId(row["release"]) if row["release"] else None,
        status=Status(row["status"]),
        at=_time(row["at"]),
        summary=row["summary"],
        duration_s=row["duration_s"],
        cause=Cause(row["cause"]),
        attempt=row["attempt"],
        hard=bool(row["hard"]),
        host=row["host"],
        digest=row["digest"],
    )


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
