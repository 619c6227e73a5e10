"""Actions, outcomes and standings as JSON-like values, each with one line of text for people."""

from typing import Any

from pps_agent.standing import Standing
from pps_agent.state import (
    Action,
    AddTags,
    Compose,
    Drain,
    Install,
    Outcome,
    Probe,
    ProbeResult,
    Remove,
    RemoveTags,
    Switch,
    Undrain,
)
from pps_wire.report import AWAITING_CONFIG


def describe_action(action: Action) -> dict[str, Any]:
    """Give one action's kind, target and text."""
    value: dict[str, Any] = {"action": type(action).__name__.lower(), "release": action.release}
    match action:
        case Install(release):
            value["text"] = f"install {release}"
        case Compose(release):
            value["text"] = f"compose the environment of {release}"
        case Probe(release, probes):
            value |= {"probes": list(probes), "text": f"probe {release}: {', '.join(probes)}"}
        case Switch(component, release):
            value |= {"component": component, "text": f"switch {component} to {release or 'nothing'}"}
        case AddTags(release, subcluster, tags):
            names = [tag for _, tag in tags]
            value |= {"subcluster": subcluster, "tags": names, "text": f"tag {subcluster}: {' '.join(names)}"}
        case RemoveTags(release, subcluster, tags, reason):
            names = [tag for _, tag in tags]
            text = f"untag {subcluster}: {' '.join(names)} ({reason})"
            value |= {"subcluster": subcluster, "tags": names, "reason": reason, "text": text}
        case Drain(release):
            value["text"] = f"drain {release}"
        case Undrain(release):
            value["text"] = f"stop draining {release}"
        case Remove(release, reason):
            value |= {"reason": reason, "text": f"remove {release} ({reason})"}
    return value


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """Give one outcome: its action, whether it did what it says, figures, probe results."""
    value = describe_action(outcome.action)
    text = value["text"]
    if outcome.error:
        text = f"FAILED {text}: {outcome.error}"
    for result in outcome.results:
        text += f"\n  {result.status.name} {result.probe}: {result.summary}"
    value |= {
        "text": text,
        "ok": not outcome.error,
        "error": outcome.error,
        "exit_code": outcome.exit_code,
        "took_s": round(outcome.took_s, 3),
        "facts": dict(outcome.facts),
        "results": [describe_result(result) for result in outcome.results],
    }
    return value


def describe_result(result: ProbeResult) -> dict[str, Any]:
    """Give one probe run."""
    return {
        "probe": result.probe,
        "release": result.release,
        "status": result.status.name,
        "summary": result.summary,
        "details": result.details,
        "started_at": result.started_at.isoformat(),
        "duration_s": round(result.duration_s, 3),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "timed_out": result.timed_out,
        "truncated_bytes": result.truncated_bytes,
        "leftovers_killed": result.leftovers_killed,
        "cpu_s": round(result.cpu_s, 3),
        "max_rss_bytes": result.max_rss_bytes,
    }


def next_command(standing: Standing) -> str | None:
    """Give the command that a release waits for; None when it waits for none."""
    if standing.stage != AWAITING_CONFIG:
        return None
    return f"pps-agent release acknowledge {standing.release} {standing.open_steps[0]}"


def describe_standing(standing: Standing) -> dict[str, Any]:
    """Give where one release stands."""
    return {
        "release": standing.release,
        "component": standing.component,
        "version": standing.version,
        "state": standing.word,
        "reason": standing.reason,
        "current": standing.current,
        "open_steps": list(standing.open_steps),
        "next_command": next_command(standing),
        "probes": {
            name: {"status": seen.status.name, "at": seen.at.isoformat(), "summary": seen.summary}
            for name, seen in standing.probes
        },
        "tags": [
            {"subcluster": tag.subcluster, "vo": tag.vo, "tag": tag.tag, "state": tag.state.value}
            for tag in standing.tags
        ],
    }
