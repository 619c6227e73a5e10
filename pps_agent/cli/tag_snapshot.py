"""What ``tag ldif``, ``tag render`` and ``tag arc`` share: the tags of the subclusters meant, where they are kept."""

from pathlib import Path

import click

from pps_agent.cli.tag_site import meant
from pps_agent.settings_tags import TagSections
from pps_agent.tags.areas import Area
from pps_agent.tags.snapshot import Snapshot, take_snapshot

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Directory for the last good lists, which this account may write to; else paths.cache.",
)


def snapshot_of(
    settings: TagSections, sc: str | None, cache: Path | None, *, preproduction: bool, dry_run: bool = False
) -> tuple[Area, Snapshot]:
    """Give the information system meant and the tags of its subclusters; each choice has last good lists of its own.

    A dry run neither keeps nor uses these.
    Raises: WireError for what is no name, UnknownTargetError for a subcluster that is not the site's: it would have no
    tags, which is not the same.
    """
    area, chosen = meant(settings, sc, preproduction=preproduction)
    kept = None if dry_run else cache or settings.paths.cache
    return area, take_snapshot(area.open(chosen), kept, area.name_of(chosen))
