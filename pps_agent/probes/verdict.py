"""From what a run did to what it means. Pure.

An exit code of 0 to 3 is a verdict; everything else, a time-out and a signal above all, is UNKNOWN and
says why: a probe that was cut short has not tested anything. Where exit code and words disagree, the worse
counts. A probe speaks for itself and for the metrics its definition declares; what it says of others is dropped.
"""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pps_agent.probes import protocol
from pps_agent.probes.definition import Format, ProbeDefinition
from pps_agent.probes.output import Statement, detect_format, read_output, read_text
from pps_agent.probes.parse import MAX_SUMMARY_CHARS, clean_line, cut_summary, cut_text, decode_output
from pps_agent.probes.protocol import RunResponse
from pps_wire.errors import WireError
from pps_wire.names import ProbeName
from pps_wire.report import Cause, Status

MAX_CHILDREN: Final = 64

_EXIT_REASONS: Final = {
    126: "the probe or a command in it cannot be executed: check its permissions and its first line (#!)",
    127: "a command was not found: check the PATH of the probe's environment and the probe's requirements",
}
_SIGNAL_REASONS: Final = {
    "SIGXCPU": "it used up its CPU time (limits.cpu_s)",
    "SIGXFSZ": "it wrote a file larger than allowed (limits.file_bytes)",
    "SIGKILL": "by the kernel (out of memory?), by hand, or at its hard CPU limit",
    "SIGSEGV": "the probe or its interpreter crashed",
}
_LIMIT_REASONS: Final = {
    protocol.KILLED_BY_DIRECTORY: "its directory had grown too large (limits.directory_bytes)",
    protocol.KILLED_BY_MEMORY: "its processes together had used up their memory (limits.memory_bytes)",
}
_CROWDED: Final = (
    "could not be tested: probes had nearly all the processes that their account may have (limits.processes): see which"
    " probe starts so many"
)
_RANK: Final = (Status.OK, Status.WARNING, Status.UNKNOWN, Status.CRITICAL)
"""From good to bad: who could not look may have missed what is critical, so both are worse than a warning."""


@dataclass(frozen=True, slots=True)
class Child:
    """The verdict on a metric that the probe reported beside its own."""

    metric: ProbeName
    status: Status
    summary: str
    details: str
    perfdata: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, one line for people, the rest of what was printed, what was measured, and why it is so."""

    status: Status
    summary: str
    details: str
    cause: Cause
    perfdata: str
    children: tuple[Child, ...]


def judge(response: RunResponse, definition: ProbeDefinition, timeout_s: float) -> Verdict:
    """Give the verdict on one finished run. The probe's own words follow the reason where there is one."""
    complaint = decode_output(_marked_error(response)).strip("\n")
    try:
        statements, unreadable = _read(response, definition.format), ""
    except WireError as exc:
        statements, unreadable = (), f"its output cannot be read: {exc}"
    ours, children, notes = _sort(statements, definition)
    reason, cause = _reason(response, timeout_s)
    if not reason and unreadable:
        hint = "correct what it prints, or 'format' in its probe.toml"
        reason, cause = f"{unreadable} (exit {response.exit}): {hint}", Cause.FAULT
    said = ours.summary if ours else ""
    if reason:
        said = said or clean_line(complaint.partition("\n")[0])
        status, summary = Status.UNKNOWN, f"{reason} (it had said: {said})" if said else reason
        children = tuple(replace(child, status=status, summary=_cut_short(reason, child)) for child in children)
    else:
        status, summary, cause = _weigh(response, statements, ours, children, complaint)
    printed = ours.details if ours else decode_output(_marked_output(response)).strip("\n") if unreadable else ""
    details = _gather(response, printed, complaint, notes)
    return Verdict(status, cut_summary(summary), details, cause, ours.perfdata if ours else "", children)


def worst(statuses: Iterable[Status]) -> Status:
    """Give the worst of statuses, at least one: CRITICAL, UNKNOWN, WARNING, OK."""
    return max(statuses, key=_RANK.index)


def signal_name(number: int) -> str:
    """Give a signal's name, e.g. SIGSEGV; its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(response: RunResponse, form: Format) -> tuple[Statement, ...]:
    """Give what was said. Raises: WireError when it cannot be read as what it is, or its middle is missing."""
    if not response.stdout.strip():
        return ()
    form = detect_format(response.stdout) if form is Format.AUTO else form
    missing = response.stdout_bytes - len(response.stdout)
    if missing <= 0:
        return read_output(response.stdout, form)
    if form is not Format.NAGIOS:
        raise WireError(form.value, f"{missing} of {response.stdout_bytes} bytes were left out: print less")
    whole = read_text(_marked_output(response))
    # Measurements beside the gap may be halves: only what ended before it is believed.
    head = response.stdout[: protocol.STDOUT_HEAD_BYTES]
    before = read_text(head[: max(map(head.rfind, (b" ", b"\t", b"\n", b"\r"))) + 1])
    return (replace(whole, perfdata=before.perfdata, notes=before.notes),)


def _sort(
    statements: Sequence[Statement], definition: ProbeDefinition
) -> tuple[Statement | None, tuple[Child, ...], list[str]]:
    """Part statements into the probe's own (the worst, if several), those of its metrics, and notes on the rest."""
    if len(statements) == 1 and not statements[0].metric:  # most probes, most of the time
        return statements[0], (), [*statements[0].notes]
    own = {"", definition.name, *definition.aliases}
    found: dict[str, list[Statement]] = {}
    for statement in statements:
        found.setdefault("" if statement.metric in own else statement.metric, []).append(statement)
    notes = [
        f"{clean_line(metric) or 'the probe itself'} was reported {len(group)} times: the worst counts"
        for metric, group in found.items()
        if len(group) > 1 and (metric in definition.metrics or not metric)
    ]
    strangers = [clean_line(metric)[:128] for metric in found if metric and metric not in definition.metrics]
    if strangers:
        notes.append(
            f"dropped, since its probe.toml does not declare them under metrics: {', '.join(strangers[:MAX_CHILDREN])}"
        )
    declared = [metric for metric in definition.metrics if metric in found]
    if len(declared) > MAX_CHILDREN:
        notes.append(f"{len(declared) - MAX_CHILDREN} metrics dropped: a run may report {MAX_CHILDREN}")
    children = tuple(_child(metric, _worst_of(found[metric])) for metric in declared[:MAX_CHILDREN])
    ours = _worst_of(found[""]) if "" in found else None
    return ours, children, [*(ours.notes if ours else ()), *notes]


def _weigh(
    response: RunResponse,
    statements: Sequence[Statement],
    ours: Statement | None,
    children: Sequence[Child],
    complaint: str,
) -> tuple[Status, str, Cause]:
    """Weigh the exit code against what was said."""
    exit_status = Status(response.exit or 0)
    if ours is not None and ours.summary:
        said = ours.summary
    elif children and ours is None:
        first = max(children, key=lambda child: _RANK.index(child.status))
        said = f"{first.metric}: {first.summary} (worst of {len(children)} metrics)"
    elif statements and ours is None:
        return Status.UNKNOWN, "it reports only metrics that its probe.toml does not declare", Cause.FAULT
    else:
        said = clean_line(complaint.partition("\n")[0])
        if exit_status is Status.OK:
            hint = f" (stderr: {said})" if said else ""
            return Status.UNKNOWN, f"exit 0 but nothing on stdout{hint}", Cause.FAULT
        return exit_status, said or f"exit {response.exit} and no output", Cause.VERDICT
    stated = [statement for statement in statements if statement.status is not None]
    if not stated:
        return exit_status, said, Cause.VERDICT
    culprit = _worst_of(stated)
    if culprit.status is exit_status:
        return exit_status, said, Cause.VERDICT
    word = Status(culprit.status or 0)
    claim = f"it says {word.name}" if culprit is ours else f"{clean_line(culprit.metric)[:128]} is {word.name}"
    remark = f"exit {response.exit} but {claim}: the worse counts"
    return worst((exit_status, word)), f"{_room(said, remark)} ({remark})", Cause.VERDICT


def _reason(response: RunResponse, timeout_s: float) -> tuple[str, Cause]:
    """Say why a run gives no verdict of its own; empty when it does."""
    if response.timed_out:
        stuck = f", and {response.failure}" if response.failure else ""
        hint = "see what it waits for, or raise timeout_s in its probe.toml"
        return f"timed out after {timeout_s:g} s{stuck}: {hint}", Cause.TIMEOUT
    if response.killed_by == protocol.KILLED_BY_PROCESSES:
        return _CROWDED, Cause.FAULT
    if response.killed_by:
        return f"killed: {_LIMIT_REASONS.get(response.killed_by, response.killed_by)}", Cause.KILLED
    if response.failure:
        return f"{response.failure}: check the probe's file and its first line (#!)", Cause.FAULT
    if response.signal is not None:
        name = signal_name(response.signal)
        return f"ended by {name}: {_SIGNAL_REASONS.get(name, 'run it by hand to see why')}", Cause.KILLED
    if response.exit is None or response.exit > Status.UNKNOWN:
        why = _EXIT_REASONS.get(response.exit or 0, "not one of 0 to 3: the probe itself is at fault")
        return f"exit {response.exit}: {why}", Cause.FAULT
    return "", Cause.VERDICT


def _worst_of(statements: Sequence[Statement]) -> Statement:
    return max(statements, key=lambda statement: _RANK.index(statement.status or Status.OK))


def _child(metric: ProbeName, said: Statement) -> Child:
    details = cut_text("\n".join(filter(None, (said.details, *map(_note, said.notes)))))
    return Child(metric, said.status or Status.OK, said.summary, details, said.perfdata)


def _cut_short(reason: str, child: Child) -> str:
    return cut_summary(f"{reason} (it had said: {child.status.name} - {child.summary})")


def _room(text: str, remark: str) -> str:
    """Cut a line so that a remark in brackets behind it is seen."""
    room = MAX_SUMMARY_CHARS - len(remark) - 3
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _gather(response: RunResponse, printed: str, complaint: str, notes: Iterable[str]) -> str:
    """Give the details: what was printed, what it complained of, and what happened to it."""
    missing = response.stdout_bytes - len(response.stdout)
    leftovers = response.leftovers_killed
    parts = (
        f"(output cut: {missing} of {response.stdout_bytes} bytes left out)" if missing > 0 else "",
        printed,
        f"stderr:\n{complaint}" if complaint else "",
        f"{leftovers} process(es) left behind by the probe were killed" if leftovers else "",
        *map(_note, notes),
    )
    return cut_text("\n".join(filter(None, parts)))


def _note(text: str) -> str:
    return f"note: {text}"


def _marked_output(response: RunResponse) -> bytes:
    """Give the kept stdout with a line where its middle was dropped."""
    if response.stdout_bytes <= len(response.stdout):
        return response.stdout
    head, tail = response.stdout[: protocol.STDOUT_HEAD_BYTES], response.stdout[protocol.STDOUT_HEAD_BYTES :]
    return head + "\n[…]\n".encode() + tail


def _marked_error(response: RunResponse) -> bytes:
    missing = response.stderr_bytes - len(response.stderr)
    return response.stderr + (f"\n[… {missing} bytes left out …]".encode() if missing > 0 else b"")
