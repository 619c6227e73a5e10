"""The pure decision: what of a batch is new."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pps_collector.ingest.judge import Fresh, Mark, Repeat, judge, start_mark
from pps_wire.names import Site
from pps_wire.report import Batch, Lane, Problem, Refusal, roll_digest, start_digest

AGENT, EPOCH = "a" * 32, "b" * 32
START = start_digest(AGENT, EPOCH, Lane.LIVE)


def records_of(count: int, content: str = "x") -> list[bytes]:
    return [f"{content}{number}".encode() for number in range(1, count + 1)]


def batch_of(records: list[bytes], first_seq: int = 1, before: list[bytes] | None = None) -> Batch:
    return Batch(
        agent=AGENT,
        site=Site("S"),
        epoch=EPOCH,
        lane=Lane.LIVE,
        sent_at=datetime(2026, 1, 1, tzinfo=UTC),
        first_seq=first_seq,
        digest=roll_digest(START, before or []),
        records=[msgspec.Raw(one) for one in records],
    )


def mark_at(records: list[bytes]) -> Mark:
    return Mark(len(records), roll_digest(START, records))


def test_the_first_batch_of_a_lane_is_all_new():
    records = records_of(3)
    batch = batch_of(records)
    assert judge(start_mark(batch), batch) == Fresh(0, mark_at(records))


def test_an_acknowledged_batch_that_comes_again_is_a_repeat():
    records = records_of(5)
    assert judge(mark_at(records), batch_of(records[2:], 3, records[:2])) == Repeat()


def test_of_an_overlapping_batch_only_the_new_part_is_fresh():
    records = records_of(6)
    assert judge(mark_at(records[:4]), batch_of(records[2:], 3, records[:2])) == Fresh(2, mark_at(records))


def test_a_gap_is_refused_with_the_number_wanted_next():
    verdict = judge(mark_at(records_of(2)), batch_of(records_of(1), 5))
    assert isinstance(verdict, Problem)
    assert (verdict.code, verdict.expected) == (Refusal.GAP, 3)


def test_a_batch_that_ends_before_the_watermark_shows_a_restored_outbox():
    records = records_of(9)
    verdict = judge(mark_at(records), batch_of(records[:4]))
    assert isinstance(verdict, Problem)
    assert verdict.code is Refusal.EPOCH_CONFLICT


def test_other_records_under_the_same_numbers_show_a_restored_outbox():
    stored, other = records_of(4), records_of(6, "other")
    for batch in (batch_of(other), batch_of(other[4:], 5, other[:4]), batch_of(other[3:4], 4, other[:3])):
        verdict = judge(mark_at(stored), batch)
        assert isinstance(verdict, Problem)
        assert verdict.code is Refusal.EPOCH_CONFLICT


@given(
    total=st.integers(1, 30),
    steps=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 12)), max_size=40),
)
def test_whatever_is_resent_in_whatever_pieces_every_record_is_stored_once_and_in_order(total, steps):
    records = records_of(total)
    stored: list[bytes] = []
    mark = Mark(0, START)
    for first, size in [*steps, (0, total)]:
        piece = records[first : first + size]
        if not piece:
            continue
        match judge(mark, batch_of(piece, first + 1, records[:first])):
            case Fresh(skip, new_mark):
                stored += piece[skip:]
                mark = new_mark
            case Repeat():
                assert first + len(piece) == len(stored)
            case Problem(code=Refusal.GAP):
                assert first > len(stored)
            case Problem(code=code):
                assert code is Refusal.EPOCH_CONFLICT
                assert first + len(piece) < len(stored)
    assert records[: len(stored)] == stored
    assert len(stored) == mark.seq == total
