"""The timetable's promises, over made-up sites, days and mishaps."""

import itertools
from collections import Counter
from datetime import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.probes.slots import (
    DAY_S,
    FIRST_WITHIN_S,
    Entry,
    Instant,
    Key,
    Past,
    find_phase,
    find_place,
    find_share,
    next_slot,
)
from pps_agent.probes.timetable import Timetable
from pps_wire.report import Cause, Status

AGENT = "a" * 32
RELEASES = (None, "grid-clients-1.0.0-x86_64-glibc2.36", "grid-clients-1.1.0-x86_64-glibc2.36")
METRICS = tuple(f"org.pps.m{number}" for number in range(8))
START = Instant(1000.0, 1_700_000_000.0)
SEEDS = st.integers(0, 2**32)


def make_entry(metric="org.pps.m0", release=None, **facts):
    facts = {"interval_s": 600, "retry_interval_s": 60} | facts
    return Entry(key=Key(metric, release), **facts)


def later(now, seconds, jump_s=0.0):
    return Instant(now.steady_s + seconds, now.wall_s + seconds + jump_s)


def draw_entries(dice, *, fixed=True):
    """Give some entries; what they depend on is always of a smaller number, so that there are no circles."""
    found = []
    for number, metric in enumerate(METRICS[: dice.randint(1, len(METRICS))]):
        interval_s = dice.randint(30, 4000)
        at = time(dice.randrange(24), dice.randrange(60)) if fixed and dice.random() < 0.3 else None
        splay_s = dice.choice([None, 0, dice.randint(0, interval_s)])
        found += [
            make_entry(
                metric,
                release,
                interval_s=interval_s if at is None else DAY_S * dice.randint(1, 3),
                retry_interval_s=dice.randint(10, 1000),
                max_attempts=dice.randint(1, 3),
                splay_s=splay_s if at is None else None,
                at=at,
                heavy=dice.random() < 0.4,
                depends_on=tuple(dice.sample(METRICS[:number], dice.randint(0, min(number, 2)))),
            )
            for release in dice.sample(RELEASES, dice.randint(1, 3))
        ]
    return found


class Simulation:
    """A timetable in use, and what is known of its entries from outside."""

    def __init__(self, dice, rows, *, running=4, heavy=2, jumps=False):
        self.dice, self.jumps = dice, jumps
        self.entries = {entry.key: entry for entry in rows}
        self.running, self.heavy = running, heavy
        self.now = START
        self.timetable = Timetable(AGENT, running=running, heavy=heavy)
        assert self.timetable.merge(rows, {}, self.now) == {}
        self.under_way = {}
        self.last = {}
        self.skipped = set()
        self.counts = Counter()
        self.misses = Counter()

    def parents(self, key):
        for name in self.entries[key].depends_on:
            near = next((k for k in (Key(name, key.release), Key(name, None)) if k in self.entries), None)
            if near is not None:
                yield near

    def is_fit(self, key):
        """Tell whether children of this one may run, as it was told so far."""
        status, _, hard = self.last.get(key, (Status.UNKNOWN, 1, True))
        return (status is Status.OK or not hard) and all(map(self.is_fit, self.parents(key)))

    def step(self):
        pause = self.dice.random() * self.dice.choice([40, 1200, 10_000])
        jump = self.dice.randint(-200_000, 200_000) if self.jumps and self.dice.random() < 0.3 else 0
        self.now = later(self.now, pause, jump)
        self.take()
        for key in list(self.under_way):
            if self.dice.random() < 0.5:
                self.settle(key)

    def take(self):
        due = self.timetable.take_due(self.now)
        for key, late_s in due.starts:
            assert key not in self.under_way
            assert late_s >= 0
            assert all(map(self.is_fit, self.parents(key)))
            self.under_way[key] = self.now
            self.counts[key] += 1
        for skip in due.skips:
            assert skip.parent in self.parents(skip.key)
            assert not self.is_fit(skip.parent)
            assert skip.key not in self.under_way
            assert self.last.get(skip.key, (None, 1, self.entries[skip.key].max_attempts == 1))[1:] == skip[2:]
            self.counts[skip.key] += 1
        for miss in due.misses:
            assert miss.slots >= 1
            assert self.last.get(miss.key, (None, 1, self.entries[miss.key].max_attempts == 1))[1:] == miss[3:]
            self.misses[miss.key] += miss.slots
        assert len(self.under_way) == self.timetable.places.taken <= self.running
        assert sum(self.entries[key].heavy for key in self.under_way) <= max(1, min(self.heavy, self.running - 1))
        return due

    def settle(self, key, status=None):
        status = self.dice.choice([Status.OK, *Status]) if status is None else status
        del self.under_way[key]
        settled = self.timetable.settle(key, status, Cause.VERDICT, self.now)
        before = self.last.get(key)
        assert settled.hard or self.entries[key].max_attempts > settled.attempt
        assert not settled.is_change or settled.hard
        if before is not None and settled.hard and before[2] and before[0] is not status:
            assert settled.is_change
        self.last[key] = (status, settled.attempt, settled.hard)
        return settled


@settings(deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 3))
def test_places_states_and_dependencies_hold_whatever_happens(seed, running, heavy):
    dice = Random(seed)
    simulation = Simulation(dice, draw_entries(dice), running=running, heavy=heavy, jumps=True)
    for _ in range(60):
        simulation.step()


@settings(deadline=None)
@given(SEEDS)
def test_no_slot_passes_in_silence(seed):
    dice = Random(seed)
    simulation = Simulation(dice, draw_entries(dice, fixed=False))
    for _ in range(60):
        simulation.step()
    end_s = simulation.now.wall_s
    for key, entry in simulation.entries.items():
        share = find_share(AGENT, key)
        slot_s = find_place(entry, share, None, START.wall_s).slot_s
        passed = 0
        while slot_s <= end_s - 1e-3:
            passed += 1
            slot_s = next_slot(find_phase(entry, share), entry.interval_s, slot_s + 1e-3)
        # One run may be waiting yet.
        assert simulation.counts[key] + simulation.misses[key] + 1 >= passed


@settings(deadline=None)
@given(SEEDS)
def test_merging_the_same_entries_again_changes_nothing(seed):
    dice = Random(seed)
    rows = draw_entries(dice)
    simulation = Simulation(dice, rows)
    for _ in range(9):
        simulation.step()
    simulation.take()
    before = simulation.timetable.next_due()
    simulation.timetable.merge(rows, {}, simulation.now)
    assert simulation.timetable.next_due() == before
    assert simulation.timetable.places.taken == len(simulation.under_way)
    due = simulation.timetable.take_due(simulation.now)
    assert (due.starts, due.misses) == ((), ())


@settings(deadline=None)
@given(SEEDS, st.integers(-10_000_000, 10_000_000))
def test_a_wall_clock_that_jumps_moves_no_interval(seed, jump_s):
    rows = draw_entries(Random(seed), fixed=False)
    times = []
    for jump in (0, jump_s):
        timetable = Timetable(AGENT, running=100, heavy=100)
        timetable.merge(rows, {}, START)
        now, told = START, []
        for step in range(200):
            now = later(now, 37, jump if step == 20 else 0)
            due = timetable.take_due(now)
            for key, _ in due.starts:
                timetable.settle(key, Status.OK, Cause.VERDICT, now)
            told.append([start.key for start in due.starts])
        times.append(told)
    assert times[0] == times[1]


@settings(deadline=None, max_examples=40)
@given(st.times(), st.integers(1, 2), st.lists(st.integers(-40_000, 40_000), max_size=6))
def test_a_fixed_time_of_day_is_neither_left_out_nor_run_twice_when_the_clock_is_set(at, days, jumps):
    entry = make_entry(at=at, interval_s=days * DAY_S)
    timetable = Timetable(AGENT, running=1, heavy=1)
    timetable.merge([entry], {}, START)
    now, runs = START, []
    for step in range(days * 48 * 3):
        jump = jumps.pop() if jumps and step % 17 == 16 else 0
        now = later(now, 1800, jump)
        for key, _ in timetable.take_due(now).starts:
            timetable.settle(key, Status.OK, Cause.VERDICT, now)
            runs.append(now)
    # A clock set forward brings the next day nearer; then a day has passed on the clock itself.
    gaps = [max(b.steady_s - a.steady_s, b.wall_s - a.wall_s) for a, b in itertools.pairwise(runs)]
    assert all(gap >= days * DAY_S / 2 - 1800 for gap in gaps)
    assert runs
    due_s = timetable.next_due()
    assert due_s is not None
    # The time of day is as asked, by the clock as it is now.
    wall_s = due_s + now.wall_s - now.steady_s
    assert (wall_s - find_phase(entry, find_share(AGENT, entry.key))) % (days * DAY_S) == pytest.approx(0, abs=2)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(10, 30))
def test_neither_weight_starves_the_other(running, heavy, count):
    """Everybody is always due and runs long; still each gets its turn."""
    rows = [
        make_entry(f"org.pps.p{number}", interval_s=30, splay_s=0, heavy=bool(number % 2)) for number in range(count)
    ]
    timetable = Timetable(AGENT, running=running, heavy=heavy)
    timetable.merge(rows, {}, START)
    now, ran, under_way = START, Counter(), []
    for _ in range(count * 4):
        now = later(now, 30)
        under_way += [start.key for start in timetable.take_due(now).starts]
        key = under_way.pop(0)
        ran[key] += 1
        timetable.settle(key, Status.OK, Cause.VERDICT, now)
    assert len(ran) == count


def test_due_times_spread_evenly_and_are_the_same_after_a_restart():
    rows = [make_entry(f"org.pps.p{number}", interval_s=1000) for number in range(1000)]
    phases = sorted(find_phase(row, find_share(AGENT, row.key)) for row in rows)
    assert max(after - before for before, after in itertools.pairwise(phases)) < 20
    assert min(Counter(int(phase // 100) for phase in phases).values()) > 60
    past = {row.key: Past(START.wall_s - 1, Status.OK, 1, hard=True) for row in rows}
    assert run_many(rows, past, START) == run_many(rows, past, later(START, 20))


def run_many(rows, past, merged_at):
    """Give what ran from 20 s after START on, and when, in a timetable made at this moment."""
    timetable, now, started = Timetable(AGENT, running=999, heavy=1), merged_at, []
    timetable.merge(rows, past, now)
    while now.wall_s < START.wall_s + 500:
        now = later(now, 1)
        for key, _ in timetable.take_due(now).starts:
            started.append((round(now.wall_s), key))
            timetable.settle(key, Status.OK, Cause.VERDICT, now)
    # The first half of an interval belongs to the run before.
    return sorted(pair for pair in started if pair[0] > START.wall_s + 20)


def test_a_new_metric_runs_within_minutes_and_an_overdue_one_catches_up_once():
    new, overdue = make_entry(interval_s=DAY_S), make_entry("org.pps.m1", interval_s=DAY_S)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([new, overdue], {overdue.key: Past(START.wall_s - 9 * DAY_S, Status.OK, 1, hard=True)}, START)
    due = timetable.take_due(later(START, FIRST_WITHIN_S))
    assert {start.key for start in due.starts} == {new.key, overdue.key}
    assert due.misses == ()


def test_after_a_pause_a_metric_runs_once_and_the_missed_slots_are_told():
    entry = make_entry(splay_s=0)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([entry], {}, START)
    assert len(timetable.take_due(START).starts) == 1
    timetable.settle(entry.key, Status.OK, Cause.VERDICT, START)
    due = timetable.take_due(later(START, 6000))
    assert [start.key for start in due.starts] == [entry.key]
    assert [(miss.key, miss.slots) for miss in due.misses] == [(entry.key, 9)]
    assert "nobody looked in time" in due.misses[0].reason


def test_a_slot_whose_predecessor_still_runs_is_told():
    entry = make_entry(splay_s=0)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([entry], {}, START)
    assert len(timetable.take_due(START).starts) == 1
    due = timetable.take_due(later(START, 1200))
    assert due.starts == ()
    assert ["still lasts" in miss.reason for miss in due.misses] == [True]


def test_a_child_waits_for_a_parent_that_never_ran_and_has_it_run_first():
    parent = make_entry(interval_s=DAY_S, at=time(3, 15))
    child = make_entry("org.pps.m1", RELEASES[1], splay_s=0, depends_on=("org.pps.m0",))
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([parent, child], {}, START)
    assert [start.key for start in timetable.take_due(START).starts] == [parent.key]
    assert timetable.take_due(later(START, 1)).starts == ()
    timetable.settle(parent.key, Status.OK, Cause.VERDICT, later(START, 2))
    assert [start.key for start in timetable.take_due(later(START, 2)).starts] == [child.key]


def test_a_child_of_a_failed_parent_is_skipped_once_a_slot_and_runs_at_once_when_the_parent_is_well_again():
    parent = make_entry(interval_s=6000, splay_s=0)
    child = make_entry("org.pps.m1", RELEASES[1], interval_s=300, splay_s=0, depends_on=("org.pps.m0",), max_attempts=3)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([parent, child], {}, START)
    now = START
    timetable.take_due(now)
    timetable.settle(parent.key, Status.CRITICAL, Cause.VERDICT, now)
    told = []
    for _ in range(100):
        now = later(now, 10)
        due = timetable.take_due(now)
        told += due.skips
        assert due.starts == ()
    assert [(skip.key, skip.parent, skip.attempt, skip.hard) for skip in told] == [
        (child.key, parent.key, 1, False)
    ] * len(told)
    assert len(told) == 4  # the first run that was due at once, and three slots
    timetable.ask(parent.key, now)
    assert [start.key for start in timetable.take_due(now).starts] == [parent.key]
    timetable.settle(parent.key, Status.OK, Cause.VERDICT, now)
    assert [start.key for start in timetable.take_due(now).starts] == [child.key]


def test_entries_that_depend_on_themselves_are_refused_with_the_way_and_the_others_stay():
    first = make_entry(depends_on=("org.pps.m1",))
    second = make_entry("org.pps.m1", depends_on=("org.pps.m0",))
    other = make_entry("org.pps.m2", depends_on=("org.pps.m0",))
    timetable = Timetable(AGENT, running=9, heavy=1)
    circles = timetable.merge([first, second, other], {}, START)
    assert circles == {
        first.key: (first.key, second.key, first.key),
        second.key: (second.key, first.key, second.key),
    }
    assert [entry.key in timetable for entry in (first, second, other)] == [False, False, True]


def test_a_soft_result_is_tried_again_after_the_retry_interval_and_a_hard_one_waits_for_its_slot():
    entry = make_entry(splay_s=0, max_attempts=2)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([entry], {}, START)
    timetable.take_due(START)
    assert not timetable.settle(entry.key, Status.CRITICAL, Cause.VERDICT, later(START, 5)).hard
    assert timetable.next_due() == START.steady_s + 60
    timetable.take_due(later(START, 60))
    settled = timetable.settle(entry.key, Status.CRITICAL, Cause.VERDICT, later(START, 65))
    assert (settled.attempt, settled.hard, settled.is_change) == (2, True, True)
    assert timetable.next_due() > START.steady_s + 60 + 65


def test_a_lost_run_is_tried_again_and_counts_no_attempt():
    entry = make_entry(splay_s=0, max_attempts=2)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([entry], {}, START)
    timetable.take_due(START)
    settled = timetable.settle(entry.key, Status.UNKNOWN, Cause.LOST, later(START, 5))
    assert (settled.attempt, settled.hard, settled.is_change) == (1, False, False)
    assert timetable.next_due() == START.steady_s + 60


def test_a_reload_keeps_history_and_runs_and_forgets_what_is_gone():
    kept, gone = make_entry(splay_s=0, max_attempts=3), make_entry("org.pps.m1", splay_s=0)
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([kept, gone], {}, START)
    assert len(timetable.take_due(START).starts) == 2
    changed = make_entry(splay_s=0, max_attempts=2, heavy=True)
    timetable.merge([changed], {}, later(START, 1))
    assert timetable.places.taken == 2
    assert timetable.settle(gone.key, Status.CRITICAL, Cause.VERDICT, later(START, 2)).hard
    assert not timetable.settle(kept.key, Status.CRITICAL, Cause.VERDICT, later(START, 2)).hard
    timetable.merge([changed, gone], {}, later(START, 3))
    assert timetable.places.taken == 0
    assert {start.key for start in timetable.take_due(later(START, 60)).starts} == {kept.key, gone.key}
    assert timetable.settle(kept.key, Status.CRITICAL, Cause.VERDICT, later(START, 61)).hard


def test_a_result_of_a_round_counts_and_one_in_another_environment_does_not():
    entry = make_entry(splay_s=0, max_attempts=2, profile="one")
    timetable = Timetable(AGENT, running=9, heavy=1)
    timetable.merge([entry], {}, START)
    timetable.take_due(START)
    timetable.settle(entry.key, Status.OK, Cause.VERDICT, START)
    found = Past(START.wall_s + 5, Status.CRITICAL, 1, hard=False, profile="one")
    timetable.merge([entry], {entry.key: found}, later(START, 6))
    assert timetable.next_due() == START.steady_s + 65
    timetable.take_due(later(START, 65))
    assert timetable.settle(entry.key, Status.CRITICAL, Cause.VERDICT, later(START, 66)).hard
    timetable.merge([make_entry(splay_s=0, max_attempts=2, profile="two")], {}, later(START, 67))
    timetable.ask(entry.key, later(START, 70))
    timetable.take_due(later(START, 70))
    assert not timetable.settle(entry.key, Status.CRITICAL, Cause.VERDICT, later(START, 71)).hard
