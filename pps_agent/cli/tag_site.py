"""What the tag commands share: options, the subclusters meant, and how text that is no tag is refused."""

import sys
from typing import Final

import click

from pps_agent.settings_tags import TagSections
from pps_agent.tags.areas import Area, choose_area
from pps_agent.tags.errors import UnknownTargetError
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, parse_subcluster

EXIT_REFUSED: Final = 1

vo_option = click.option("--vo", required=True, help="Virtual organisation.")
any_vo_option = click.option("--vo", help="Virtual organisation; else all.")
sc_option = click.option("--sc", help="Subcluster; else all of the site's.")
preproduction_option = click.option(
    "--preproduction", is_flag=True, help="The tags of the pre-production information system, not production's."
)


def meant(settings: TagSections, sc: str | None, *, preproduction: bool) -> tuple[Area, tuple[Subcluster, ...]]:
    """Give the information system that a command means, and those of its subclusters.

    Raises: WireError for what is no name; UnknownTargetError.
    """
    if sc is None:
        area = choose_area(settings, None, preproduction=preproduction)
        return area, area.subclusters
    name = parse_subcluster(sc)
    return choose_area(settings, name, preproduction=preproduction), (name,)


def refuse_no_subcluster(area: Area) -> None:
    """Without a subcluster there is nowhere to write, which is not the same as "done". Raises: UnknownTargetError."""
    if not area.subclusters:
        raise UnknownTargetError("this site has no subcluster: set site.subclusters")


def refuse(error: WireError) -> int:
    """Report text that is no tag: refused, exit 1, as lcg-ManageVOTag's callers expect."""
    click.echo(f"pps-agent: error: {error}", err=True)
    sys.stderr.flush()
    return EXIT_REFUSED
