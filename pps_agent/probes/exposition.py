"""The newest results as Prometheus reads them: text exposition format 0.0.4. Pure.

::

    pps_probe_status{metric="org.pps.sys.disk"} 0
    pps_probe_value{metric="org.pps.sys.disk",label="/ free",unit="GB"} 12.5
    pps_agent_outbox_records 3

``release`` stands where a preview was tested, ``host`` where a node was. A result that is no longer renewed stays,
with the time until which it counts: alert on ``time() > pps_probe_fresh_until_timestamp_seconds``.
Source: Prometheus, exposition formats, text format details. Label values are untrusted text and are escaped.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pps_agent.probes.perfdata import scan_perfdata
from pps_agent.state import ProbeResult

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest result of one metric; ``fresh_until`` None: nothing renews it by itself."""

    result: ProbeResult
    fresh_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFigures:
    """How the agent itself does. A time that is None never was, or is not known.

    ``misfires`` counts slots since the daemon started in which a probe did not run; ``due_lag_s`` is how late runs
    began of late.
    """

    version: str
    site: str
    group: str
    running: int = 0
    misfires: int = 0
    due_lag_s: float = 0.0
    outbox_waiting: int = 0
    outbox_oldest_at: datetime | None = None
    round_interval_s: int = 0
    round_ended_at: datetime | None = None
    metadata_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Family:
    """One family of samples: name, kind, what it means."""

    name: str
    kind: str
    help: str

    def render(self, samples: Iterable[tuple[_Labels, float | None]]) -> str:
        """Give the family's text; '' without samples. A value that nobody knows has no sample."""
        known = ((labels, value) for labels, value in samples if value is not None)
        lines = [f"{self.name}{_render_labels(labels)} {_render_number(value)}" for labels, value in known]
        if not lines:
            return ""
        return "\n".join((f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}", *lines, ""))


_PROBE_FAMILIES: Final[Sequence[tuple[_Family, Callable[[Newest], float | None]]]] = (
    (
        _Family("pps_probe_status", "gauge", "Newest status: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."),
        lambda newest: int(newest.result.status),
    ),
    (
        _Family("pps_probe_hard", "gauge", "1 when the state is hard, 0 while more attempts decide."),
        lambda newest: int(newest.result.hard),
    ),
    (
        _Family("pps_probe_attempt", "gauge", "Number of the attempt: results in a row that are not OK."),
        lambda newest: newest.result.attempt,
    ),
    (
        _Family("pps_probe_duration_seconds", "gauge", "How long the newest run took."),
        lambda newest: newest.result.duration_s,
    ),
    (
        _Family("pps_probe_last_run_timestamp_seconds", "gauge", "When the newest run began."),
        lambda newest: newest.result.started_at.timestamp(),
    ),
    (
        _Family("pps_probe_fresh_until_timestamp_seconds", "gauge", "Until when the newest result counts."),
        lambda newest: _timestamp(newest.fresh_until),
    ),
)
_VALUE: Final = _Family("pps_probe_value", "gauge", "What the newest run measured, in the unit it was given in.")
_AGENT_FAMILIES: Final[Sequence[tuple[_Family, Callable[[AgentFigures], float | None]]]] = (
    (
        _Family("pps_agent_outbox_records", "gauge", "Records that wait for the collector."),
        lambda figures: figures.outbox_waiting,
    ),
    (
        _Family("pps_agent_outbox_oldest_timestamp_seconds", "gauge", "Since when the oldest record waits."),
        lambda figures: _timestamp(figures.outbox_oldest_at),
    ),
    (
        _Family("pps_agent_last_round_timestamp_seconds", "gauge", "When the newest round ended."),
        lambda figures: _timestamp(figures.round_ended_at),
    ),
    (
        _Family("pps_agent_round_interval_seconds", "gauge", "Time between two rounds, by the settings."),
        lambda figures: figures.round_interval_s,
    ),
    (
        _Family("pps_agent_metadata_expiry_timestamp_seconds", "gauge", "When the repository's metadata expire."),
        lambda figures: _timestamp(figures.metadata_expires_at),
    ),
    (
        _Family("pps_agent_missed_slots_total", "counter", "Slots in which a probe was due and did not run."),
        lambda figures: figures.misfires,
    ),
    (_Family("pps_agent_probes_running", "gauge", "Probes that run now."), lambda figures: figures.running),
    (
        _Family("pps_agent_probe_lag_seconds", "gauge", "How late runs by the timetable began of late."),
        lambda figures: figures.due_lag_s,
    ),
)
_INFO: Final = _Family("pps_agent_info", "gauge", "Always 1; its labels say which agent this is.")


def render_metrics(newest: Iterable[Newest], figures: AgentFigures | None = None) -> str:
    """Give the newest results and the agent's figures as one exposition.

    Of two results of one metric, release and host the first counts: two samples of one name are refused by readers.
    """
    unique: dict[tuple[str, ...], Newest] = {}
    for item in newest:
        unique.setdefault(tuple(_labels_of(item.result).values()), item)
    labelled = [(_labels_of(item.result), item) for item in unique.values()]
    parts = [family.render((labels, read(item)) for labels, item in labelled) for family, read in _PROBE_FAMILIES]
    parts.append(_VALUE.render(sample for labels, item in labelled for sample in _measurements(labels, item.result)))
    if figures is not None:
        info = {"version": figures.version, "site": figures.site, "group": figures.group}
        parts.append(_INFO.render([(info, 1)]))
        parts += [family.render([({}, figure(figures))]) for family, figure in _AGENT_FAMILIES]
    return "".join(parts)


def _labels_of(result: ProbeResult) -> dict[str, str]:
    return {"metric": result.probe, "release": result.release or "", "host": result.host}


def _measurements(labels: _Labels, result: ProbeResult) -> Iterable[tuple[_Labels, float | None]]:
    for datum in scan_perfdata(result.perfdata).data:
        yield {**labels, "label": datum.label, "unit": datum.unit}, datum.value


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _render_labels(labels: _Labels) -> str:
    """Give labels in braces; an empty one is the same as none to Prometheus, and left out."""
    given = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items() if value)
    return f"{{{given}}}" if given else ""


def _escape(value: str) -> str:
    return value.encode("utf-8", "replace").decode().translate(_ESCAPES)


def _render_number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
