"""The outbox against a model of the collector's documented rules, through lost answers, crashes and restored copies."""

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pps_agent.database import open_database
from pps_agent.outbox import Outbox
from pps_wire.names import Site
from pps_wire.report import MAX_RECORDS, MAX_WIRE_BYTES, Batch, Lane, RoundBody, parse_record, roll_digest, start_digest

AGENT = "a" * 32
BACKFILL_AFTER_S = 100
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def note(number: int, size: int = 1) -> RoundBody:
    """Give a body that can be told from every other."""
    return RoundBody(round=f"{number}", trust="x" * size, done=0, failed=0, took_s=0.0, agent_version="1")


@dataclass
class ModelLane:
    """What the collector keeps of one lane of one epoch."""

    digest: str
    seq: int = 0
    stored: list[bytes] = field(default_factory=list)


class ModelCollector:
    """Watermark, digest and cumulative acknowledgement, as ADR and docs say; in memory."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, Lane], ModelLane] = {}

    def take(self, batch: Batch) -> int | str:
        """Give the acknowledgement, or why the batch is refused."""
        start = start_digest(batch.agent, batch.epoch, batch.lane)
        lane = self.lanes.setdefault((batch.epoch, batch.lane), ModelLane(start))
        records = [bytes(raw) for raw in batch.records]
        if batch.first_seq > lane.seq + 1:
            return "gap"
        known = lane.seq + 1 - batch.first_seq
        if known > len(records) or roll_digest(batch.digest, records[:known]) != lane.digest:
            return "conflict"
        lane.digest = roll_digest(lane.digest, records[known:])
        lane.seq = batch.last_seq if records[known:] else lane.seq
        lane.stored += records[known:]
        return lane.seq

    def notes(self) -> list[str]:
        """Give the names of all notes stored, in any epoch."""
        return [
            msgspec.json.decode(parse_record(raw).body, type=RoundBody).round
            for lane in self.lanes.values()
            for raw in lane.stored
        ]


class OutboxMachine(RuleBasedStateMachine):
    """Puts, sends, loses answers, dies, is restored from a copy; nothing is lost and nothing doubled in an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="pps-outbox-"))
        self.path = self.base / "state.db"
        self.collector = ModelCollector()
        self.now = START
        self.made: list[str] = []
        self.copied: tuple[Path, int] | None = None
        self.restored = False
        self.lost: set[str] = set()
        self.connection = open_database(self.path)

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.base)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.connection, AGENT, Site("A"))

    def batch(self) -> Batch | None:
        batch = self.outbox.next_batch(self.now, BACKFILL_AFTER_S)
        if batch is not None:
            assert 1 <= len(batch.records) <= MAX_RECORDS
            assert len(msgspec.json.encode(batch)) <= MAX_WIRE_BYTES
            records = [parse_record(bytes(raw)) for raw in batch.records]
            assert list(range(batch.first_seq, batch.last_seq + 1)) == [record.seq for record in records]
        return batch

    @initialize()
    def begin(self) -> None:
        assert self.outbox.waiting() == 0
        assert self.batch() is None

    @rule(count=st.integers(1, 4), age_s=st.sampled_from([0, BACKFILL_AFTER_S, BACKFILL_AFTER_S + 1]))
    def put(self, count: int, age_s: int) -> None:
        names = [f"{len(self.made) + number}" for number in range(count)]
        self.outbox.put([note(int(name)) for name in names], self.now - timedelta(seconds=age_s))
        self.made += names

    @rule(seconds=st.sampled_from([1, BACKFILL_AFTER_S + 1]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def crash(self) -> None:
        self.connection.close()
        self.connection = open_database(self.path)

    @rule(answered=st.booleans())
    def send(self, answered: bool) -> None:
        batch = self.batch()
        if batch is None:
            return
        answer = self.collector.take(batch)
        if not answered:
            return
        if isinstance(answer, int):
            before = self.outbox.waiting()
            assert before - self.outbox.acknowledge(batch.lane, answer) == self.outbox.waiting()
        else:
            assert self.restored, f"{answer} without a restored copy"
            self.outbox.start_epoch()

    @rule(lane=st.sampled_from(Lane), seq=st.sampled_from([-1, 0, 10**6]))
    def hear_a_foreign_number(self, lane: Lane, seq: int) -> None:
        assert self.outbox.acknowledge(lane, seq) == 0

    @rule()
    def copy(self) -> None:
        path = self.base / f"copy-{len(self.made)}.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as target:
            self.connection.backup(target)
        target.close()
        self.copied = (path, len(self.made))

    @precondition(lambda self: self.copied is not None)
    @rule()
    def restore(self) -> None:
        assert self.copied is not None
        path, made = self.copied
        self.connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(path, self.path)
        self.connection = open_database(self.path)
        self.restored = True
        # What was made after the copy and not sent before is gone with the disk: no outbox can bring it back.
        self.lost |= set(self.made[made:]) - set(self.collector.notes())

    @rule()
    def send_all(self) -> None:
        for _ in range(len(self.made) + 10):
            if self.outbox.waiting() == 0:
                break
            self.send(answered=True)
        assert self.outbox.waiting() == 0
        assert set(self.made) - self.lost == set(self.collector.notes()) - self.lost

    @invariant()
    def nothing_is_doubled(self) -> None:
        notes = self.collector.notes()
        if not self.restored:
            assert len(notes) == len(set(notes))
        for lane in self.collector.lanes.values():
            assert len(lane.stored) == lane.seq
            assert len(lane.stored) == len(set(lane.stored))


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
