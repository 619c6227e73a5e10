"""The contract of storing, on SQLite and on PostgreSQL alike."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text
from structlog.testing import capture_logs

from pps_collector.errors import StoreError
from pps_collector.ingest.ledger import store_batches
from pps_collector.ingest.writer import QueueFullError, Writer
from pps_collector.store.database import writing
from pps_collector.store.tables import agent, latest, quarantine, record, watermark
from pps_wire.report import Ack, Batch, Lane, Problem, Refusal, ReleaseState, Status
from tests.collector.running import Queue, probe, release, round_of, tag

NOW = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


def new_queue(engine: Engine, site: str = "S", lane: Lane = Lane.LIVE) -> Queue:
    one = uuid4().hex
    row = {"id": one, "site": site, "enrolled_at": NOW, "issuer_sha256": "i", "subject_sha256": one, "spki_sha256": "k"}
    with writing(engine).begin() as connection:
        connection.execute(insert(agent), row)
    return Queue(one, uuid4().hex, lane)


def store(engine: Engine, *batches: Batch, now: datetime = NOW) -> list[Ack | Problem]:
    with writing(engine).begin() as connection:
        return store_batches(connection, batches, now)


def read(engine: Engine, statement: Any) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(statement).all()


def latest_of(engine: Engine, kind: str) -> list[tuple[str, str]]:
    return [tuple(row) for row in read(engine, select(latest.c.state, latest.c.summary).where(latest.c.kind == kind))]


def test_a_batch_is_stored_whole_with_its_times_and_acknowledged(engine):
    queue = new_queue(engine)
    queue.add([probe(), release(), tag(), round_of()], NOW - timedelta(hours=1))
    assert store(engine, queue.batch("S")) == [Ack(ack=4, server_time=NOW)]
    rows = read(engine, select(record.c.seq, record.c.kind, record.c.at, record.c.received_at, record.c.site))
    kinds = ["probe", "release", "tag", "round"]
    assert [(seq, kind, NOW - timedelta(hours=1), NOW, "S") for seq, kind in enumerate(kinds, 1)] == rows
    assert read(engine, select(agent.c.last_seen_at).where(agent.c.id == queue.agent)) == [(NOW,)]


def test_a_resent_batch_is_acknowledged_again_and_stores_nothing(engine):
    queue = new_queue(engine)
    queue.add([probe()] * 3)
    queue.add_raw(b"{}")
    batch = queue.batch("S")
    first, again = store(engine, batch, now=datetime.now(UTC)), store(engine, batch, now=datetime.now(UTC))
    assert [(one.ack, one.quarantined) for one in first if isinstance(one, Ack)] == [(4, 1)]
    assert [(one.ack, one.quarantined) for one in again if isinstance(one, Ack)] == [(4, 1)]
    assert read(engine, select(func.count()).select_from(record)) == [(3,)]


def test_a_batch_and_its_resend_in_one_transaction_are_stored_once(engine):
    queue = new_queue(engine)
    queue.add([probe()] * 2, NOW)
    batch = queue.batch("S")
    assert store(engine, batch, batch) == [Ack(ack=2, server_time=NOW)] * 2
    assert read(engine, select(func.count()).select_from(record)) == [(2,)]


def test_of_an_overlapping_batch_only_the_new_part_is_stored(engine):
    queue = new_queue(engine)
    queue.add([probe()] * 5, NOW)
    store(engine, queue.batch("S", size=3))
    assert store(engine, queue.batch("S")) == [Ack(ack=5, server_time=NOW)]
    assert read(engine, select(record.c.seq).order_by(record.c.seq)) == [(1,), (2,), (3,), (4,), (5,)]


def test_lanes_and_epochs_are_numbered_apart(engine):
    queue = new_queue(engine)
    others = [Queue(queue.agent, queue.epoch, Lane.BACKFILL), Queue(queue.agent, uuid4().hex, Lane.LIVE)]
    for one in (queue, *others):
        one.add([probe()] * 2, NOW)
        assert store(engine, one.batch("S")) == [Ack(ack=2, server_time=NOW)]
    assert read(engine, select(func.count()).select_from(record)) == [(6,)]


def test_a_refused_batch_leaves_nothing_behind_and_harms_no_other(engine):
    queue, other = new_queue(engine), new_queue(engine)
    queue.add([probe()] * 4, NOW)
    other.add([probe()], NOW)
    store(engine, queue.batch("S", size=2))
    late = Queue(queue.agent, queue.epoch, Lane.LIVE, acked=3, digest=queue.digest, records=queue.records[3:])
    late.digest = queue.digest
    refused, taken = store(engine, late.batch("S"), other.batch("S"))
    assert isinstance(refused, Problem)
    assert (refused.code, refused.expected) == (Refusal.GAP, 3)
    assert taken == Ack(ack=1, server_time=NOW)
    assert read(engine, select(func.count()).select_from(record)) == [(3,)]


def test_a_bad_record_is_kept_apart_and_the_rest_acknowledged(engine):
    queue = new_queue(engine)
    queue.add([probe()], NOW)
    queue.add_raw(
        b'{"seq":%d,"kind":"probe","at":"2026-06-01T00:00:00Z","body":{"status":9}}',
        b'{"seq":77,"kind":"probe","at":"2026-06-01T00:00:00Z","body":{}}',
        b'{"seq":%d,"kind":"x","at":"1970-01-01T00:00:00Z","body":{}}',
        b'{"seq":%d,"kind":"x","at":"2026-06-02T00:00:00Z","body":{}}',
        b'{"seq":%d,"kind":"x","at":"2026-06-01T00:00:00Z","body":"\xff"}',
        b'"' + b"x" * 100_000 + b'"',
    )
    queue.add([probe()], NOW)
    assert store(engine, queue.batch("S")) == [Ack(ack=8, quarantined=6, server_time=NOW)]
    codes = ["schema", "schema", "too-old", "clock-future", "schema", "schema"]
    rows = read(engine, select(quarantine.c.seq, quarantine.c.code).order_by(quarantine.c.seq))
    assert list(enumerate(codes, 2)) == rows
    assert read(engine, select(record.c.seq).order_by(record.c.seq)) == [(1,), (8,)]
    sizes = read(engine, select(quarantine.c.size_bytes, func.length(quarantine.c.raw)).where(quarantine.c.seq == 7))
    assert sizes == [(100_002, 65_536)]


def test_an_unknown_kind_is_stored_as_it_travelled(engine):
    queue = new_queue(engine)
    body = b'{"x":"\\u0000 \\ud83d\\ude00 \xe2\x98\x83","n":1e999}'
    queue.add_raw(b'{"seq":%d,"kind":"gap.v2","at":"2026-06-01T00:00:00Z","body":' + body + b"}")
    assert store(engine, queue.batch("S")) == [Ack(ack=1, server_time=NOW)]
    assert read(engine, select(record.c.kind, record.c.body)) == [("gap.v2", body.decode())]
    assert read(engine, select(latest)) == []


def test_a_late_record_never_overwrites_a_newer_state(engine):
    live, backfill = new_queue(engine), None
    backfill = Queue(live.agent, live.epoch, Lane.BACKFILL)
    live.add([probe(Status.OK, "new")], NOW - timedelta(minutes=1))
    backfill.add([probe(Status.CRITICAL, "old")], NOW - timedelta(hours=2))
    store(engine, live.batch("S"))
    store(engine, backfill.batch("S"))
    assert latest_of(engine, "probe") == [("ok", "new")]
    assert read(engine, select(func.count()).select_from(record)) == [(2,)]


def test_of_two_states_at_the_same_instant_the_later_sent_one_stands(engine):
    queue = new_queue(engine)
    queue.add([release(ReleaseState.INSTALLED), release(ReleaseState.VERIFIED)], NOW)
    store(engine, queue.batch("S"))
    assert latest_of(engine, "release") == [("verified", "")]
    queue.acknowledge(2)
    queue.add([release(ReleaseState.TAGGED)], NOW)
    store(engine, queue.batch("S"))
    assert latest_of(engine, "release") == [("tagged", "")]


def test_two_host_groups_of_a_site_do_not_overwrite_each_other(engine):
    first, second = new_queue(engine), new_queue(engine)
    for queue, group, state in ((first, "el8", ReleaseState.TAGGED), (second, "el9", ReleaseState.BROKEN)):
        queue.add([msgspec.structs.replace(release(state), group=group)], NOW)
        store(engine, queue.batch("S"))
    rows = read(engine, select(latest.c.host_group, latest.c.state).order_by(latest.c.host_group))
    assert rows == [("el8", "tagged"), ("el9", "broken")]


def test_within_one_batch_the_newest_state_stands_whatever_the_order(engine):
    queue = new_queue(engine)
    queue.add([probe(Status.OK, "new")], NOW)
    queue.add([probe(Status.CRITICAL, "old")], NOW - timedelta(hours=1))
    store(engine, queue.batch("S"))
    assert latest_of(engine, "probe") == [("ok", "new")]


def test_hostile_texts_are_stored_and_never_stop_a_lane(engine):
    queue = new_queue(engine)
    queue.add([probe(summary="<script>\0'; DROP TABLE record;--\u202e" + "x" * 900), probe(summary="\0")], NOW)
    queue.add_raw(b'{"seq":%d,"kind":"\\u0000","at":"2026-06-01T00:00:00Z","body":{}}')
    assert store(engine, queue.batch("S")) == [Ack(ack=3, quarantined=1, server_time=NOW)]


def test_the_watermark_is_what_was_stored(engine):
    queue = new_queue(engine)
    queue.add([probe()] * 7, NOW)
    store(engine, queue.batch("S"))
    queue.acknowledge(7)
    assert read(engine, select(watermark.c.seq, watermark.c.digest)) == [(7, queue.digest)]


def test_the_writer_answers_only_after_the_commit(engine):
    writer = Writer(engine, lambda: NOW, 1024**2)
    writer.start()
    queues = [new_queue(engine) for _ in range(5)]
    for queue in queues:
        queue.add([probe()] * 3, NOW)
    answers = [writer.submit(queue.batch("S"), 1000) for queue in queues]
    assert [one.result(timeout=30) for one in answers] == [Ack(ack=3, server_time=NOW)] * 5
    assert read(engine, select(func.count()).select_from(record)) == [(15,)]
    writer.stop()
    assert not writer.is_alive


def test_what_was_taken_is_written_before_the_writer_stops(engine):
    writer = Writer(engine, lambda: NOW, 1024**2)
    queues = [new_queue(engine) for _ in range(100)]
    for queue in queues:
        queue.add([probe()], NOW)
    answers = [writer.submit(queue.batch("S"), 10) for queue in queues]
    writer.start()
    writer.stop()
    assert all(one.done() for one in answers)
    assert read(engine, select(func.count()).select_from(record)) == [(100,)]


def test_a_full_queue_takes_no_more(engine):
    writer = Writer(engine, lambda: NOW, 1500)
    queue = new_queue(engine)
    queue.add([probe()], NOW)
    writer.submit(queue.batch("S"), 2000)  # alone it fits whatever its size
    with pytest.raises(QueueFullError):
        writer.submit(queue.batch("S"), 1)
    writer.start()
    writer.stop()
    with pytest.raises(QueueFullError):
        writer.submit(queue.batch("S"), 10)


def test_one_batch_that_the_database_refuses_stops_no_other(engine):
    queues = [new_queue(engine) for _ in range(3)]
    for queue in queues:
        queue.add([probe()], NOW)
    with writing(engine).begin() as connection:
        refuse_site(connection, "BAD")
    writer = Writer(engine, lambda: NOW, 1024**2)
    good, bad, also_good = (
        writer.submit(queue.batch(site), 10) for queue, site in zip(queues, ("A", "BAD", "B"), strict=True)
    )
    with capture_logs() as events:
        writer.start()
        assert good.result(timeout=30) == also_good.result(timeout=30) == Ack(ack=1, server_time=NOW)
        assert "stay in the outbox" in str(bad.exception(timeout=30))
        writer.stop()
    assert [one["site"] for one in events if one["event"] == "batch.failed"] == ["BAD"]


def test_a_database_in_trouble_acknowledges_nothing_and_recovers_alone(engine):
    writer = Writer(engine, lambda: NOW, 1024**2)
    writer.start()
    queue = new_queue(engine)
    queue.add([probe()], NOW)
    rename(engine, "record", "hidden")
    with capture_logs():
        assert isinstance(writer.submit(queue.batch("S"), 10).exception(timeout=30), StoreError)
    rename(engine, "hidden", "record")
    assert writer.submit(queue.batch("S"), 10).result(timeout=30) == Ack(ack=1, server_time=NOW)
    writer.stop()
    assert read(engine, select(func.count()).select_from(record)) == [(1,)]


def rename(engine: Engine, table: str, name: str) -> None:
    """Plant a fault, or mend it."""
    with writing(engine).begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


def refuse_site(connection: Connection, site: str) -> None:
    """Plant a fault: rows of this site violate a constraint."""
    connection.execute(text(f"CREATE UNIQUE INDEX planted ON record ((1)) WHERE site = '{site}'"))
    row = {"agent": "", "epoch": "", "lane": "", "seq": 1, "kind": "x", "site": site}
    connection.execute(insert(record), row | {"at": NOW, "received_at": NOW, "body": ""})
