"""The command group: sub-commands are imported only when called; errors become exit codes."""

import importlib
from collections.abc import Sequence
from typing import Final

import click

from pps_publisher import __version__
from pps_publisher.errors import PublishError, SiteError, exit_code_of
from pps_wire.errors import WireError

_COMMANDS: Final = {
    "init": ("pps_publisher.cli.init", "Make the keys and an empty signed repository."),
    "keys": ("pps_publisher.cli.keys", "List keys, make one, or exchange those of a repository."),
    "build": ("pps_publisher.cli.build", "Build a release from a tree, a tarball, RPM or Debian packages."),
    "publish": ("pps_publisher.cli.publish", "Stage builds with the first of two signatures."),
    "sign": ("pps_publisher.cli.sign", "Add a signature; what is complete is served."),
    "withdraw": ("pps_publisher.cli.withdraw", "Take a release back; one signature suffices."),
    "refresh": ("pps_publisher.cli.refresh", "Sign snapshot and timestamp: sites see what is served."),
    "mirror": ("pps_publisher.cli.mirror", "Publish another repository's releases in one of your own."),
    "verify": ("pps_publisher.cli.verify", "Check every signature, date and byte of a repository."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pps-publish", message="%(prog)s %(version)s")
def group() -> None:
    """Build, sign and serve previews of grid clients.

    A release is built once, signed by two people, and seen by sites after a refresh. Exit codes:
    0 done, 1 refused, 2 usage, 4 keys, signatures or damage, 5 done but people must sign soon,
    6 this machine, 7 malformed input, 75 network, 78 a file of yours.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors are told on stderr."""
    try:
        outcome = group.main(list(arguments), prog_name="pps-publish", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("pps-publish: stopped; nothing was changed", err=True)
        return 1
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (PublishError, WireError) as exc:
        return _explain(exc)
    except OSError as exc:
        place = exc.filename or "this machine"
        return _explain(SiteError(f"{place}: {exc.strerror or exc}; look at its disk and access rights"))
    return outcome if isinstance(outcome, int) else 0


def _explain(error: PublishError | WireError) -> int:
    click.echo(f"pps-publish: {error}", err=True)
    return exit_code_of(error)
