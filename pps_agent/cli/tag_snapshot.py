"""What ``tag ldif``, ``tag render`` and ``tag arc`` share: the tags of the subclusters meant, where they are kept."""

from pathlib import Path

import click

from pps_agent.cli.tag_site import meant
from pps_agent.settings import Settings
from pps_agent.tags.areas import Area
from pps_agent.tags.snapshot import Snapshot, take_snapshot

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Directory for the last good lists, which this account may write to; else paths.cache.",
)


def snapshot_of(
    settings: Settings, sc: str | None, cache: Path | None, *, preproduction: bool
) -> tuple[Area, Snapshot]:
    """Give the information system meant and the tags of its subclusters; each choice has last good lists of its own.

    Raises: WireError for what is no name, UnknownTargetError for a subcluster that is not the site's: it would have no
    tags, which is not the same.
    """
    area, chosen = meant(settings, sc, preproduction=preproduction)
    return area, take_snapshot(area.open(chosen), cache or settings.paths.cache, area.name_of(chosen))
