"""Puts batches into the database: watermark, records, latest states and quarantine in one transaction.

The caller commits; only then may anything be acknowledged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, assert_never

from sqlalchemy import Connection, and_, func, insert, select, tuple_, update

from pps_collector.ingest.admit import Admitted, Quarantined, admit
from pps_collector.ingest.judge import Fresh, Mark, Repeat, judge, start_mark
from pps_collector.store.database import insert_of, insert_or_keep
from pps_collector.store.tables import agent, latest, quarantine, record, watermark
from pps_wire.report import Ack, Batch, Lane, Problem

_MAX_RAW_BYTES: Final = 64 * 1024
_Lane = tuple[str, str, str]


@dataclass(slots=True)
class _Rows:
    """What one transaction will write; filled batch by batch, so that a repeat in the same group is seen."""

    marks: dict[_Lane, Mark]
    moved: set[_Lane] = field(default_factory=set)
    records: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    latest: dict[tuple[str, str, str, str], dict[str, Any]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def store_batches(connection: Connection, batches: Sequence[Batch], now: datetime) -> list[Ack | Problem]:
    """Write what is new of each batch and give each one's answer, in order.

    ``now`` is the collector's clock: the records' ``received_at`` and the judge of their own times.
    Raises: SQLAlchemyError; then nothing of the whole group may be acknowledged.
    """
    rows = _Rows(_lock_marks(connection, batches))
    answers = [_take(connection, batch, rows, now) for batch in batches]
    _write(connection, rows, now)
    return answers


def _lock_marks(connection: Connection, batches: Sequence[Batch]) -> dict[_Lane, Mark]:
    first = {_lane_of(batch): start_mark(batch) for batch in batches}
    # Always in the same order, so that two collectors never wait for each other.
    lanes = sorted(first)
    missing = [
        {"agent": lane[0], "epoch": lane[1], "lane": lane[2], "seq": first[lane].seq, "digest": first[lane].digest}
        for lane in lanes
    ]
    insert_or_keep(connection, watermark, missing)
    key = tuple_(watermark.c.agent, watermark.c.epoch, watermark.c.lane)
    locked = connection.execute(
        select(watermark)
        .where(key.in_(lanes))
        .order_by(watermark.c.agent, watermark.c.epoch, watermark.c.lane)
        .with_for_update()
    )
    return {(row.agent, row.epoch, row.lane): Mark(row.seq, row.digest) for row in locked}


def _take(connection: Connection, batch: Batch, rows: _Rows, now: datetime) -> Ack | Problem:
    lane = _lane_of(batch)
    verdict = judge(rows.marks[lane], batch)
    match verdict:
        case Problem():
            return verdict
        case Repeat():
            rows.seen.add(batch.agent)
            kept_apart = _count_quarantined(connection, batch, rows)
        case Fresh(skip, mark):
            rows.seen.add(batch.agent)
            rows.marks[lane] = mark
            rows.moved.add(lane)
            _sort_in(batch, skip, rows, now)
            kept_apart = _count_quarantined(connection, batch, rows)
        case _:
            assert_never(verdict)
    return Ack(ack=rows.marks[lane].seq, quarantined=kept_apart, server_time=now)


def _sort_in(batch: Batch, skip: int, rows: _Rows, now: datetime) -> None:
    common = {"agent": batch.agent, "epoch": batch.epoch, "lane": batch.lane.value, "site": batch.site}
    for seq, raw in enumerate(batch.records[skip:], batch.first_seq + skip):
        judged = admit(bytes(raw), seq, now)
        row = common | {"seq": seq, "received_at": now}
        match judged:
            case Quarantined():
                rows.quarantined.append(
                    row
                    | {
                        "code": judged.fault.value,
                        "reason": judged.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"),
                        "size_bytes": len(judged.raw),
                        "raw": judged.raw[:_MAX_RAW_BYTES],
                    }
                )
            case Admitted():
                rows.records.append(row | {"kind": judged.kind, "at": judged.at, "body": judged.body})
                _keep_latest(batch, judged, rows, now)
            case _:
                assert_never(judged)


def _keep_latest(batch: Batch, admitted: Admitted, rows: _Rows, now: datetime) -> None:
    if admitted.latest is None:
        return
    key = (batch.site, admitted.kind, admitted.latest.group, admitted.latest.subject)
    known = rows.latest.get(key)
    if known is not None and known["at"] > admitted.at:
        return
    rows.latest[key] = {
        "site": batch.site,
        "kind": admitted.kind,
        "host_group": admitted.latest.group,
        "subject": admitted.latest.subject,
        "state": admitted.latest.state,
        "summary": admitted.latest.summary,
        "body": admitted.body,
        "at": admitted.at,
        "received_at": now,
        "agent": batch.agent,
    }


def _count_quarantined(connection: Connection, batch: Batch, rows: _Rows) -> int:
    lane = _lane_of(batch)
    stored: int | None = connection.scalar(
        select(func.count())
        .select_from(quarantine)
        .where(
            and_(quarantine.c.agent == lane[0], quarantine.c.epoch == lane[1], quarantine.c.lane == lane[2]),
            quarantine.c.seq.between(batch.first_seq, batch.last_seq),
        )
    )
    fresh: int = sum(
        (row["agent"], row["epoch"], row["lane"]) == lane and batch.first_seq <= row["seq"] <= batch.last_seq
        for row in rows.quarantined
    )
    return fresh + (stored or 0)


def _write(connection: Connection, rows: _Rows, now: datetime) -> None:
    if rows.records:
        connection.execute(insert(record), rows.records)
    if rows.quarantined:
        connection.execute(insert(quarantine), rows.quarantined)
    _upsert_latest(connection, [rows.latest[key] for key in sorted(rows.latest)])
    for lane in sorted(rows.moved):
        connection.execute(_move(lane, rows.marks[lane]))
    _touch_agents(connection, rows.seen, now)


def _upsert_latest(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = insert_of(connection, latest)
    new = statement.excluded
    changed = {name: new[name] for name in ("state", "summary", "body", "at", "received_at", "agent")}
    # A late record never overwrites a newer one; of two at the same instant the later sent one stands.
    newer = latest.c.at <= new["at"]
    connection.execute(
        statement.on_conflict_do_update(index_elements=latest.primary_key, set_=changed, where=newer), rows
    )


def _move(lane: _Lane, mark: Mark) -> Any:
    return (
        update(watermark)
        .where(watermark.c.agent == lane[0], watermark.c.epoch == lane[1], watermark.c.lane == lane[2])
        .values(seq=mark.seq, digest=mark.digest)
    )


def _touch_agents(connection: Connection, seen: Iterable[str], now: datetime) -> None:
    for one in sorted(seen):
        connection.execute(update(agent).where(agent.c.id == one).values(last_seen_at=now))


def _lane_of(batch: Batch) -> _Lane:
    return (batch.agent, batch.epoch, Lane(batch.lane).value)
