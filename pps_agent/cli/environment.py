"""``release env`` and ``shell``: use a release. For every user of the node: they read the store, nothing else."""

import os
from typing import Final

import click

from pps_agent.cli import context
from pps_agent.environment.compose import extend_environment
from pps_agent.environment.render import RENDERERS
from pps_agent.environment.save import load_composed
from pps_agent.environment.values import Composed
from pps_agent.errors import AgentError
from pps_agent.store import Store

EXIT_CANNOT_RUN: Final = 126
EXIT_NOT_FOUND: Final = 127
"""What a shell answers for a command it cannot run or find (POSIX, XCU 2.8.2)."""


@click.command()
@click.argument("release_id")
@click.option("--shell", type=click.Choice(list(RENDERERS)), default="sh", show_default=True, help="For whom.")
@context.output_option
def env(release_id: str, shell: str, output: str) -> None:
    """Print what makes a shell, a module, an ARC job or a container use a release.

    RELEASE_ID is a release or one of its tags. In sh: eval "$(pps-agent release env ID)". In csh:
    source the printed file. rte is a runtime environment script; apptainer is sh to be evaluated
    before apptainer exec.
    """
    composed = _load(release_id)
    text = RENDERERS[shell](composed)
    if output == "json":
        context.print_json(
            {"release": composed.release, "assign": dict(composed.assign), "prepend": dict(composed.prepend)}
            | {"shell": shell, "text": text}
        )
    else:
        click.echo(text, nl=False)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("release_id")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(release_id: str, command: tuple[str, ...]) -> int:
    """Start a shell, or run one command, that uses a release.

    RELEASE_ID is a release or one of its tags. Without COMMAND it is $SHELL; what its start-up files
    set comes after the release's settings. The exit code is the command's.
    """
    environment = extend_environment(os.environ, _load(release_id))
    argv = list(command[command[:1] == ("--",) :]) or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is wanted
    except FileNotFoundError:
        click.echo(f"pps-agent: error: {argv[0]}: not found, neither in the release nor on PATH", err=True)
        return EXIT_NOT_FOUND
    except OSError as exc:
        click.echo(f"pps-agent: error: {argv[0]}: {exc.strerror}", err=True)
        return EXIT_CANNOT_RUN


def _load(wanted: str) -> Composed:
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    installed = {release: store.description(release) for release in store.ids()}
    for release, description in installed.items():
        if wanted == release or (description is not None and wanted in description.tags().values()):
            return load_composed(store.path(release))
    there = ", ".join(installed) or "none"
    raise AgentError(f"{wanted}: no such release or tag is installed here; installed are: {there}")
