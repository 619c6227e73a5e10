"""How states, times and untrusted text are put before people. Pure.

A status is always a word, a shape and a colour: any one of them is enough to read it.
"""

import unicodedata
from datetime import UTC, datetime
from enum import Enum
from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400


class Tone(Enum):
    """What a state means for the reader; each has its shape and colour in the style sheet."""

    GOOD = "good"
    BUSY = "busy"
    WARN = "warn"
    BAD = "bad"
    QUIET = "quiet"


_WORDS: Final[dict[str, tuple[str, Tone]]] = {
    "release:offered": ("offered", Tone.BUSY),
    "release:refused": ("refused", Tone.QUIET),
    "release:failed": ("failed", Tone.BAD),
    "release:installed": ("installed", Tone.BUSY),
    "release:broken": ("broken", Tone.BAD),
    "release:verified": ("verified", Tone.GOOD),
    "release:tagged": ("tagged", Tone.GOOD),
    "release:draining": ("draining", Tone.WARN),
    "release:removed": ("removed", Tone.QUIET),
    "release:awaiting-config": ("awaiting configuration", Tone.BUSY),
    "release:handed-over": ("handed over", Tone.QUIET),
    "release:": ("not reported", Tone.QUIET),
    "probe:ok": ("OK", Tone.GOOD),
    "probe:warning": ("WARNING", Tone.WARN),
    "probe:critical": ("CRITICAL", Tone.BAD),
    "probe:unknown": ("UNKNOWN", Tone.QUIET),
    "tag:published": ("published", Tone.GOOD),
    "tag:listed": ("listed, not yet visible", Tone.BUSY),
    "tag:missing": ("missing", Tone.BAD),
    "tag:removed": ("removed", Tone.QUIET),
    "round:ok": ("ok", Tone.GOOD),
    "round:failed": ("with failures", Tone.BAD),
}


def word_of(kind: str, state: str) -> str:
    """Give the word shown for a state, e.g. ``tag``, ``listed``."""
    return _WORDS.get(f"{kind}:{state}", (state, Tone.QUIET))[0]


def tone_of(kind: str, state: str) -> str:
    """Give the tone of a state, e.g. ``good``."""
    return _WORDS.get(f"{kind}:{state}", (state, Tone.QUIET))[1].value


def age_of(at: datetime, now: datetime) -> str:
    """Say how long ago something was, e.g. ``12 min ago``; never a negative time."""
    return f"{span_of((now - at).total_seconds())} ago"


def span_of(seconds: float) -> str:
    """Say how long something takes, in its largest unit but one, e.g. ``5 h 12 min``."""
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        hours, minutes = divmod(whole // _MINUTE_S, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(whole // _HOUR_S, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def stamp_of(at: datetime) -> str:
    """Give a time for people, e.g. ``2026-11-22 19:49 UTC``."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso_of(at: datetime) -> str:
    """Give a time for programs, e.g. ``2026-11-22T19:49:03Z``."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def visible(text: str) -> str:
    """Make untrusted text show what it is: controls and direction marks become a sign of their own.

    Escaping for HTML is the template's work, not done here.
    """
    return "".join(one if one == "\n" or unicodedata.category(one) not in _UNSEEN else _SIGN for one in text)


_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_SIGN: Final = "\N{REPLACEMENT CHARACTER}"
