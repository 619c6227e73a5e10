"""``pps-agent probe``: what can be probed, and one probe by hand with a plugin's exit code."""

import contextlib
import sys

import click

from pps_agent.cli import context
from pps_agent.cli.describe import describe_result
from pps_agent.environment.capture import capture
from pps_agent.errors import AgentError
from pps_agent.execute import Executor
from pps_agent.probes.catalogue import load_catalogue
from pps_agent.reconcile import Site
from pps_agent.state import ProbeResult, Unknown
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId
from pps_wire.report import Status


@click.group()
def probe() -> None:
    """List probes, or run one."""


@probe.command("list")
@context.output_option
def list_probes(output: str) -> None:
    """List the installed probes."""
    catalogue = load_catalogue(context.settings().paths.probes)
    if output == "json":
        rows = [{"name": d.name, "aliases": list(d.aliases), "summary": d.summary} for d in catalogue.definitions]
        context.print_json(rows)
    else:
        rows_text = [(d.name, ", ".join(d.aliases), d.summary) for d in catalogue.definitions]
        context.print_table(("NAME", "ALIASES", "SUMMARY"), rows_text)


class PluginUsageError(click.UsageError):
    """A usage error that a scheduler reads as UNKNOWN."""

    exit_code = int(Status.UNKNOWN)


class PluginCommand(click.Command):
    """A command that speaks a monitoring plugin's exit codes only: what is no verdict is 3, UNKNOWN."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; a usage error is UNKNOWN, since 2 would read as CRITICAL."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            raise PluginUsageError(exc.format_message(), ctx) from exc


@probe.command(cls=PluginCommand)
@click.argument("name")
@click.option("--release", "release_id", help="Probe this installed release; else the production client.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(name: str, release_id: str | None, output: str) -> int:
    """Run one probe now, contained, and exit as a monitoring plugin does: 0 to 3, usage included.

    The result is shown, not recorded: it neither announces nor withdraws anything.
    """
    try:
        result = _run(name, release_id)
    except (AgentError, WireError) as exc:
        click.echo(f"UNKNOWN: {exc}")
        return int(Status.UNKNOWN)
    if output == "json":
        context.print_json(describe_result(result))
    else:
        click.echo(f"{result.status.name}: {result.summary}")
        if result.details:
            click.echo(result.details)
    sys.stdout.flush()
    return int(result.status)


def _run(name: str, release_id: str | None) -> ProbeResult:
    settings = context.settings()
    catalogue = load_catalogue(settings.paths.probes)
    definition = catalogue.find(name)
    if definition is None:
        close = catalogue.closest(name)
        hint = f"did you mean {close}?" if close else "see pps-agent probe list"
        raise AgentError(f"no probe is called {name}: {hint}")
    captured = capture(settings.environment.profile, settings.environment.timeout_s)
    site = Site(settings, context.config_path())
    executor = Executor(
        settings, site.store, site.tags, site.history, site.jobs, captured, Unknown("a probe by hand installs nothing")
    )
    with contextlib.closing(executor):
        if release_id is None:
            environment = {} if isinstance(captured, Unknown) else dict(captured.variables)
            return executor.run_probes((definition.name,), None, environment | settings.probes.env)[0]
        installed = site.store.installed().get(ReleaseId(release_id))
        if installed is None:
            raise AgentError(f"{release_id} is not installed: see pps-agent release list")
        environment = executor.probe_environment(installed.id, installed.release.version)
        return executor.run_probes((definition.name,), installed.id, environment)[0]
