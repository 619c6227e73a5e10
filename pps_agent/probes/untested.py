"""Results of slots in which nothing was tested: skipped, missed, lost, or lacking something. Pure."""

from datetime import UTC, datetime
from typing import Final

from pps_agent.probes.parse import clean_line
from pps_agent.probes.slots import Key
from pps_agent.state import ProbeResult
from pps_wire.report import Cause, Status

_MAX_SUMMARY_CHARS: Final = 512


def untested(key: Key, cause: Cause, reason: str, at: datetime, *, digest: str = "") -> ProbeResult:
    """Give the UNKNOWN result that says why a metric was not tested."""
    summary = clean_line(reason)
    if len(summary) > _MAX_SUMMARY_CHARS:
        summary = f"{summary[: _MAX_SUMMARY_CHARS - 1]}…"
    return ProbeResult(key.metric, key.release, Status.UNKNOWN, summary, "", at, 0.0, cause=cause, digest=digest)


def skipped(key: Key, parent: Key, at: datetime, *, digest: str = "") -> ProbeResult:
    """Give the result of a slot that was skipped for a parent that is not OK."""
    where = f" on {parent.release}" if parent.release is not None and parent.release != key.release else ""
    return untested(key, Cause.DEPENDENCY, f"dependency: {parent.metric}{where} is not OK", at, digest=digest)


def missed(key: Key, slots: int, reason: str, at: datetime, *, digest: str = "") -> ProbeResult:
    """Give the result of slots that passed without a run."""
    count = "a slot was" if slots == 1 else f"{slots} slots were"
    return untested(key, Cause.MISSED, f"{count} missed: {reason}", at, digest=digest)


def moment(wall_s: float) -> datetime:
    """Give seconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(wall_s, UTC)
