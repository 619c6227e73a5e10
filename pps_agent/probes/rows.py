"""One row of the timetable: an entry, where it stands, and its slots on both clocks. Pure."""

import math
from enum import Enum, auto
from typing import Final

from pps_agent.probes.attempts import UNCOUNTED, advance
from pps_agent.probes.slots import Entry, Instant, Past, find_phase, is_soft, next_slot
from pps_wire.report import Cause, Status


class Phase(Enum):
    """Where a row stands."""

    IDLE = auto()
    BLOCKED = auto()
    """Due, but what it depends on never ran yet."""
    WAITING = auto()
    RUNNING = auto()


REASONS: Final = {
    Phase.BLOCKED: "what it depends on has no result yet",
    Phase.WAITING: "the run before still waits for a place: see probes.running and probes.heavy",
    Phase.RUNNING: "the run before still lasts: its timeout_s may be longer than its interval_s",
}


class Row:
    """One entry and its state. ``slot_*`` is the next slot on both clocks, ``due_s`` the next event."""

    __slots__ = (
        *("entry", "share", "phase", "slot_s", "slot_wall_s", "due_s", "stamp", "since_s", "started_s"),
        *("started_wall_s", "past", "hard_status", "is_skipped"),
    )

    def __init__(self, entry: Entry, share: float) -> None:
        self.entry, self.share = entry, share
        self.phase = Phase.IDLE
        self.slot_s = self.slot_wall_s = self.due_s = self.since_s = 0.0
        self.started_s = self.started_wall_s = -math.inf
        self.stamp = 0
        self.past: Past | None = None
        self.hard_status: Status | None = None
        self.is_skipped = False

    def state(self) -> tuple[int, bool]:
        """Give attempt and hard state as they are."""
        return advance(self.past, self.entry.max_attempts, Status.UNKNOWN, Cause.MISSED)

    def note(self, status: Status, cause: Cause) -> tuple[int, bool, bool]:
        """Take the result of the run; give its attempt, whether the state is hard, and whether that is a change."""
        attempt, hard = advance(self.past, self.entry.max_attempts, status, cause)
        if cause in UNCOUNTED:
            return attempt, hard, False
        self.past, self.is_skipped = Past(self.started_wall_s, status, attempt, hard, self.entry.profile), False
        is_change = hard and status is not self.hard_status
        self.hard_status = status if hard else self.hard_status
        return attempt, hard, is_change

    @property
    def is_soft(self) -> bool:
        """Whether more attempts decide."""
        return self.past is not None and is_soft(self.past.status, hard=self.past.hard)

    @property
    def is_unseen(self) -> bool:
        """Whether nothing at all is known of it yet."""
        return self.past is None and not self.is_skipped

    @property
    def is_fit(self) -> bool:
        """Whether what depends on it may run: OK, or not yet found otherwise for good."""
        return self.past is not None and (self.past.status is Status.OK or not self.past.hard)

    def is_news(self, past: Past | None) -> bool:
        """Tell whether something happened that this row does not know."""
        return past is not None and (self.past is None or past.wall_s > self.past.wall_s)

    def learn(self, past: Past) -> None:
        """Take over what another round found."""
        self.past, self.is_skipped = past, False
        self.hard_status = past.status if past.hard else self.hard_status

    def pass_slots(self, now: Instant) -> int:
        """Go on to the first slot after now; give how many were passed, that of now not counted."""
        interval_s = self.entry.interval_s
        if self.entry.at is not None:
            behind = max(0, int((now.wall_s - self.slot_wall_s) // interval_s))
            self.slot_wall_s += (behind + 1) * interval_s
            self.slot_s = now.steady_s + self.slot_wall_s - now.wall_s
        else:
            behind = int((now.steady_s - self.slot_s) // interval_s)
            self.slot_s += (behind + 1) * interval_s
        return behind

    def follow_jump(self, now: Instant) -> None:
        """Find the fixed time of day on a clock that was set anew: not left out, and not run twice."""
        if self.slot_wall_s > now.wall_s:
            interval_s = self.entry.interval_s
            self.slot_wall_s = next_slot(find_phase(self.entry, self.share), interval_s, now.wall_s)
            if self.slot_wall_s - now.wall_s + now.steady_s - self.started_s < interval_s / 2:
                self.slot_wall_s += interval_s
        self.slot_s = now.steady_s + max(0.0, self.slot_wall_s - now.wall_s)
