"""The newest results and the agent's own state as files that anybody may read.

``results.jsonl`` has one line for each metric and release, always in this order of keys, so that a reader finds
its line by how it begins::

    {"metric":"org.pps.sys.disk","release":"","status":"OK","cause":"verdict","summary":"…","perfdata":"…",
     "at":"2026-11-27T10:00:00Z","fresh_until":"2026-11-27T10:11:00Z","attempt":1,"hard":true,"details":"…",
     "duration_s":0.2}

``release`` is empty for the production client. ``agent.json`` is one object, see ``AgentState``. Both are
replaced in one step and never flushed: they are made anew all the time.
"""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.errors import SiteError
from pps_agent.probes.render import strip_status
from pps_agent.probes.slots import Key
from pps_agent.state import ProbeResult
from pps_wire.names import Subcluster, Tag

RESULTS_NAME: Final = "results.jsonl"
AGENT_NAME: Final = "agent.json"
MAX_DETAIL_BYTES: Final = 2048
_CUT: Final = "\n[…]"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``results.jsonl``; the order of the fields is part of the format."""

    metric: str
    release: str
    status: str
    cause: str
    summary: str
    perfdata: str
    at: datetime
    fresh_until: datetime
    attempt: int
    hard: bool
    details: str
    duration_s: float


class Tagging(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent's tags are to be seen, for the probe wn.tags; ``url`` None: in no information system.

    ``tags`` are those of its releases that stood on each subcluster's lists when the last round ended; None: not known.
    """

    base: str
    subclusters: tuple[str, ...]
    url: str | None
    ldap_base: str
    tags: Mapping[Subcluster, tuple[Tag, ...]] | None = None


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """``agent.json``: how the agent itself is, for the probe agent.self and for others. Times in UTC.

    ``misfires`` counts slots missed since the start, ``due_lag_s`` is how late the latest run started,
    ``outbox_oldest_at`` since when the oldest result waits for the collector.
    """

    written_at: datetime
    site: str
    running: int
    misfires: int
    due_lag_s: float
    round_interval_s: int
    round_ended_at: datetime | None = None
    metadata_expires_at: datetime | None = None
    outbox_waiting: int = 0
    outbox_oldest_at: datetime | None = None
    tagging: Tagging | None = None


class Publisher:
    """Writes both files below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lines: dict[Key, bytes] = {}

    def note(self, result: ProbeResult, fresh_s: int) -> None:
        """Take a result as the newest of its metric and release."""
        self._lines[Key(result.probe, result.release)] = render_line(result, fresh_s)

    def forget_others(self, keys: Iterable[Key]) -> None:
        """Drop the lines of all other metrics and releases."""
        wanted = set(keys)
        self._lines = {key: line for key, line in self._lines.items() if key in wanted}

    def write(self, state: AgentState) -> None:
        """Put both files in place. Raises: SiteError."""
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._replace(RESULTS_NAME, b"".join(self._lines.values()))
            self._replace(AGENT_NAME, msgspec.json.encode(state) + b"\n")
        except OSError as exc:
            raise SiteError(f"{self._directory}: {exc.strerror}: let the agent write there, or unset it") from exc

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self._directory / f".{name}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        temporary.rename(self._directory / name)


def render_line(result: ProbeResult, fresh_s: int) -> bytes:
    """Give a result as one line of ``results.jsonl``."""
    line = Line(
        metric=result.probe,
        release=result.release or "",
        status=result.status.name,
        cause=result.cause.value,
        summary=strip_status(result.summary, result.status),
        perfdata=result.perfdata,
        at=result.started_at,
        fresh_until=result.started_at + timedelta(seconds=fresh_s),
        attempt=result.attempt,
        hard=result.hard,
        details=_cut(result.details),
        duration_s=result.duration_s,
    )
    return msgspec.json.encode(line) + b"\n"


def _cut(details: str) -> str:
    if len(details) <= MAX_DETAIL_BYTES // 4:
        return details
    content = details.encode()
    if len(content) <= MAX_DETAIL_BYTES:
        return details
    return content[: MAX_DETAIL_BYTES - len(_CUT.encode())].decode(errors="ignore") + _CUT
