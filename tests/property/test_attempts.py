"""Soft and hard states over any sequence of results."""

from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.attempts import UNCOUNTED, advance
from pps_agent.probes.slots import Past
from pps_wire.report import Cause, Status

COUNTED = sorted(set(Cause) - UNCOUNTED, key=lambda cause: cause.value)
statuses = st.sampled_from(Status)
results = st.lists(st.tuples(statuses, st.sampled_from(COUNTED)), max_size=30)


def run_through(sequence, max_attempts):
    """Give (status, attempt, hard) after each of these results."""
    seen, past = [], None
    for status, cause in sequence:
        attempt, hard = advance(past, max_attempts, status, cause)
        if cause not in UNCOUNTED:
            past = Past(0.0, status, attempt, hard)
        seen.append((status, attempt, hard))
    return seen


@given(results, st.integers(1, 5))
def test_a_state_is_hard_when_ok_or_after_so_many_others_in_a_row(sequence, max_attempts):
    row = 0
    for status, attempt, hard in run_through(sequence, max_attempts):
        row = 0 if status is Status.OK else row + 1
        assert hard == (status is Status.OK or row >= max_attempts)
        assert attempt == (1 if status is Status.OK else min(row, max_attempts))


@given(
    results, st.integers(1, 5), st.sampled_from(sorted(UNCOUNTED, key=lambda cause: cause.value)), st.integers(0, 30)
)
def test_a_result_that_says_nothing_changes_no_state_after_it(sequence, max_attempts, cause, place):
    place = min(place, len(sequence))
    with_it = [*sequence[:place], (Status.UNKNOWN, cause), *sequence[place:]]
    seen = run_through(with_it, max_attempts)
    nothing = seen.pop(place)
    assert run_through(sequence, max_attempts) == seen
    before = seen[place - 1] if place else (Status.OK, 1, max_attempts == 1)
    assert before[1:] == nothing[1:]


def test_fewer_attempts_than_before_make_a_soft_state_hard_with_the_next_result():
    assert advance(Past(0.0, Status.CRITICAL, 3, hard=False), 2, Status.CRITICAL) == (3, True)


def test_a_hard_state_stays_hard_when_more_attempts_are_allowed():
    assert advance(Past(0.0, Status.CRITICAL, 1, hard=True), 5, Status.WARNING) == (2, True)
