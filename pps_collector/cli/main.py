"""The command group: sub-commands are found by name and imported when called, help comes from a table."""

import importlib
import sys
from typing import Final

import click

from pps_collector import __version__
from pps_collector.errors import CollectorError

_COMMANDS: Final = {
    "enrol-token": ("pps_collector.cli.enrol_token", "Make a one-time token that enrols one agent of a site."),
    "migrate": ("pps_collector.cli.migrate", "Make the database and the certificate authority ready."),
    "openapi": ("pps_collector.cli.openapi", "Print the OpenAPI document."),
    "serve": ("pps_collector.cli.serve", "Take reports from agents and show the pages."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pps-collector", message="%(prog)s %(version)s")
def cli() -> None:
    """Collect what the sites report and show which version is where.

    Exit codes: 0 ok, 1 failed, 2 usage, 4 certificate authority damaged, 6 this machine,
    75 the database does not answer, 78 settings.
    """


def run() -> None:
    """Run the command line; an expected error becomes its message and exit code."""
    try:
        cli()
    except CollectorError as exc:
        click.echo(f"pps-collector: {exc}", err=True)
        sys.exit(exc.exit_code)
