"""``probe list`` and ``show``: which probes there are, what they say of themselves, what they said last."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import click

from pps_agent.cli import context
from pps_agent.cli.comparison import describe_comparisons, print_comparisons
from pps_agent.cli.probe_site import load_probes
from pps_agent.errors import AgentError, SiteError
from pps_agent.history import Remembered
from pps_agent.probes.agenda import find_jobs, is_enabled
from pps_agent.probes.catalogue import Catalogue, Refused
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.explain import render_every
from pps_agent.settings import Settings
from pps_agent.site import Site
from pps_wire.names import ProbeName


@click.command("list")
@context.output_option
def list_probes(output: str) -> None:
    """List the probes: where they run, how often, their last result, and which are refused and why.

    EVERY is the daemon's own rhythm on production, by probes.enabled. Releases ask for others, too: see probe explain.
    """
    site, catalogue = _look(context.settings())
    newest = _newest(site)
    by_itself = _run_by_themselves(site.settings, catalogue)
    rows = [
        _describe_row(catalogue, probe, newest) | {"by_itself": probe.name in by_itself}
        for probe in catalogue.definitions
    ]
    rows += [_describe_refused(refused) for refused in catalogue.refused]
    for fault in (*catalogue.faults, *_idle_patterns(site.settings, catalogue)):
        click.echo(f"pps-agent: {fault}", err=True)
    if output == "json":
        context.print_json(rows)
    else:
        table = [
            (
                row["name"],
                row["where"],
                row["every"] if row["by_itself"] or row["fault"] else "when asked",
                _last(row["last"]),
                row["fault"] or row["summary"],
            )
            for row in rows
        ]
        context.print_table(("NAME", "WHERE", "EVERY", "LAST RESULT", "SUMMARY"), table)


@click.command()
@click.argument("name")
@context.output_option
def show(name: str, output: str) -> None:
    """Show one probe: what it says of itself, where its files are, its last results."""
    site, catalogue = _look(context.settings())
    probe = catalogue.find(name)
    if probe is None:
        raise AgentError(catalogue.why_not(name))
    value = describe_probe(catalogue, probe) | {"results": _results(site, probe)}
    value["comparisons"] = describe_comparisons(site, (probe,))
    if output == "json":
        context.print_json(value)
    else:
        _print_probe(value)


def describe_probe(catalogue: Catalogue, probe: ProbeDefinition) -> dict[str, Any]:
    """Give all that a probe says of itself, and where it came from."""
    return {
        "name": probe.name,
        "aliases": list(probe.aliases),
        "version": probe.version,
        "summary": probe.summary,
        "service_type": probe.service_type,
        "origin": catalogue.origins[probe.name].value,
        "directory": str(probe.run.parent),
        "digest": probe.digest,
        "where": probe.where.value,
        "scope": probe.scope.value,
        "vos": list(probe.vos),
        "needs_proxy": probe.needs_proxy,
        "depends_on": list(probe.depends_on),
        "every": render_every(probe),
        "interval_s": probe.interval_s,
        "retry_interval_s": probe.retry_interval_s,
        "max_attempts": probe.max_attempts,
        "timeout_s": probe.timeout_s,
        "fresh_for_s": probe.fresh_for_s(),
        "weight": probe.weight.value,
        "format": probe.format.value,
        "matrix": probe.matrix,
        "metrics": list(probe.metrics),
        "commands": list(probe.commands),
        "requires": dict(probe.variables),
        "env": dict(probe.env),
        "secrets": {name: form.value for name, form in probe.secrets.items()},
        "arguments": {
            name: {"variable": one.variable, "form": one.form.value, "option": one.option, "help": one.help}
            for name, one in probe.arguments.items()
        },
        "limits": dict(probe.limits),
    }


def _look(settings: Settings) -> tuple[Site, Catalogue]:
    site = Site(settings, context.config_path())
    return site, load_probes(settings, site)


def _run_by_themselves(settings: Settings, catalogue: Catalogue) -> frozenset[ProbeName]:
    """Give the probes that the daemon runs against production."""
    on_nodes = settings.nodes.executor == "local"
    jobs = find_jobs(
        settings.probes.enabled, {None: catalogue.definitions}, (), settings.probes.max_age_s, on_nodes=on_nodes
    )
    return frozenset(job.definition.name for job in jobs.values())


def _idle_patterns(settings: Settings, catalogue: Catalogue) -> list[str]:
    """Name what ``probes.enabled`` holds and no probe here is called."""
    refused = [name for one in catalogue.refused for name in one.names]
    return [
        f"probes.enabled: {glob!r} names no probe that is installed here: correct it, or set paths.probes"
        for glob in settings.probes.enabled
        if not any(is_enabled(probe, (glob,)) for probe in catalogue.definitions) and not fnmatch.filter(refused, glob)
    ]


def _newest(site: Site) -> Mapping[str, Remembered]:
    try:
        return {str(name): result for name, result in site.history.newest_results().items()}
    except SiteError:  # somebody else's state: what is installed can be told without
        return {}


def _results(site: Site, probe: ProbeDefinition) -> list[dict[str, Any]]:
    try:
        remembered = site.history.results((probe.name, *probe.aliases))
    except SiteError:
        return []
    return [_describe_result(result) for result in remembered]


def _describe_row(catalogue: Catalogue, probe: ProbeDefinition, newest: Mapping[str, Remembered]) -> dict[str, Any]:
    known = [newest[name] for name in (probe.name, *probe.aliases) if name in newest]
    last = max(known, key=lambda result: result.at, default=None)
    return {
        "name": probe.name,
        "aliases": list(probe.aliases),
        "summary": probe.summary,
        "origin": catalogue.origins[probe.name].value,
        "where": probe.where.value,
        "interval_s": probe.interval_s,
        "every": render_every(probe),
        "last": _describe_result(last) if last else None,
        "fault": "",
    }


def _describe_refused(refused: Refused) -> dict[str, Any]:
    return {
        "name": refused.names[0] if refused.names else refused.path.name,
        "aliases": list(refused.names[1:]),
        "summary": "",
        "origin": refused.origin.value,
        "where": "refused",
        "interval_s": None,
        "every": "-",
        "by_itself": False,
        "last": None,
        "fault": refused.faults[0],
    }


def _describe_result(result: Remembered) -> dict[str, Any]:
    return {
        "status": result.status.name,
        "at": result.at.isoformat(timespec="seconds"),
        "release": result.release,
        "host": result.host,
        "summary": result.summary,
        "duration_s": round(result.duration_s, 3),
        "cause": result.cause.value,
        "attempt": result.attempt,
        "hard": result.hard,
    }


def _last(result: dict[str, Any] | None) -> str:
    return "-" if result is None else f"{result['status']} {result['at']}{'' if result['hard'] else ' (soft)'}"


def _print_probe(value: dict[str, Any]) -> None:
    context.print_line(f"{value['name']} {value['version']}: {value['summary']}")
    context.print_line(f"aliases   {', '.join(value['aliases']) or 'none'}")
    context.print_line(f"files     {value['directory']} ({value['origin']}), digest {value['digest'][:16]}")
    context.print_line(
        f"runs      on the {value['where']}, {value['every']}, for at most {value['timeout_s']} s, {value['weight']}"
    )
    for key, title in (("depends_on", "after"), ("commands", "commands"), ("vos", "VOs"), ("metrics", "metrics")):
        if value[key]:
            context.print_line(f"{title:<9} {', '.join(value[key])}")
    for key, title in (("requires", "needs"), ("env", "takes"), ("secrets", "secret")):
        for name, text in value[key].items():
            context.print_line(f"{title:<9} {name}: {text}")
    for name, argument in value["arguments"].items():
        option = f" ({argument['option']})" if argument["option"] else ""
        context.print_line(f"argument  {name}{option}: {argument['form']}; {argument['help']}")
    print_comparisons(value["comparisons"])
    for result in value["results"]:
        subject = result["release"] or "production"
        host = f" on {result['host']}" if result["host"] else ""
        context.print_line(f"{result['at']}  {result['status']:<8} {subject}{host}: {result['summary']}")
