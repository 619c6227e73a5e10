"""What the tag commands share: options, the subclusters meant, and how text that is no tag is refused."""

import sys
from typing import Final

import click

from pps_agent.settings import Settings
from pps_agent.tags.errors import UnknownTargetError
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, parse_subcluster

EXIT_REFUSED: Final = 1

vo_option = click.option("--vo", required=True, help="Virtual organisation.")
any_vo_option = click.option("--vo", help="Virtual organisation; else all.")
sc_option = click.option("--sc", help="Subcluster; else all of the site's.")


def subclusters(settings: Settings, sc: str | None) -> tuple[Subcluster, ...]:
    """Give the subclusters a command means. Raises: WireError for what is no name."""
    return settings.site.subclusters if sc is None else (parse_subcluster(sc),)


def refuse_no_subcluster(settings: Settings) -> None:
    """Without a subcluster there is nowhere to write, which is not the same as "done"."""
    if not settings.site.subclusters:
        raise UnknownTargetError("this site has no subcluster: set site.subclusters")


def refuse(error: WireError) -> int:
    """Report text that is no tag: refused, exit 1, as lcg-ManageVOTag's callers expect."""
    click.echo(f"pps-agent: error: {error}", err=True)
    sys.stderr.flush()
    return EXIT_REFUSED
