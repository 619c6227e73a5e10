"""One file of the passive spool: a result that another program left, as a value. Pure.

::

    <max_age_s>_<name>.<form>        3600_org.example.tape.nagios, 900_org.example.batch.json

``form`` is ``nagios`` (text of a monitoring plugin, which must begin with the status), ``wlcg`` or ``json``. A
file speaks for its name and for metrics below it (``org.example.tape.read``); what it says of others is dropped.
The result is as old as the file, and good for ``max_age_s``. Content and names are untrusted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from pps_agent.probes.definition import Format
from pps_agent.probes.output import Statement, read_output
from pps_agent.probes.parse import cut_summary, cut_text
from pps_agent.probes.verdict import worst
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.names import ProbeName, parse_probe_name
from pps_wire.report import Cause, Status

MAX_SPOOL_BYTES: Final = 256 * 1024
MAX_CHILDREN: Final = 64
FORMS: Final = ("nagios", "wlcg", "json")
EXAMPLE: Final = "3600_org.example.tape.nagios"

_NAME: Final = re.compile(r"([1-9][0-9]{0,6})_(.{1,200})\.(nagios|wlcg|json)", re.ASCII)
_FUTURE_S: Final = 60


@dataclass(frozen=True, slots=True)
class SpoolName:
    """What a file's name says: how long its result is good, of which metric it is, and in which form."""

    max_age_s: int
    metric: ProbeName
    form: Format


@dataclass(frozen=True, slots=True)
class Spooled:
    """A result from the spool, and until when it is good; ``is_known``: it was taken by an earlier process."""

    result: ProbeResult
    fresh_until: datetime
    is_known: bool = False


def parse_spool_name(text: str) -> SpoolName:
    """Read a file's name. Raises: WireError and nothing else, for any text."""
    matched = _NAME.fullmatch(text)
    if matched is None:
        raise WireError("spool", f"{text[:80]!a} is not <max_age_s>_<name>.<form>: write e.g. {EXAMPLE}")
    return SpoolName(int(matched[1]), parse_probe_name(matched[2]), Format(matched[3]))


def read_spooled(name: SpoolName, raw: bytes, written_at: datetime, now: datetime) -> tuple[Spooled, ...]:
    """Give what a file says: its own metric first, then those below it. Never fails.

    Content that cannot be read, or says no status, is UNKNOWN with the reason. A file dated ahead counts from now.
    """
    if written_at > now + timedelta(seconds=_FUTURE_S):
        written_at = now
    try:
        results = _read(name, raw, written_at)
    except WireError as exc:
        shown = cut_summary(f"the file in the spool cannot be read: {exc}")
        results = (replace(_result(name.metric, Status.UNKNOWN, shown, written_at), cause=Cause.FAULT),)
    results = (replace(results[0], output_bytes=len(raw)), *results[1:])
    return tuple(Spooled(result, written_at + timedelta(seconds=name.max_age_s)) for result in results)


def is_whole(name: SpoolName, raw: bytes) -> bool:
    """Tell whether content can be all that its writer meant to write."""
    try:
        read_output(raw, name.form)
    except WireError:
        return False
    return name.form is not Format.NAGIOS or raw.endswith(b"\n")


def stale_result(name: SpoolName, written_at: datetime, now: datetime, *, is_gone: bool) -> Spooled:
    """Give the result of a metric that nobody renewed in time."""
    age_s = (now - written_at).total_seconds()
    what = "its file is gone" if is_gone else f"its file is {age_s:.0f} s old"
    summary = f"nobody renewed it within {name.max_age_s} s, {what}: see the program that leaves it in the spool"
    result = replace(_result(name.metric, Status.UNKNOWN, summary, now), cause=Cause.STALE)
    return Spooled(result, now + timedelta(seconds=name.max_age_s))


def _read(name: SpoolName, raw: bytes, written_at: datetime) -> tuple[ProbeResult, ...]:
    statements = read_output(raw, name.form)
    own = [statement for statement in statements if statement.metric in ("", name.metric)]
    below = [statement for statement in statements if statement.metric.startswith(f"{name.metric}.")]
    if len(own) > 1:
        raise WireError("spool", f"it speaks {len(own)} times of {name.metric}: write one result of it")
    if not own and not below:
        raise WireError("spool", f"it says nothing of {name.metric}")
    children: dict[ProbeName, ProbeResult] = {}
    for statement in below[:MAX_CHILDREN]:
        metric = parse_probe_name(statement.metric)
        if metric in children:
            raise WireError("spool", f"it speaks twice of {metric}: write one result of it")
        children[metric] = replace(_judge(metric, statement, written_at), parent=name.metric)
    dropped = len(statements) - len(own) - len(children)
    first = _judge(name.metric, own[0], written_at) if own else _sum_up(name, children, written_at)
    if dropped:
        note = f"note: {dropped} result(s) dropped: a file speaks for its name and {MAX_CHILDREN} metrics below it"
        first = replace(first, details=_join(first.details, note))
    return (first, *children.values())


def _judge(metric: ProbeName, said: Statement, at: datetime) -> ProbeResult:
    if said.status is None:
        raise WireError("spool", f"no status: begin with OK, WARNING, CRITICAL or UNKNOWN, not {said.summary[:40]!r}")
    details = _join(said.details, *(f"note: {note}" for note in said.notes))
    return replace(_result(metric, said.status, said.summary, at), details=details, perfdata=said.perfdata)


def _sum_up(name: SpoolName, children: Mapping[ProbeName, ProbeResult], at: datetime) -> ProbeResult:
    """Give the worst of the metrics below as the result of the file's own."""
    status = worst(child.status for child in children.values())
    culprit = next(child for child in children.values() if child.status is status)
    summary = cut_summary(f"{culprit.probe}: {culprit.summary} (worst of {len(children)} metrics)")
    return _result(name.metric, status, summary, at)


def _join(*texts: str) -> str:
    return cut_text("\n".join(filter(None, texts)))


def _result(metric: ProbeName, status: Status, summary: str, at: datetime) -> ProbeResult:
    return ProbeResult(metric, None, status, summary, details="", started_at=at, duration_s=0.0)
