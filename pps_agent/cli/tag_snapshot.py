"""What ``tag ldif``, ``tag render`` and ``tag arc`` share: the tags of the subclusters meant, where they are kept."""

from pathlib import Path

import click

from pps_agent.cli.tag_site import subclusters
from pps_agent.settings import Settings
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.open import open_tags
from pps_agent.tags.snapshot import Snapshot, take_snapshot

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Directory for the last good lists, which this account may write to; else paths.cache.",
)


def snapshot_of(settings: Settings, sc: str | None, cache: Path | None) -> Snapshot:
    """Give the tags of one subcluster, or of all; each choice has last good lists of its own.

    Raises: WireError for what is no name, UnknownTargetError for a subcluster that is not the site's: it would have no
    tags, which is not the same.
    """
    chosen = subclusters(settings, sc)
    for subcluster in chosen:
        if subcluster not in settings.site.subclusters:
            raise UnknownTargetError(
                f"{subcluster!r} is not a subcluster of this site; known: {', '.join(settings.site.subclusters)}"
            )
    return take_snapshot(open_tags(settings, chosen), cache or settings.paths.cache, of="" if sc is None else chosen[0])
