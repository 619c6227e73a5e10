"""``pps-agent probe clone``: a new probe from one that is there."""

from pathlib import Path

import click

from pps_agent.cli import context
from pps_agent.cli.probe_lint import locate
from pps_agent.cli.probe_site import load_probes_without_site
from pps_agent.errors import AgentError, ConfigError
from pps_agent.probes.clone import check_target, clone_probe
from pps_agent.probes.directory import read_probe
from pps_agent.settings import Settings
from pps_wire.names import parse_probe_name


@click.command()
@click.argument("source")
@click.argument("new")
@click.option(
    "--to", "directory", type=click.Path(path_type=Path), help="Where to put it; else the first of paths.probes."
)
@click.option("--name", help="Its full name, where NEW is to be its directory's name only.")
@context.dry_run_option
@context.output_option
def clone(source: str, new: str, directory: Path | None, name: str | None, dry_run: bool, output: str) -> None:
    """Copy probe SOURCE (a name or a directory) to a new one called NEW, e.g. org.example.se.eos.

    The copy has a name of its own and no alias; program, page and tests speak of the new name.
    """
    catalogue, settings = load_probes_without_site()
    probe_name = parse_probe_name(name or new)
    if "/" in new or new.startswith("."):
        raise click.UsageError(f"{new} is no name: give the directory with --to")
    if other := catalogue.find(probe_name):
        raise AgentError(f"{probe_name} is the name of {other.run.parent} already")
    read = read_probe(locate(catalogue, source))
    if read.definition is None:
        raise ConfigError(read.faults)
    target = (directory or _own_directory(settings)).absolute() / new
    check_target(target)
    if dry_run:
        context.print_plan(f"copy {read.path} to {target} as {probe_name}", output)
        return
    clone_probe(read.definition, probe_name, target)
    if output == "json":
        context.print_json({"name": probe_name, "directory": str(target), "source": read.definition.name})
        return
    context.print_line(f"{probe_name} is in {target}; change its run, README.md and tests, then")
    context.print_line(f"  pps-agent probe lint {target}")
    context.print_line(f"  pps-agent probe test {target}")


def _own_directory(settings: Settings | None) -> Path:
    if settings is None or not settings.paths.probes:
        raise AgentError("the settings name no directory for the site's own probes: set paths.probes, or give --to DIR")
    return settings.paths.probes[0]
