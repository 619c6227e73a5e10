"""``pps-agent probe run``: one probe now, as a plugin of Nagios, Icinga, ETF, ARGO or NRPE."""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import click

from pps_agent import __version__
from pps_agent.cli.describe import describe_result
from pps_agent.cli.plugin import PluginCommand, limit_time, process_age_s, say
from pps_agent.cli.probe_site import load_probes_without_site, open_probes
from pps_agent.errors import AgentError
from pps_agent.probes.arguments import bind_arguments, bind_options
from pps_agent.probes.parse import clean_line, cut_summary
from pps_agent.probes.render import Place, render_json, render_nagios, render_wlcg
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.names import ProbeName
from pps_wire.report import Cause, Status

RESERVE_S: Final = 2.0
"""Of the caller's time: for ending a probe that hangs and telling it, before the caller loses patience."""
MAX_OUTPUT_BYTES: Final = 16_000
"""ARGO cuts what is longer than 16 KB."""


@click.command("run", cls=PluginCommand, add_help_option=False)
@click.argument("name", default="")
@click.option("-H", "--hostname", help="Host to test.")
@click.option("-p", "--port", help="Port to test.")
@click.option("-u", "--url", help="Address to test.")
@click.option("-w", "--warning", help="Number or range for WARNING.")
@click.option("-c", "--critical", help="Number or range for CRITICAL.")
@click.option(
    "--set", "named", multiple=True, metavar="ARGUMENT=VALUE", help="Set an argument by its name; repeatable."
)
@click.option("--release", "release_id", help="Probe this installed release; else the production client.")
@click.option("-t", "--timeout", type=click.IntRange(1, 86_400), help="Answer within this many seconds.")
@click.option("-v", "--verbose", count=True, help="Also the details; twice: also what the run took.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["nagios", "wlcg", "json"]),
    default="nagios",
    help="Form of stdout.  [default: nagios]",
)
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="json: all that is known, whatever --as says.",
)
@click.option("-V", "--version", "shows_version", is_flag=True, help="Show the version, exit 3.")
@click.option("-h", "--help", "shows_help", is_flag=True, help="Show this, and with NAME what it takes; exit 3.")
def run(
    name: str,
    named: Sequence[str],
    release_id: str | None,
    timeout: int | None,
    verbose: int,
    form: str,
    output: str,
    *,
    shows_version: bool,
    shows_help: bool,
    **options: str | None,
) -> int:
    """Run the probe NAME now, contained, and exit as a monitoring plugin does: 0 to 3, usage included.

    -H, -p, -u, -w and -c set what the probe says they set, see -h with NAME. The result is shown, not recorded: it
    neither announces nor withdraws anything. Where nodes.executor is a batch system, a probe of nodes is a job there.
    """
    if shows_version:
        return say(f"pps-agent {__version__}\n")
    if shows_help:
        return say(f"{click.get_current_context().get_help()}\n{_help_for(name)}")
    if timeout is not None:
        limit_time(timeout)
    given = {
        f"-{'H' if option == 'hostname' else option[0]}": text for option, text in options.items() if text is not None
    }
    try:
        outcome = _run(name, release_id, given, named, timeout)
    except (AgentError, WireError) as exc:
        outcome = _cannot(name, str(exc))
    results = outcome.results
    if output == "json":
        return say(json.dumps(describe_result(results[0]), indent=2) + "\n", int(results[0].status))
    return say(_render(outcome, form, verbose), int(results[0].status))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The results of one run, the probe's own first, and what WLCG tuples say of its place."""

    results: Sequence[ProbeResult]
    place: Place


def _run(
    name: str, release_id: str | None, options: Mapping[str, str], named: Sequence[str], timeout_s: int | None
) -> _Outcome:
    limit_s = None if timeout_s is None else max(1, int(timeout_s - process_age_s() - RESERVE_S))
    if not name:
        raise AgentError("name a probe: see pps-agent probe list")
    with open_probes(release_id, limit_s) as probes:
        definition = probes.find(name)
        variables = bind_options(definition, options) | bind_arguments(definition, dict(map(_split, named)))
        results = probes.executor.run_probes((definition.name,), probes.release, probes.environment() | variables)
        site = probes.settings.site
        host = options.get("-H") or socket.gethostname()
        place = Place(
            service_uri=options.get("-u") or host,
            host_name=host,
            service_flavour=definition.service_type or "Agent",
            site_name=site.name,
            gathered_at=socket.gethostname(),
            vo_name=variables.get("PPS_VO", site.vos[0]),
        )
    return _Outcome(results, place)


def _cannot(name: str, reason: str) -> _Outcome:
    """Give the UNKNOWN result of a run that never began."""
    metric = ProbeName(clean_line(name) or "pps-agent")
    first, _, rest = reason.partition("\n")
    summary = cut_summary(clean_line(first))
    result = ProbeResult(metric, None, Status.UNKNOWN, summary, rest, datetime.now(UTC), 0.0, cause=Cause.FAULT)
    host = socket.gethostname()
    return _Outcome(
        (result,),
        Place(service_uri=host, host_name=host, service_flavour="Agent", site_name="unknown", gathered_at=host),
    )


def _render(outcome: _Outcome, form: str, verbose: int) -> str:
    if form == "json":
        return render_json(outcome.results)
    if form == "wlcg":
        return render_wlcg(outcome.results, outcome.place)
    own, *others = outcome.results
    if not verbose:
        return render_nagios((replace(own, details=""),), MAX_OUTPUT_BYTES)
    if verbose > 1:
        own = replace(own, details=f"{own.details}\n{_describe_run(own)}".lstrip("\n"))
    return render_nagios((own, *others), MAX_OUTPUT_BYTES)


def _describe_run(result: ProbeResult) -> str:
    ended = f"signal {result.signal}" if result.signal is not None else f"exit {result.exit_code}"
    memory = f"{result.max_rss_bytes / 1e6:.1f} MB"
    took = f"{result.duration_s:.3f} s, {result.cpu_s:.3f} s of CPU, {memory}"
    return f"({result.cause.value}, {ended}, {took}, probe {result.digest[:12] or 'unknown'})"


def _help_for(name: str) -> str:
    """Tell what one probe takes; nothing where no probe is named or it cannot be found."""
    if not name:
        return ""
    try:
        definition = load_probes_without_site()[0].find(name)
    except AgentError:
        definition = None
    if definition is None:
        return f"\nThere is no probe {name}: see pps-agent probe list\n"
    rows = "".join(
        f"  {argument.option or f'--set {key}='} {argument.form.value.upper()}  {argument.help}\n"
        for key, argument in definition.arguments.items()
    )
    return f"\n{definition.name}: {definition.summary}\n{rows}"


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise AgentError(f"--set {text}: write ARGUMENT=VALUE")
    return key, value
