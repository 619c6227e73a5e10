"""``pps-agent probe explain``: what exactly would be run, and what keeps it from running here."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from pps_agent.cli import context
from pps_agent.cli.probe_site import Probes, open_probes
from pps_agent.cli.status import describe_account
from pps_agent.gather import agent_name
from pps_agent.probes.agenda import find_jobs
from pps_agent.probes.arguments import bind_arguments
from pps_agent.probes.definition import ProbeDefinition, Where
from pps_agent.probes.explain import render_environment, render_every, render_shell
from pps_agent.probes.preparation import prepare, provision_of
from pps_agent.probes.slots import find_place, find_share
from pps_agent.results import Results, past_of


@click.command()
@click.argument("name")
@click.option("--release", "release_id", help="On this installed release; else on the production client.")
@click.option(
    "--set",
    "settings_of_caller",
    multiple=True,
    metavar="ARGUMENT=VALUE",
    help="An argument of the probe, see probe show; repeatable.",
)
@context.output_option
def explain(name: str, release_id: str | None, settings_of_caller: tuple[str, ...], output: str) -> None:
    """Print the exact command and environment of a probe, secrets left out, and what it lacks here. Runs nothing."""
    with open_probes(release_id) as probes:
        value = _explain(probes, name, _split(settings_of_caller))
    if output == "json":
        context.print_json(value)
    else:
        _print(value)


def _split(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise click.UsageError(f"--set {pair}: write ARGUMENT=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _explain(probes: Probes, name: str, arguments: dict[str, str]) -> dict[str, Any]:
    definition = probes.find(name)
    site = probes.settings.probes
    env = probes.environment() | bind_arguments(definition, arguments)
    preparation = prepare(definition, env, provision_of(probes.settings))
    return {
        "name": definition.name,
        "command": [str(definition.run)],
        "environment": render_environment(definition, {**env, **preparation.more}, site.secrets),
        "missing": list(preparation.missing),
        "user": describe_account(probes.settings),
        "where": definition.where.value,
        "executor": _tell_executor(probes, definition),
        "every": render_every(definition),
        "next": _tell_next(probes, definition),
        "timeout_s": min(definition.timeout_s, site.timeout_s),
        "limits": dict(definition.limits),
        "release": probes.release,
        "digest": definition.digest,
    }


def _tell_next(probes: Probes, definition: ProbeDefinition) -> str:
    """Tell when the daemon runs it next by itself, in view of what is remembered, or why it does not."""
    settings, release = probes.settings, probes.release
    definitions = {one: probes.executor.catalogue(one).definitions for one in {None, release}}
    jobs = find_jobs(
        settings.probes.enabled,
        definitions,
        probes.watched(),
        settings.probes.max_age_s,
        on_nodes=settings.nodes.executor == "local",
    )
    job = next(
        (job for key, job in jobs.items() if job.definition.name == definition.name and key.release == release), None
    )
    if job is None:
        return f"when asked: {_why_not(probes, definition)}"
    seen = Results(probes.site.database).newest_counted(*job.key)
    past = None if seen is None else past_of(seen)
    place = find_place(job.entry, find_share(agent_name(settings), job.key), past, time.time())
    return f"due at {datetime.fromtimestamp(place.due_s, UTC).isoformat(timespec='seconds')} while the daemon runs"


def _tell_executor(probes: Probes, definition: ProbeDefinition) -> str:
    executor = probes.settings.nodes.executor
    return executor if definition.where is Where.NODE else "local"


def _why_not(probes: Probes, definition: ProbeDefinition) -> str:
    """Tell why no time of its own stands in the timetable for a probe."""
    executor = _tell_executor(probes, definition)
    if executor != "local":
        return f"it goes through {executor}, when a round probes a release or a person asks"
    if probes.release is not None:
        return f"{probes.release} does not ask for it"
    if definition.needs_release:
        return "it tests releases alone: name one with --release"
    if definition.interval_s is None:
        return "its probe.toml names no interval_s"
    return "probes.enabled does not name it"


def _print(value: dict[str, Any]) -> None:
    through = "" if value["executor"] == "local" else f" through {value['executor']}"
    context.print_line(f"probe     {value['name']}, digest {value['digest'][:16]}")
    context.print_line(
        f"tests     {value['release'] or 'the production client'}, on the {value['where']}{through}, {value['every']}"
    )
    context.print_line(f"next      {value['next']}")
    context.print_line(f"user      {value['user']}")
    limits = ", ".join(f"{name} {limit}" for name, limit in value["limits"].items())
    context.print_line(f"limits    {value['timeout_s']} s; {limits}")
    for reason in value["missing"]:
        context.print_line(f"missing   {reason}")
    context.print_line("command   env -i \\")
    for line in render_shell(value["environment"], value["command"]):
        context.print_line(f"  {line}")
