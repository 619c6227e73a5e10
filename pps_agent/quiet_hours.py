"""Hours in which a site wants no change, e.g. ``mon-fri 08:00-18:00``. Pure.

A span is of wall-clock time, so it follows summer time by itself: an hour that is skipped is never
quiet, one that comes twice is quiet twice. Grammar (letter case is free)::

    [DAYS] HH:MM-HH:MM        DAYS: mon, tue-thu, "sat,sun"; none means every day
    DAYS                      the whole of these days

The end is not part of the span, 24:00 ends a day, and a span whose end is not after its begin goes
on over midnight: ``fri 22:00-06:00`` ends on Saturday.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_EXAMPLE: Final = "write e.g. 'mon-fri 08:00-18:00', '22:00-06:00' or 'sat,sun'"
_SPAN = re.compile(r"(?:(?P<days>[a-z][a-z,-]*))?(?:(?:^| +)(?P<begin>[0-9]{2}:[0-9]{2})-(?P<end>[0-9]{2}:[0-9]{2}))?")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """One entry as written, and the spans it means: minutes of the week, end after begin, maybe past its end."""

    text: str
    spans: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return self.text


def parse_quiet_hours(text: str) -> QuietHours:
    """Read one entry. Raises: ValueError and nothing else, for any text."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None or not found[0]:
        raise ValueError(f"{text[:80]!r} is no span of time: {_EXAMPLE}")
    days = _parse_days(found["days"]) if found["days"] else range(7)
    begin, end = (_parse_time(found["begin"]), _parse_time(found["end"])) if found["begin"] else (0, _DAY)
    if begin in (_DAY, end):
        raise ValueError(f"{text[:80]!r} begins where it ends: for a whole day write 00:00-24:00")
    length = end - begin if end > begin else end - begin + _DAY
    return QuietHours(text.strip(), tuple((day * _DAY + begin, day * _DAY + begin + length) for day in sorted(days)))


def describe_quiet(hours: Iterable[QuietHours], local: datetime) -> str:
    """Say until when it is quiet at this moment of the site's wall clock; empty when it is not."""
    week = _mark(hours)
    minute = local.weekday() * _DAY + local.hour * 60 + local.minute
    if not week[minute]:
        return ""
    end = next((step for step in range(_WEEK) if not week[(minute + step) % _WEEK]), None)
    if end is None:
        return "quiet hours without end"
    day, rest = divmod((minute + end) % _WEEK, _DAY)
    return f"quiet hours until {DAYS[day]} {rest // 60:02}:{rest % 60:02}"


def is_always_quiet(hours: Iterable[QuietHours]) -> bool:
    """Tell whether the entries leave no minute of the week."""
    return all(_mark(hours))


def _mark(hours: Iterable[QuietHours]) -> bytearray:
    """Give one byte a minute of the week, 1 where it is quiet."""
    week = bytearray(_WEEK)
    for entry in hours:
        for begin, end in entry.spans:
            for minute in range(begin, end):
                week[minute % _WEEK] = 1
    return week


def _parse_days(text: str) -> set[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        for name in (first, last) if dash else (first,):
            if name not in DAYS:
                raise ValueError(f"{name!r} is no day of the week ({', '.join(DAYS)}): {_EXAMPLE}")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        days |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return days


def _parse_time(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute >= 60 or hour * 60 + minute > _DAY:
        raise ValueError(f"{text!r} is no time of the day: 00:00 to 24:00")
    return hour * 60 + minute
