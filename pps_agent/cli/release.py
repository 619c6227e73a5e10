"""``pps-agent release``: the group; its commands load when they are called."""

from typing import Final

import click

from pps_agent.cli.lazy import LazyGroup, Table

RELEASE_COMMANDS: Final[Table] = {
    "list": ("releases", "List every release on offer or installed, with its state and the reason."),
    "show": ("releases", "Show one release: state, description, requirements, environment."),
    "accept": ("consent", "Let a release in that waits for consent; the next round installs it."),
    "decline": ("consent", "Keep a release out; if it is in, it is untagged, drained and removed."),
    "acknowledge": ("steps", "Say that a configuration step is done; its check command must pass."),
    "install": ("retention", "Accept a release and install it now; other releases stay as they are."),
    "remove": ("retention", "Decline a release: switch away and untag it now, drain it, remove it."),
    "verify": ("verify", "Read every file of installed releases and compare it with what was signed."),
    "repair": ("repair", "Mend a damaged release, and every other that shares its damaged files."),
    "rollback": ("rollback", "Go back to the release that was current before, at once and without a network."),
    "pin": ("pin", "Let nothing remove a release."),
    "unpin": ("pin", "Take a pin away; the next round treats the release like any other."),
    "gc": ("retention", "Untag, drain and remove what is unwanted or superseded; sweep the store."),
    "env": ("environment", "Print what makes a shell, a module, an ARC job or a container use a release."),
    "shell": ("environment", "Start a shell, or run one command, that uses a release."),
}


@click.group(cls=LazyGroup, table=RELEASE_COMMANDS, attributes={"list": "list_releases"})
def release() -> None:
    """Releases at this site: look, decide, use, mend."""
