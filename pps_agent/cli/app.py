"""The command group: names and one-line helps here, bodies loaded only when called."""

import os
import sys
from typing import Any, Final

import click

from pps_agent import __version__
from pps_agent.cli.lazy import LazyGroup
from pps_agent.cli.stdout import checked_stdout
from pps_agent.errors import AgentError, exit_code_of
from pps_wire.errors import WireError

DEFAULT_CONFIG: Final = "/etc/pps-agent/agent.toml"

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "once": ("rounds", "Run one round to its end: trust, install, probe, announce, report."),
    "plan": ("rounds", "Show what a round would do now; change nothing."),
    "run": ("rounds", "Run as a daemon: rounds by the clock until told to stop."),
    "status": ("status", "Show this site's state in one page."),
    "release": ("release", "Releases at this site: look, decide, use, mend."),
    "probe": ("probe", "List probes, or run one."),
    "tag": ("tag", "List, add, remove or print VO tags."),
    "outbox": ("outbox", "Show or send the results that wait for the collector."),
    "config": ("config", "Check or show the settings."),
    "pause": ("resolve", "Stop changing anything; only withdrawn releases are still untagged."),
    "resume": ("resolve", "Undo pause or leave."),
    "leave": ("resolve", "Untag, drain and remove every release."),
    "enrol": ("enrol", "Get this site's certificate from the collector with a one-time token."),
    "setup": ("setup", "Set up who may change and publish tags; run by root."),
    "node-run": ("node_run", "Run a node's probes from a request file, as a job does."),
    "job": ("job", "One heavy step as a child process (used by the agent itself)."),
}


@click.command(
    cls=LazyGroup,
    table=COMMANDS,
    hidden={"job"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    envvar="PPS_AGENT_CONFIG",
    show_default=True,
    show_envvar=True,
    help="Settings file; conf.d/*.toml beside it adds.",
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
    with checked_stdout():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
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
