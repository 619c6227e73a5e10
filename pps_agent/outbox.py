"""Durable results on their way to the collector.

A record waits unnumbered. When a batch is formed it gets, for good, its *lane* (``live``, or
``backfill`` when it waited too long) and the lane's next sequence number, and its exact bytes are
kept until the collector's cumulative acknowledgement covers them. So whatever is killed or lost on
the way, a resent batch carries the same bytes under the same numbers, and the collector stores each
once. A new outbox is a new *epoch*; the rolling digest of each lane shows a restored one.
"""

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from pps_wire.names import Site
from pps_wire.report import MAX_RECORDS, MAX_WIRE_BYTES, Batch, Body, Lane, Record, roll_digest, start_digest

_BATCH_BYTES: Final = MAX_WIRE_BYTES * 3 // 4
"""Uncompressed records per batch: below the wire limit even when nothing compresses."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane: newest number given out, newest number acknowledged."""

    lane: Lane
    last_seq: int
    acked: int


class Outbox:
    """The queue of one agent in its state.db."""

    def __init__(self, connection: sqlite3.Connection, agent: str, site: Site) -> None:
        self._db = connection
        self._agent = agent
        self._site = site

    def put(self, bodies: Sequence[Body], at: datetime) -> None:
        """Store results durably, all or none."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self.add(bodies, at)

    def add(self, bodies: Sequence[Body], at: datetime) -> None:
        """Store results as a part of the transaction that is under way."""
        rows = [(body.KIND, at.astimezone(UTC).isoformat(), msgspec.json.encode(body)) for body in bodies]
        self._db.executemany("INSERT INTO outbox (kind, at, body) VALUES (?, ?, ?)", rows)

    def waiting(self) -> int:
        """Give how many records the collector has not acknowledged."""
        return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def lanes(self) -> tuple[LaneStatus, ...]:
        """Give each lane's counters."""
        rows = self._db.execute("SELECT * FROM lane ORDER BY name DESC")
        return tuple(LaneStatus(Lane(row["name"]), row["next_seq"] - 1, row["acked"]) for row in rows)

    def next_batch(self, now: datetime, backfill_after_s: int) -> Batch | None:
        """Number what is new and give the next batch to send, live before backfill; None when empty."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._number(now, backfill_after_s)
        for lane in (Lane.LIVE, Lane.BACKFILL):
            batch = self._form(lane, now)
            if batch is not None:
                return batch
        return None

    def acknowledge(self, lane: Lane, seq: int) -> int:
        """Drop the records up to ``seq``; give how many those were. A number not given out is ignored."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self.epoch()
            row = self._lane(lane)
            if seq <= row["acked"] or seq >= row["next_seq"]:
                return 0
            covered = self._db.execute(
                "SELECT record FROM outbox WHERE lane = ? AND seq <= ? ORDER BY seq", (lane.value, seq)
            )
            digest = roll_digest(row["digest"], (record["record"] for record in covered))
            self._db.execute("UPDATE lane SET acked = ?, digest = ? WHERE name = ?", (seq, digest, lane.value))
            dropped = self._db.execute("DELETE FROM outbox WHERE lane = ? AND seq <= ?", (lane.value, seq))
            return dropped.rowcount

    def start_epoch(self) -> None:
        """Begin anew: everything unacknowledged is numbered again under a fresh epoch."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._start_epoch()

    def epoch(self) -> str:
        """Give the present epoch, beginning one when the outbox is new or belonged to another agent."""
        row = self._db.execute("SELECT value FROM setting WHERE name = 'epoch'").fetchone()
        owner = self._db.execute("SELECT value FROM setting WHERE name = 'epoch_agent'").fetchone()
        if row is None or owner is None or owner["value"] != self._agent:
            return self._start_epoch()
        return str(row["value"])

    def _start_epoch(self) -> str:
        epoch = uuid.uuid4().hex
        self._db.execute("INSERT OR REPLACE INTO setting VALUES ('epoch', ?)", (epoch,))
        self._db.execute("INSERT OR REPLACE INTO setting VALUES ('epoch_agent', ?)", (self._agent,))
        self._db.execute("UPDATE outbox SET lane = NULL, seq = NULL, record = NULL")
        for lane in Lane:
            start = start_digest(self._agent, epoch, lane)
            self._db.execute("INSERT OR REPLACE INTO lane VALUES (?, 1, 0, ?)", (lane.value, start))
        return epoch

    def _number(self, now: datetime, backfill_after_s: int) -> None:
        self.epoch()
        oldest_live = now - timedelta(seconds=backfill_after_s)
        fresh = self._db.execute("SELECT id, kind, at, body FROM outbox WHERE lane IS NULL ORDER BY id").fetchall()
        for row in fresh:
            at = datetime.fromisoformat(row["at"])
            lane = self._lane(Lane.LIVE if at >= oldest_live else Lane.BACKFILL)
            record = msgspec.json.encode(
                Record(seq=lane["next_seq"], kind=row["kind"], at=at, body=msgspec.Raw(row["body"]))
            )
            self._db.execute(
                "UPDATE outbox SET lane = ?, seq = ?, record = ? WHERE id = ?",
                (lane["name"], lane["next_seq"], record, row["id"]),
            )
            self._db.execute("UPDATE lane SET next_seq = next_seq + 1 WHERE name = ?", (lane["name"],))

    def _form(self, lane: Lane, now: datetime) -> Batch | None:
        status = self._lane(lane)
        rows = self._db.execute(
            "SELECT record FROM outbox WHERE lane = ? ORDER BY seq LIMIT ?", (lane.value, MAX_RECORDS)
        )
        records: list[msgspec.Raw] = []
        size = 0
        for row in rows:
            size += len(row["record"])
            if records and size > _BATCH_BYTES:
                break
            records.append(msgspec.Raw(row["record"]))
        if not records:
            return None
        return Batch(
            agent=self._agent,
            site=self._site,
            epoch=self.epoch(),
            lane=lane,
            sent_at=now,
            first_seq=status["acked"] + 1,
            digest=status["digest"],
            records=records,
        )

    def _lane(self, lane: Lane) -> sqlite3.Row:
        row: sqlite3.Row = self._db.execute("SELECT * FROM lane WHERE name = ?", (lane.value,)).fetchone()
        return row
