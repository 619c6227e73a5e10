"""The one place that looks at the clock; everything else is told the time."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Give the present time, aware and in UTC."""
    return datetime.now(UTC)
