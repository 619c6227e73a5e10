"""``pps-agent probe lint``: what is wrong with probes, before a site finds out."""

from collections.abc import Sequence
from pathlib import Path

import click

from pps_agent.cli import context
from pps_agent.cli.probe_site import load_probes_without_site
from pps_agent.errors import EXIT_FAILED, AgentError
from pps_agent.probes.catalogue import Catalogue
from pps_agent.probes.client import DEFAULT_MAX_TIMEOUT_S
from pps_agent.probes.lint import lint_probe


@click.command()
@click.argument("probes", nargs=-1)
@context.output_option
def lint(probes: tuple[str, ...], output: str) -> int:
    """Look at probes as a reviewer would: metadata, program, page, tests. Names or directories; none: all installed.

    Exit codes: 0 nothing was found, 1 something was.
    """
    catalogue, settings = load_probes_without_site()
    limit_s = settings.probes.timeout_s if settings else DEFAULT_MAX_TIMEOUT_S
    paths = [locate(catalogue, probe) for probe in probes] or installed(catalogue)
    found = {str(path): list(lint_probe(path, catalogue, limit_s)) for path in paths}
    general = [] if probes else list(catalogue.faults)
    faults = [*general, *(fault for faults in found.values() for fault in faults)]
    if output == "json":
        context.print_json({"faults": general, "probes": found})
    else:
        for fault in faults:
            context.print_line(fault)
        click.echo(f"{_count(paths, 'probe')}, {_count(faults, 'fault')}")
    return EXIT_FAILED if faults else 0


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def installed(catalogue: Catalogue) -> list[Path]:
    """Give the directories of all installed probes, those that are refused too."""
    return sorted({*(probe.run.parent for probe in catalogue.definitions), *(one.path for one in catalogue.refused)})


def locate(catalogue: Catalogue, probe: str) -> Path:
    """Give the directory of a probe named by its directory, name or alias. Raises: AgentError."""
    if "/" in probe or Path(probe, "probe.toml").exists():
        if not Path(probe).is_dir():
            raise AgentError(f"{probe}: no such directory: name an installed probe or the directory of one")
        return Path(probe).absolute()
    found = catalogue.find(probe)
    if found is not None:
        return found.run.parent
    for refused in catalogue.refused:
        if refused.is_called(probe):
            return refused.path
    raise AgentError(catalogue.why_not(probe))
