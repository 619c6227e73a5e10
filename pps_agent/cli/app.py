"""The command group: names and one-line helps here, bodies loaded only when called."""

import importlib
import io
import os
import sys
from typing import Any, Final

import click

from pps_agent import __version__
from pps_agent.errors import AgentError, exit_code_of
from pps_wire.errors import WireError

DEFAULT_CONFIG: Final = "/etc/pps-agent/agent.toml"

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "once": ("rounds", "Run one round to its end: trust, install, probe, announce, report."),
    "plan": ("rounds", "Show what a round would do now; change nothing."),
    "run": ("rounds", "Run as a daemon: rounds by the clock until told to stop."),
    "status": ("status", "Show this site's state in one page."),
    "release": ("release", "List, show, accept or decline releases."),
    "probe": ("probe", "List probes, or run one."),
    "tag": ("tag", "List, add, remove or print VO tags."),
    "outbox": ("outbox", "Show or send the results that wait for the collector."),
    "config": ("config", "Check or show the settings."),
    "pause": ("resolve", "Stop changing anything; only withdrawn releases are still untagged."),
    "resume": ("resolve", "Undo pause or leave."),
    "leave": ("resolve", "Untag, drain and remove every release."),
    "enrol": ("enrol", "Get this site's certificate from the collector with a one-time token."),
    "job": ("job", "One heavy step as a child process (used by the agent itself)."),
}
_HIDDEN: Final = {"job"}


class LazyGroup(click.Group):
    """Lists the commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names in reading order."""
        return [name for name in COMMANDS if name not in _HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import and give one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pps_agent.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named; suggest the nearest one when there is none."""
        if args and args[0] not in COMMANDS:
            import difflib  # only on the way to an error

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See pps-agent --help."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the one-line helps."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config", default=DEFAULT_CONFIG, show_default=True, help="Settings file; conf.d/*.toml beside it adds."
)
@click.version_option(__version__, prog_name="pps-agent", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context, config: str) -> None:
    """Install preview grid clients beside production, test them, announce them, report.

    Exit codes: 0 done, 1 failed, 2 usage, 4 trust, 6 this machine, 7 bad message,
    69 refused by a server, 75 try again later, 78 settings.
    """
    ctx.obj = config


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and give its exit code; errors go to stderr, never a traceback for an expected one."""
    # Store, tags and environments are for others to read, whatever the caller's umask; what is
    # private (identity, state directory) states its mode where it is made.
    os.umask(0o022)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show is no reason to fail
    try:
        result: Any = app.main(arguments, prog_name="pps-agent", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("pps-agent: interrupted; run the same command again to go on", err=True)
        return 130
    except (AgentError, WireError) as exc:
        _print_error(exc)
        return exit_code_of(exc)
    return result if isinstance(result, int) else 0


def _print_error(error: AgentError | WireError) -> None:
    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    for line in str(error).splitlines():
        click.echo(f"{click.style('pps-agent: error:', fg='red', bold=True)} {line}", err=True, color=color)
