"""When a metric is due: entries of the timetable, and the grid of their slots. Values and pure functions.

The slots of an entry lie on a grid in time: ``phase + n * interval`` seconds since 1970. The phase comes
from a hash, so that a thousand metrics, and a thousand sites, spread evenly and find their places again
after each start; a fixed time of day is a phase that a person chose.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from typing import Final, NamedTuple

from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Status

DAY_S: Final = 86_400
FIRST_WITHIN_S: Final = 300
"""A metric that never ran, or is overdue, runs within this time: nobody waits a day to see a new one."""


class Key(NamedTuple):
    """What a row of the timetable is for: a metric on a release, or (None) on the production client."""

    metric: ProbeName
    release: ReleaseId | None


class Instant(NamedTuple):
    """One moment on both clocks, in seconds: a steady one that never jumps, and UTC since 1970."""

    steady_s: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the timetable: what is run, how often, and what must be OK before.

    ``splay_s`` is the window over which a hash spreads it, ``at`` a fixed time of day (UTC) instead.
    ``profile`` names the environment it runs in: in another one, earlier results prove nothing.
    """

    key: Key
    interval_s: int
    retry_interval_s: int
    max_attempts: int = 1
    splay_s: int | None = None
    at: time | None = None
    heavy: bool = False
    depends_on: tuple[ProbeName, ...] = ()
    profile: str = ""

    def has_rhythm_of(self, other: "Entry") -> bool:
        """Tell whether both have the same slots."""
        return (self.interval_s, self.splay_s, self.at) == (other.interval_s, other.splay_s, other.at)


class Past(NamedTuple):
    """The newest result of a key that counted, in seconds since 1970, and the environment it was had in."""

    wall_s: float
    status: Status
    attempt: int
    hard: bool
    profile: str = ""


class Place(NamedTuple):
    """When an entry is due first, and the slot that follows, in seconds since 1970."""

    due_s: float
    slot_s: float


def find_share(agent: str, key: Key) -> float:
    """Give a number in [0, 1) that is always the same for one metric, release and agent."""
    digest = hashlib.sha256(f"{agent}\n{key.metric}\n{key.release or ''}\n".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def find_phase(entry: Entry, share: float) -> float:
    """Give where in its interval an entry's slots lie, in seconds."""
    if entry.at is not None:
        days = max(1, entry.interval_s // DAY_S)
        return int(share * days) * DAY_S + entry.at.hour * 3600 + entry.at.minute * 60 + entry.at.second
    return share * _find_window(entry)


def _find_window(entry: Entry) -> float:
    """Give the seconds over which an entry may be spread."""
    if entry.at is not None:
        return 0.0
    return entry.interval_s if entry.splay_s is None else min(entry.splay_s, entry.interval_s)


def next_slot(phase_s: float, interval_s: float, after_s: float) -> float:
    """Give the first slot after a moment."""
    slot_s = phase_s + (math.floor((after_s - phase_s) / interval_s) + 1) * interval_s
    return slot_s if slot_s > after_s else slot_s + interval_s


def find_place(entry: Entry, share: float, past: Past | None, wall_s: float) -> Place:
    """Say when an entry that is new in the timetable is due, in view of what is remembered of it.

    One that ran within its interval waits for its next slot, or for its next attempt while it is soft. One that is
    overdue or never ran runs soon, spread over a short while; with a fixed time of day, only when it is overdue.
    """
    phase_s = find_phase(entry, share)
    age_s = None if past is None else max(0.0, wall_s - past.wall_s)
    if age_s is None and entry.at is not None:
        slot_s = next_slot(phase_s, entry.interval_s, wall_s)
        return Place(slot_s, slot_s)
    gap_s = 0.0 if entry.at is not None else entry.interval_s / 2  # a spread slot may come a little later
    if age_s is None or age_s >= entry.interval_s:
        due_s = wall_s + share * min(_find_window(entry), FIRST_WITHIN_S)
        return Place(due_s, next_slot(phase_s, entry.interval_s, due_s + gap_s))
    slot_s = next_slot(phase_s, entry.interval_s, wall_s + max(0.0, gap_s - age_s))
    if past is not None and is_soft(past.status, hard=past.hard):
        return Place(min(slot_s, wall_s + max(0.0, entry.retry_interval_s - age_s)), slot_s)
    return Place(slot_s, slot_s)


def is_soft(status: Status | None, *, hard: bool) -> bool:
    """Tell whether more attempts decide."""
    return status not in (None, Status.OK) and not hard


def find_parents(entries: Mapping[Key, Entry]) -> dict[Key, tuple[Key, ...]]:
    """Give what each entry depends on: on its release, else on the production client; nothing that is not there."""
    parents: dict[Key, tuple[Key, ...]] = {}
    for key, entry in entries.items():
        nearest = ((Key(name, key.release), Key(name, None)) for name in entry.depends_on)
        found = (next((near for near in pair if near in entries), None) for pair in nearest)
        parents[key] = tuple(dict.fromkeys(parent for parent in found if parent is not None))
    return parents


def find_circles(parents: Mapping[Key, tuple[Key, ...]]) -> dict[Key, tuple[Key, ...]]:
    """Give each key that depends on itself, with the way from it back to it."""
    circles: dict[Key, tuple[Key, ...]] = {}
    for key in parents:
        ways: list[tuple[Key, ...]] = [(key,)]
        seen: set[Key] = set()
        while ways and key not in circles:
            way = ways.pop()
            for parent in parents[way[-1]]:
                if parent == key:
                    circles[key] = (*way, key)
                elif parent not in seen:
                    seen.add(parent)
                    ways.append((*way, parent))
    return circles
