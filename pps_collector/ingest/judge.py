"""Decides what of a batch is new. Pure: the watermark and the batch in, a verdict out.

The agent sends a lane's batches one at a time. So a batch either continues at the watermark,
repeats what was acknowledged (the answer got lost), overlaps both, or shows that the two sides'
numbering went apart. The rolling digest tells a repeat from other records under the same numbers.
"""

from dataclasses import dataclass

from pps_wire.report import Batch, Problem, Refusal, roll_digest, start_digest


@dataclass(frozen=True, slots=True)
class Mark:
    """A lane's watermark: everything up to ``seq`` is stored, and its rolling digest."""

    seq: int
    digest: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """Store ``records[skip:]``, then the lane stands at ``mark``."""

    skip: int
    mark: Mark


@dataclass(frozen=True, slots=True)
class Repeat:
    """All of it is stored already: acknowledge again, store nothing."""


Verdict = Fresh | Repeat | Problem


def start_mark(batch: Batch) -> Mark:
    """Give the watermark of a lane of which nothing is stored."""
    return Mark(0, start_digest(batch.agent, batch.epoch, batch.lane))


def judge(mark: Mark, batch: Batch) -> Verdict:
    """Decide what of the batch is new; a Problem refuses it as a whole."""
    if batch.first_seq > mark.seq + 1:
        return Problem(
            code=Refusal.GAP,
            detail=f"records {mark.seq + 1} to {batch.first_seq - 1} are missing; send from {mark.seq + 1}",
            expected=mark.seq + 1,
        )
    if batch.last_seq < mark.seq:
        detail = f"records up to {mark.seq} are stored, this batch ends at {batch.last_seq}"
        return _conflict(detail, mark)
    records = [bytes(raw) for raw in batch.records]
    skip = mark.seq - batch.first_seq + 1
    if roll_digest(batch.digest, records[:skip]) != mark.digest:
        return _conflict(f"other records than these are stored up to {mark.seq}", mark)
    if skip == len(records):
        return Repeat()
    return Fresh(skip, Mark(batch.last_seq, roll_digest(mark.digest, records[skip:])))


def _conflict(detail: str, mark: Mark) -> Problem:
    advice = "the outbox was restored or copied; begin a new epoch"
    return Problem(code=Refusal.EPOCH_CONFLICT, detail=f"{detail}: {advice}", expected=mark.seq + 1)
