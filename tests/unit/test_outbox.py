"""Lanes, limits, epochs and numbers of the outbox."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import zstandard

from pps_agent.database import open_database
from pps_agent.outbox import LaneStatus, Outbox
from pps_wire.names import Site
from pps_wire.report import (
    MAX_BODY_BYTES,
    MAX_RECORDS,
    MAX_WIRE_BYTES,
    Batch,
    Lane,
    ProbeBody,
    RoundBody,
    Status,
    parse_batch,
    parse_record,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AGENT = "a" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_database(tmp_path / "state.db")
    yield connection
    connection.close()


@pytest.fixture
def outbox(database: sqlite3.Connection) -> Outbox:
    return Outbox(database, AGENT, Site("A"))


def note(name: str = "r", details: str = "") -> RoundBody | ProbeBody:
    if details:
        return ProbeBody(probe="org.a", status=Status.OK, summary=name, details=details, duration_s=1.0)
    return RoundBody(round=name, trust="t", done=0, failed=0, took_s=0.0, agent_version="1")


def next_of(outbox: Outbox, now: datetime = NOW) -> Batch:
    batch = outbox.next_batch(now, 900)
    assert batch is not None
    return batch


def test_an_empty_outbox_gives_no_batch(outbox: Outbox) -> None:
    assert outbox.next_batch(NOW, 900) is None
    assert outbox.waiting() == 0


def test_fresh_results_go_live_and_those_that_waited_go_backfill_after_them(outbox: Outbox) -> None:
    outbox.put([note("old")], NOW - timedelta(seconds=901))
    outbox.put([note("edge")], NOW - timedelta(seconds=900))
    outbox.put([note("new")], NOW)
    live = next_of(outbox)
    assert (live.lane, live.first_seq, live.last_seq) == (Lane.LIVE, 1, 2)
    assert outbox.acknowledge(Lane.LIVE, 2) == 2
    backfill = next_of(outbox)
    assert (backfill.lane, backfill.first_seq, backfill.last_seq) == (Lane.BACKFILL, 1, 1)
    assert (LaneStatus(Lane.LIVE, 2, 2), LaneStatus(Lane.BACKFILL, 1, 0)) == outbox.lanes()


def test_a_record_keeps_lane_number_and_bytes_however_long_its_batch_is_lost(outbox: Outbox) -> None:
    outbox.put([note("a"), note("b")], NOW)
    first = next_of(outbox)
    later = NOW + timedelta(days=3)
    outbox.put([note("c")], later)
    again = next_of(outbox, later)
    assert list(map(bytes, first.records)) == list(map(bytes, again.records))[:2]
    assert (first.epoch, first.digest, first.first_seq) == (again.epoch, again.digest, again.first_seq)
    assert len(again.records) == 3


def test_a_batch_holds_no_more_records_than_the_contract_allows(outbox: Outbox) -> None:
    outbox.put([note(f"{number}") for number in range(MAX_RECORDS + 5)], NOW)
    assert len(next_of(outbox).records) == MAX_RECORDS
    assert outbox.acknowledge(Lane.LIVE, MAX_RECORDS) == MAX_RECORDS
    rest = next_of(outbox)
    assert (rest.first_seq, len(rest.records)) == (MAX_RECORDS + 1, 5)


def test_a_batch_of_large_records_stays_below_the_wire_limit_even_uncompressed(outbox: Outbox) -> None:
    outbox.put([note("x", details="\0" * 65_536) for _ in range(5)], NOW)
    seen = 0
    while (batch := outbox.next_batch(NOW, 900)) is not None:
        raw = msgspec.json.encode(batch)
        assert len(raw) <= MAX_WIRE_BYTES
        assert parse_batch(raw) == batch
        seen += outbox.acknowledge(batch.lane, batch.last_seq)
    assert seen == 5


def test_a_record_larger_than_a_batch_travels_alone_and_holds_up_no_other(outbox: Outbox) -> None:
    outbox.put([note("a"), note("huge", details="x" * 900_000), note("b")], NOW)
    sizes = []
    while (batch := outbox.next_batch(NOW, 900)) is not None:
        assert len(zstandard.compress(msgspec.json.encode(batch))) < MAX_WIRE_BYTES
        assert len(msgspec.json.encode(batch)) < MAX_BODY_BYTES
        sizes.append([parse_record(bytes(raw)).seq for raw in batch.records])
        outbox.acknowledge(batch.lane, batch.last_seq)
    assert sizes == [[1], [2], [3]]


def test_an_acknowledgement_may_cover_a_part(outbox: Outbox) -> None:
    outbox.put([note("a"), note("b"), note("c")], NOW)
    whole = next_of(outbox)
    assert outbox.acknowledge(Lane.LIVE, 2) == 2
    rest = next_of(outbox)
    assert (rest.first_seq, len(rest.records)) == (3, 1)
    assert rest.digest != whole.digest


@pytest.mark.parametrize("seq", [-1, 0, 1, 4, 10**9])
def test_numbers_never_given_out_or_acknowledged_before_change_nothing(outbox: Outbox, seq: int) -> None:
    assert outbox.acknowledge(Lane.BACKFILL, seq) == 0
    outbox.put([note("a"), note("b"), note("c")], NOW)
    next_of(outbox)
    outbox.acknowledge(Lane.LIVE, 1)
    assert outbox.acknowledge(Lane.LIVE, seq) == 0
    assert outbox.acknowledge(Lane.BACKFILL, seq) == 0
    assert outbox.waiting() == 2


def test_a_new_epoch_numbers_everything_anew(outbox: Outbox) -> None:
    outbox.put([note("a"), note("b")], NOW)
    first = next_of(outbox)
    outbox.acknowledge(Lane.LIVE, 1)
    outbox.start_epoch()
    again = next_of(outbox)
    assert again.epoch != first.epoch
    assert (again.first_seq, len(again.records)) == (1, 1)


def test_the_epoch_outlives_the_process_but_not_a_new_identity(database: sqlite3.Connection, outbox: Outbox) -> None:
    outbox.put([note("a")], NOW)
    epoch = next_of(outbox).epoch
    assert next_of(Outbox(database, AGENT, Site("A"))).epoch == epoch
    other = next_of(Outbox(database, "b" * 32, Site("A")))
    assert (other.epoch != epoch, other.first_seq) == (True, 1)


def test_results_are_put_all_or_none(outbox: Outbox, database: sqlite3.Connection) -> None:
    database.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON outbox WHEN new.kind = 'probe' BEGIN SELECT raise(ABORT, 'no'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put([note("a"), note("b", details="x")], NOW)
    assert outbox.waiting() == 0
