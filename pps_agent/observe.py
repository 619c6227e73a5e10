"""Looks at store, history, tag files and processes, and changes nothing.

What cannot be looked at becomes Unknown with the reason; the plan knows what follows from that.
"""

from collections.abc import Mapping

from pps_agent.errors import SiteError
from pps_agent.history import History
from pps_agent.state import Installed, Observed, Unknown
from pps_agent.store import Store
from pps_agent.tags.errors import TagError
from pps_agent.tags.store import TagStore
from pps_wire.names import Component, ReleaseId, Subcluster, Tag

Published = Mapping[Subcluster, frozenset[Tag]] | Unknown | None


def observe(store: Store, tags: TagStore, history: History, profile: str | Unknown, published: Published) -> Observed:
    """Give one sight of the site. ``profile`` and ``published`` are costly looks, made once a round."""
    installed, current = _observe_store(store)
    return Observed(
        installed=installed,
        current=current,
        profile=profile,
        probes=history.verdicts(),
        tags=_observe_tags(tags),
        published=published,
        draining=history.drains(),
        in_use=store.in_use(),
    )


def _observe_store(
    store: Store,
) -> tuple[Mapping[ReleaseId, Installed] | Unknown, Mapping[Component, ReleaseId]]:
    try:
        return store.installed(), store.current()
    except SiteError as exc:
        return Unknown(str(exc)), {}


def _observe_tags(tags: TagStore) -> Mapping[Subcluster, frozenset[Tag]] | Unknown:
    try:
        return {subcluster: tags.tags(subcluster) for subcluster in tags.subclusters}
    except TagError as exc:
        return Unknown(str(exc))
