"""The tag lists that a site's settings name."""

from pps_agent.settings import Settings
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster


def open_tags(
    settings: Settings, subclusters: tuple[Subcluster, ...] | None = None, *, everywhere: bool = True
) -> TagStore:
    """Give the site's tag lists, or those of these subclusters. ``everywhere``: the global lists count too."""
    chosen = settings.site.subclusters if subclusters is None else subclusters
    return TagStore(settings.paths.tags, chosen, global_base=settings.paths.global_tags if everywhere else None)
