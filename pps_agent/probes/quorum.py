"""From what nodes say to one result a probe. Pure.

A release that works on one node and not on another does not work: the worst answer counts. Where fewer nodes
answered than the site wants, nothing is known, whatever those said that did.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.executors.values import NodeAnswer
from pps_agent.probes.parse import MAX_SUMMARY_CHARS, cut_text
from pps_agent.probes.verdict import worst
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Cause, Status

Metric = tuple[ProbeName, ProbeName | None]
"""What a result is of: the probe or metric, and the probe that reported it where that is another one."""


@dataclass(frozen=True, slots=True)
class Combined:
    """What all nodes together say of each probe, of the further metrics, and what each node said.

    Only the last bear a node's name (``host``).
    """

    own: tuple[ProbeResult, ...]
    further: tuple[ProbeResult, ...] = ()
    by_node: tuple[ProbeResult, ...] = ()


def combine(
    definitions: Sequence[ProbeDefinition],
    release: ReleaseId | None,
    answers: Sequence[NodeAnswer],
    quorum: int,
    at: datetime,
) -> Combined:
    """Give one result for each probe, and for each metric it reported beside, from all answers to a task.

    ``at`` is the time of a result that no node gave.
    """
    results = [result for answer in answers for result in answer.results]
    metrics = dict.fromkeys(_metric_of(result) for result in results if result.parent is not None)
    own = [combine_one((definition.name, None), release, answers, quorum, at) for definition in definitions]
    further = [combine_one(metric, release, answers, quorum, at) for metric in metrics]
    by_node = [replace(result, host=answer.node) for answer in answers for result in answer.results if answer.node]
    return Combined(tuple(own), tuple(further), tuple(by_node))


def combine_one(
    metric: Metric, release: ReleaseId | None, answers: Sequence[NodeAnswer], quorum: int, at: datetime
) -> ProbeResult:
    """Give one result for one probe or metric from all answers to a task."""
    probe, parent = metric
    said = [(answer.node, r) for answer in answers for r in answer.results if _metric_of(r) == metric]
    reasons = [(answer.place, answer.lost.get(parent or probe, "")) for answer in answers]
    lost = [f"{place}: {reason}" for place, reason in reasons if reason]
    if len(said) < max(1, quorum):
        return _too_few(metric, release, said, lost, max(1, quorum), at)
    status = worst(result.status for _, result in said)
    node, culprit = next((node, result) for node, result in said if result.status is status)
    if len(said) == 1 and not lost:
        return replace(culprit, host="")
    where = f"worst of {len(said)} nodes, on {node}" if len(said) > 1 else f"on {node}"
    return replace(
        culprit,
        summary=_cut(culprit.summary, f" ({where})"),
        details=cut_text("\n".join(filter(None, [*_told(said), *lost, culprit.details]))),
        started_at=min(result.started_at for _, result in said),
        duration_s=max(result.duration_s for _, result in said),
        host="",
    )


def merge_nodes(answers: Iterable[NodeAnswer]) -> tuple[NodeAnswer, ...]:
    """Make one answer of those of the same node, the worse result of each probe; the others stay as they are.

    Lost probes of a node that gave a result for them in another job are no longer lost.
    """
    merged: dict[str, NodeAnswer] = {}
    for number, answer in enumerate(answers):
        key = answer.node or f"/{number}"
        merged[key] = _merge(merged[key], answer) if key in merged else answer
    return tuple(merged.values())


def _merge(one: NodeAnswer, other: NodeAnswer) -> NodeAnswer:
    results = {_metric_of(result): result for result in one.results}
    for result in other.results:
        known = results.get(_metric_of(result))
        if known is None or worst((known.status, result.status)) is not known.status:
            results[_metric_of(result)] = result
    lost = {probe: reason for probe, reason in {**other.lost, **one.lost}.items() if (probe, None) not in results}
    return NodeAnswer(one.node, tuple(results.values()), lost, one.job)


def _metric_of(result: ProbeResult) -> Metric:
    return result.probe, result.parent


def _too_few(
    metric: Metric,
    release: ReleaseId | None,
    said: Sequence[tuple[str, ProbeResult]],
    lost: Sequence[str],
    quorum: int,
    at: datetime,
) -> ProbeResult:
    answered = f"{len(said)} of the {quorum} node(s) wanted answered"
    return ProbeResult(
        probe=metric[0],
        release=release,
        status=Status.UNKNOWN,
        summary=_cut(f"{answered}: {'; '.join(lost)}" if lost else answered, ""),
        details=cut_text("\n".join([*_told(said), *lost])),
        started_at=min((result.started_at for _, result in said), default=at),
        duration_s=max((result.duration_s for _, result in said), default=0.0),
        cause=Cause.LOST,
        parent=metric[1],
    )


def _told(said: Sequence[tuple[str, ProbeResult]]) -> list[str]:
    return [f"{node}: {result.status.name}: {result.summary}" for node, result in said]


def _cut(text: str, end: str) -> str:
    room = MAX_SUMMARY_CHARS - len(end)
    return (text if len(text) <= room else text[: room - 1] + "…") + end
