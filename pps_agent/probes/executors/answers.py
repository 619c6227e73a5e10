"""From a task to the request in a payload, and from a node's document to what its probes mean."""

import hashlib
from dataclasses import fields, replace
from datetime import datetime
from typing import Final

import msgspec

from pps_agent.probes.client import render_results
from pps_agent.probes.executors.values import GRACE_S, NodeAnswer, NodeTask
from pps_agent.probes.parse import clean_line, cut_summary
from pps_agent.probes.preparation import tested_version
from pps_agent.probes.protocol import RunResponse
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.names import ProbeName
from pps_wire.node import NodeDocument, NodeProbe, NodeRequest, NodeRun
from pps_wire.report import Cause, Status

_FACTS: Final = tuple(
    {item.name for item in fields(RunResponse)} & {item.name for item in msgspec.structs.fields(NodeRun)}
)
"""What a node tells in the runner's own words."""


def make_request(task: NodeTask, nonce: str, not_after: datetime) -> NodeRequest:
    """Give the request that has a node run this task."""
    return NodeRequest(
        nonce=nonce,
        release=task.release,
        env=dict(task.env),
        time_limit_s=task.time_limit_s,
        not_after=not_after.replace(microsecond=0),
        probes=tuple(
            NodeProbe(
                probe=definition.name,
                digest=hashlib.sha256(task.files[definition.name]).hexdigest(),
                run=task.files[definition.name],
                timeout_s=float(min(definition.timeout_s, task.max_timeout_s)),
                grace_s=GRACE_S,
                limits=dict(definition.limits),
                commands=definition.commands,
                variables=dict(definition.variables),
                needs_proxy=definition.needs_proxy,
                env=dict(task.more.get(definition.name, {})),
            )
            for definition in task.definitions
        ),
    )


def read_answer(task: NodeTask, document: NodeDocument, node: str, job: str, started_at: datetime) -> NodeAnswer:
    """Judge what a node says. ``started_at`` is by the head's clock: nodes' may be wrong.

    ``node`` is the batch system's name for it; empty: its own. Raises: WireError when the document speaks of
    probes that were not asked for, of one twice, or of another file than was sent.
    """
    wanted = {
        definition.name: hashlib.sha256(task.files[definition.name]).hexdigest() for definition in task.definitions
    }
    runs: dict[str, NodeRun] = {}
    for run in document.runs:
        if wanted.get(ProbeName(run.probe)) != run.digest:
            raise WireError("node document", f"it speaks of {run.probe}, which was not sent or not in this form")
        if run.probe in runs:
            raise WireError("node document", f"it speaks of {run.probe} twice")
        runs[run.probe] = run
    results: list[ProbeResult] = []
    lost: dict[ProbeName, str] = {}
    for definition in task.definitions:
        found = runs.get(definition.name)
        if found is None or found.skipped:
            lost[definition.name] = clean_line(found.skipped) if found else "the document does not speak of it"
            continue
        results.extend(_judge(task, found, node or document.node, started_at))
    return NodeAnswer(node or document.node, tuple(results), lost, job)


def lose_all(task: NodeTask, reason: str, job: str, node: str = "") -> NodeAnswer:
    """Give the answer of a job that brought none."""
    reason = clean_line(reason)[:512]
    return NodeAnswer(node, (), {definition.name: reason for definition in task.definitions}, job)


def _judge(task: NodeTask, run: NodeRun, node: str, started_at: datetime) -> tuple[ProbeResult, ...]:
    """Give the results of one run: the probe's own, then those of further metrics."""
    definition = next(definition for definition in task.definitions if definition.name == run.probe)
    if run.missing:
        missing = clean_line("; ".join(run.missing))
        return (
            ProbeResult(
                probe=definition.name,
                release=task.release,
                status=Status.UNKNOWN,
                summary=cut_summary(f"missing requirement on {node}: {missing}: mend the node or leave the probe out"),
                details="",
                started_at=started_at,
                duration_s=0.0,
                cause=Cause.REQUIREMENT,
                digest=definition.digest,
                host=node,
            ),
        )
    facts = {name: getattr(run, name) for name in _FACTS}
    response = RunResponse(run=run.probe, **facts | {"failure": clean_line(run.failure)})
    timeout_s = min(definition.timeout_s, task.max_timeout_s)
    results = render_results(definition, task.release, started_at, response, timeout_s, tested_version(task.env))
    return tuple(replace(result, host=node) for result in results)
