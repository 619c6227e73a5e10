"""The timetable: which probe is due when, and what is known of each. Pure: time and results are arguments.

It never forgets a slot in silence. A slot either starts a run, or is told: skipped, because what the metric
depends on is not OK, or missed, because the run before still lasts or waits, or because nobody looked in time.
After a pause each metric runs once, not once for each slot that passed. Deadlines lie on the steady clock, so
that a clock set anew moves only the entries with a fixed time of day.

A metric whose parent is not OK, for good, is not run; one whose parent never ran has it run first and waits.
"""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pps_agent.probes.places import Places
from pps_agent.probes.rows import REASONS, Phase, Row
from pps_agent.probes.slots import (
    Entry,
    Instant,
    Key,
    Past,
    find_circles,
    find_parents,
    find_place,
    find_share,
)
from pps_wire.report import Cause, Status

_JUMP_S: Final = 1.0
"""A difference between the clocks that is a jump, not the drift that time servers correct."""
_PAUSE: Final = "nobody looked in time: the agent was stopped, or the machine paused or overloaded"


class Start(NamedTuple):
    """A run to start now, and how late that is, in seconds."""

    key: Key
    late_s: float


class Skip(NamedTuple):
    """A slot without a run, since ``parent`` is not OK. Attempt and state are what they were."""

    key: Key
    parent: Key
    attempt: int
    hard: bool


class Miss(NamedTuple):
    """Slots that passed without a run of their own. Attempt and state are what they were."""

    key: Key
    slots: int
    reason: str
    attempt: int
    hard: bool


class Due(NamedTuple):
    """What one look at the timetable gives."""

    starts: tuple[Start, ...]
    skips: tuple[Skip, ...]
    misses: tuple[Miss, ...]


class Settled(NamedTuple):
    """What a result means: its attempt, whether the state is hard, and whether the hard state is another one now."""

    attempt: int
    hard: bool
    is_change: bool


class Timetable:
    """All rows. ``running`` runs may be under way at a time, ``heavy`` of them heavy ones."""

    def __init__(self, agent: str, *, running: int, heavy: int) -> None:
        self._agent = agent
        self._rows: dict[Key, Row] = {}
        self._retired: dict[Key, Row] = {}
        self._parents: dict[Key, tuple[Key, ...]] = {}
        self._children: dict[Key, list[Key]] = {}
        self._heap: list[tuple[float, int, Row]] = []
        self._stamps = itertools.count(1)
        self._skips: list[Skip] = []
        self._offset_s: float | None = None
        self.places: Places[Key] = Places(running=running, heavy=heavy)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def next_due(self) -> float | None:
        """Give when to look again, on the steady clock, if nothing is settled before; None for never."""
        if self._skips or self.places.has_next():
            return 0.0
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def merge(self, entries: Iterable[Entry], history: Mapping[Key, Past], now: Instant) -> dict[Key, tuple[Key, ...]]:
        """Take these entries in place of the present ones; give those left out, which depend on themselves, and how.

        What stays keeps its due time, its history and the run under way. A result in ``history`` that is newer than
        what is known here counts, for a round may have probed meanwhile.
        """
        wanted = {entry.key: entry for entry in entries}
        circles = find_circles(find_parents(wanted))
        wanted = {key: entry for key, entry in wanted.items() if key not in circles}
        for key in self._rows.keys() - wanted.keys():
            self._drop(key)
        for key, entry in wanted.items():
            self._put(entry, history.get(key), now)
        self._parents = find_parents(wanted)
        self._children = {}
        for key, parents in self._parents.items():
            for parent in parents:
                self._children.setdefault(parent, []).append(key)
        self._heap = [(row.due_s, row.stamp, row) for row in self._rows.values()]
        heapq.heapify(self._heap)
        for row in self._rows.values():
            self._try_again(row, now)
        return circles

    def take_due(self, now: Instant, early_s: float = 0.0) -> Due:
        """Give what is to be done now. What is started counts as running until it is settled.

        With ``early_s`` what comes due so soon starts now: several starts together cost less than each alone.
        """
        self._follow_clock(now)
        until = Instant(now.steady_s + early_s, now.wall_s + early_s)
        misses: list[Miss] = []
        while self._heap and self._heap[0][0] <= until.steady_s:
            item = heapq.heappop(self._heap)
            if not self._is_stale(item):
                misses.extend(self._fire(item[2], until))
        starts = tuple(self._start(now))
        # A parent may have come right since a child was skipped for it: then the child is due.
        skips = tuple(skip for skip in self._skips if self._is_at_fault(skip.key))
        self._skips = []
        return Due(starts, skips, tuple(misses))

    def settle(self, key: Key, status: Status, cause: Cause, now: Instant) -> Settled:
        """Note the result of a run that was started, and say what it means."""
        row = self._retired.pop(key, None) or self._rows[key]
        self.places.free(heavy=row.entry.heavy)
        row.phase = Phase.IDLE
        settled = Settled(*row.note(status, cause))
        if key in self._rows:
            if cause is Cause.LOST or row.is_soft:
                retry_s = max(now.steady_s, row.started_s + row.entry.retry_interval_s)
                self._schedule(row, min(row.slot_s, retry_s))
            self._wake_children(key, now)
        return settled

    def ask(self, key: Key, now: Instant) -> bool:
        """Have a metric run as soon as there is room; False where it is not in the timetable."""
        row = self._rows.get(key)
        if row is not None and row.phase is Phase.IDLE:
            self._schedule(row, min(row.due_s, now.steady_s))
        return row is not None

    # --- rows

    def _drop(self, key: Key) -> None:
        row = self._rows.pop(key)
        if row.phase is Phase.RUNNING:
            self._retired[key] = row
        else:
            self.places.withdraw(key)

    def _put(self, entry: Entry, past: Past | None, now: Instant) -> None:
        """Add an entry, or let it take the place of the one before."""
        key = entry.key
        row = self._rows.get(key) or self._retired.pop(key, None) or Row(entry, find_share(self._agent, key))
        stays = key in self._rows and entry.has_rhythm_of(row.entry)
        if row.entry.heavy is not entry.heavy:
            self._reweigh(row, heavy=entry.heavy)
        self._rows[key], row.entry = row, entry
        is_news = past is not None and row.is_news(past)
        if past is not None and is_news:
            row.learn(past)
        if row.past is not None and row.past.profile != entry.profile:
            row.past, row.hard_status = None, None
        if not stays:
            due_s, slot_s = find_place(entry, row.share, row.past, now.wall_s)
            row.slot_wall_s, row.slot_s = slot_s, now.steady_s + slot_s - now.wall_s
            self._schedule(row, now.steady_s + due_s - now.wall_s)
        elif is_news and row.past is not None and row.is_soft:
            retry_s = now.steady_s + max(0.0, row.past.wall_s + entry.retry_interval_s - now.wall_s)
            self._schedule(row, min(row.due_s, retry_s))

    def _reweigh(self, row: Row, *, heavy: bool) -> None:
        if row.phase is Phase.RUNNING:
            self.places.reweigh(heavy=heavy)
        elif row.phase is Phase.WAITING:
            self.places.queue(row.entry.key, heavy=heavy)

    def _schedule(self, row: Row, due_s: float) -> None:
        row.due_s, row.stamp = due_s, next(self._stamps)
        heapq.heappush(self._heap, (due_s, row.stamp, row))

    def _is_stale(self, item: tuple[float, int, Row]) -> bool:
        _, stamp, row = item
        return row.stamp != stamp or self._rows.get(row.entry.key) is not row

    def _follow_clock(self, now: Instant) -> None:
        """After a jump of the wall clock, move the fixed times of day with it."""
        offset_s = now.wall_s - now.steady_s
        if self._offset_s is None:
            self._offset_s = offset_s
        if abs(offset_s - self._offset_s) <= _JUMP_S:
            return
        self._offset_s = offset_s
        for row in self._rows.values():
            if row.entry.at is not None:
                retry_s = row.due_s if row.due_s < row.slot_s else math.inf
                row.follow_jump(now)
                self._schedule(row, min(retry_s, row.slot_s))

    # --- what is due

    def _fire(self, row: Row, now: Instant) -> Iterator[Miss]:
        """Go on from a due time: to a run, or to what says why there is none."""
        due_s = row.due_s
        is_slot = now.steady_s >= row.slot_s
        behind = row.pass_slots(now) if is_slot else 0
        self._schedule(row, row.slot_s)
        if row.phase is not Phase.IDLE:
            if is_slot:
                yield Miss(row.entry.key, behind + 1, REASONS[row.phase], *row.state())
            return
        if behind:
            yield Miss(row.entry.key, behind, _PAUSE, *row.state())
        row.since_s = due_s
        self._admit(row, now)

    def _admit(self, row: Row, now: Instant) -> None:
        """Let a row that is due wait for a place, for its parents' first results, or for better times."""
        parents = [self._rows[parent] for parent in self._parents[row.entry.key]]
        unseen = [parent for parent in parents if parent.is_unseen]
        if unseen:
            row.phase = Phase.BLOCKED
            for parent in unseen:
                if parent.phase is Phase.IDLE:
                    self._schedule(parent, min(parent.due_s, now.steady_s))
        elif (fault := self._find_fault(row)) is not None:
            self._skip(row, fault, now)
        else:
            row.phase = Phase.WAITING
            self.places.queue(row.entry.key, heavy=row.entry.heavy)

    def _skip(self, row: Row, fault: Key, now: Instant) -> None:
        row.phase, row.is_skipped = Phase.IDLE, True
        self._skips.append(Skip(row.entry.key, fault, *row.state()))
        self._wake_children(row.entry.key, now)

    def _find_fault(self, row: Row) -> Key | None:
        """Give a parent that is not OK, or whose own parents are not; None when all are."""
        for key in self._parents[row.entry.key]:
            parent = self._rows[key]
            if not parent.is_fit or self._find_fault(parent) is not None:
                return key
        return None

    def _is_at_fault(self, key: Key) -> bool:
        row = self._rows.get(key)
        return row is not None and self._find_fault(row) is not None

    def _wake_children(self, key: Key, now: Instant) -> None:
        """Let those go on that waited for a first result, or were skipped until their parent is OK again."""
        for child in self._children.get(key, ()):
            row = self._rows[child]
            if row.is_skipped and row.phase is Phase.IDLE and self._find_fault(row) is None:
                self._schedule(row, min(row.due_s, now.steady_s))
            self._try_again(row, now)

    def _try_again(self, row: Row, now: Instant) -> None:
        if row.phase is Phase.BLOCKED:
            row.phase = Phase.IDLE
            self._admit(row, now)

    def _start(self, now: Instant) -> Iterator[Start]:
        while (key := self.places.take_next()) is not None:
            row = self._rows[key]
            if (fault := self._find_fault(row)) is not None:  # it failed while this one waited
                self.places.free(heavy=row.entry.heavy)
                self._skip(row, fault, now)
                continue
            row.phase = Phase.RUNNING
            row.started_s, row.started_wall_s = now.steady_s, now.wall_s
            yield Start(key, max(0.0, now.steady_s - row.since_s))
