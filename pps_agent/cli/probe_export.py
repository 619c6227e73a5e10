"""``pps-agent probe export``: the probes as definitions for a site's own scheduler."""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pps_agent.check_pps import DEFAULT_FILE
from pps_agent.cli import context
from pps_agent.cli.app import DEFAULT_CONFIG
from pps_agent.cli.probe_site import load_probes_without_site
from pps_agent.errors import AgentError
from pps_agent.probes.catalogue import Catalogue
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.export.checks import Mode, Target, plan_checks
from pps_agent.probes.export.icinga import render_icinga
from pps_agent.probes.export.nagios import render_nagios, render_nrpe
from pps_agent.probes.export.sensu import render_sensu
from pps_agent.settings import Settings


@click.command("export")
@click.argument("probes", nargs=-1)
@click.option(
    "--for",
    "scheduler",
    type=click.Choice(["nagios", "icinga", "nrpe", "sensu"]),
    required=True,
    help="Whose form to write; nrpe: the commands of nrpe.cfg on this machine.",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.CACHED.value,
    show_default=True,
    help="Who runs the probes: the scheduler; the daemon, whose newest result it reads; or others, who submit.",
)
@click.option("--host", help="What the scheduler calls this machine.  [default: its host name]")
@click.option(
    "--template",
    default="generic-service",
    show_default=True,
    help="What services of Nagios and Icinga inherit; '' for nothing.",
)
@click.option("--nrpe", default="", help="Path of check_nrpe at a scheduler that asks through NRPE; else it runs here.")
@click.option("--as-user", default="", help="Account that active checks run as, through sudo -n -u.")
@click.option("--subscription", default="", help="Sensu's subscription.  [default: entity:HOST]")
@click.option(
    "--programs",
    type=click.Path(path_type=Path),
    help="Directory of pps-agent and check_pps where they run.  [default: this program's]",
)
def export(
    probes: Sequence[str],
    scheduler: str,
    mode: str,
    host: str | None,
    template: str,
    nrpe: str,
    as_user: str,
    subscription: str,
    programs: Path | None,
) -> None:
    """Print definitions of PROBES (all by default) for a scheduler. Nothing is written: redirect them to a file."""
    catalogue, settings = load_probes_without_site()
    sudo = ("sudo", "-n", "-u", as_user) if as_user else ()
    directory = programs or Path(sys.argv[0]).absolute().parent
    target = Target(
        host=host or socket.gethostname(),
        agent=(*sudo, *_agent_words(directory)),
        check=_check_words(directory, settings),
        template=template,
        nrpe=nrpe,
        subscription=subscription,
    )
    checks = plan_checks(_choose(catalogue, probes), target, Mode(mode))
    if scheduler == "nrpe":
        click.echo(render_nrpe(checks), nl=False)
    else:
        render = {"nagios": render_nagios, "icinga": render_icinga, "sensu": render_sensu}[scheduler]
        click.echo(render(checks, target), nl=False)


def _choose(catalogue: Catalogue, names: Sequence[str]) -> list[ProbeDefinition]:
    if not names:
        return list(catalogue.definitions)
    found = {name: catalogue.find(name) for name in names}
    missing = [catalogue.why_not(name) for name, definition in found.items() if definition is None]
    if missing:
        raise AgentError("\n".join(missing))
    return list({definition.name: definition for definition in found.values() if definition is not None}.values())


def _agent_words(directory: Path) -> tuple[str, ...]:
    config = str(context.config_path())
    return (str(directory / "pps-agent"), *(("--config", config) if config != DEFAULT_CONFIG else ()))


def _check_words(directory: Path, settings: Settings | None) -> tuple[str, ...]:
    published = settings.probes.publish if settings is not None else None
    file = str(published / "results.jsonl") if published is not None else DEFAULT_FILE
    return (str(directory / "check_pps"), *(("--file", file) if file != DEFAULT_FILE else ()))
