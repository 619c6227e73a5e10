"""Quiet hours: any text is spans or a ValueError, and spans mean what a wall clock shows."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.quiet_hours import DAYS, describe_quiet, is_always_quiet, parse_quiet_hours

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
times = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda time: f"{time[0]:02}:{time[1]:02}")
days = st.sampled_from(DAYS) | st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map("-".join)
texts = st.one_of(
    st.text(max_size=30),
    st.text("monfri0189:-, ", max_size=20),
    st.tuples(days, times, times).map(lambda parts: f"{parts[0]} {parts[1]}-{parts[2]}"),
)


@given(texts, st.integers(0, 7 * 1440 - 1))
def test_any_text_is_spans_or_a_value_error(text: str, minute: int) -> None:
    try:
        entry = parse_quiet_hours(text)
    except ValueError:
        return
    assert entry.spans
    assert all(begin < end <= begin + 1440 for begin, end in entry.spans)
    said = describe_quiet([entry], MONDAY + timedelta(minutes=minute, seconds=59))
    inside = any(begin <= moment < end for begin, end in entry.spans for moment in (minute, minute + 7 * 1440))
    assert bool(said) == inside


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("mon-fri 08:00-18:00", "mon 08:00", "quiet hours until mon 18:00"),
        ("mon-fri 08:00-18:00", "mon 18:00", ""),
        ("mon-fri 08:00-18:00", "sat 12:00", ""),
        ("fri 22:00-06:00", "sat 05:59", "quiet hours until sat 06:00"),
        ("sun 22:00-06:00", "mon 03:00", "quiet hours until mon 06:00"),
        ("fri-mon", "mon 12:00", "quiet hours until tue 00:00"),
        ("22:00-24:00", "wed 23:59", "quiet hours until thu 00:00"),
        ("SAT,sun 10:00-12:00", "sun 11:00", "quiet hours until sun 12:00"),
    ],
)
def test_spans_mean_what_they_say(text: str, at: str, said: str) -> None:
    day, _, time = at.partition(" ")
    hour, minute = time.split(":")
    moment = MONDAY + timedelta(days=DAYS.index(day), hours=int(hour), minutes=int(minute))
    assert said == describe_quiet([parse_quiet_hours(text)], moment)


@pytest.mark.parametrize(
    "text", ["", "mon 8:00-9:00", "moon", "mon 08:00", "25:00-26:00", "08:60-09:00", "mon 08:00-08:00", "24:00-08:00"]
)
def test_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|00:00 to 24:00"):
        parse_quiet_hours(text)


def test_quiet_hours_follow_summer_time() -> None:
    night = [parse_quiet_hours("sun 02:30-03:00")]
    zone = ZoneInfo("Europe/Zurich")
    twice = [datetime(2026, 10, 25, hour, 45, tzinfo=UTC).astimezone(zone) for hour in (0, 1)]
    assert all(describe_quiet(night, moment) for moment in twice)
    skipped = [datetime(2026, 3, 29, 0, 0, tzinfo=UTC) + timedelta(minutes=step) for step in range(0, 180, 5)]
    assert not any(describe_quiet(night, moment.astimezone(zone)) for moment in skipped)


def test_a_week_without_a_gap_is_seen() -> None:
    assert is_always_quiet([parse_quiet_hours("mon-fri"), parse_quiet_hours("sat,sun")])
    assert not is_always_quiet([parse_quiet_hours("mon-sun 00:01-24:00")])
    assert not is_always_quiet([])
