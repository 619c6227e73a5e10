"""Looks at store, history, tag files and processes, and changes nothing.

What cannot be looked at becomes Unknown with the reason; the plan knows what follows from that.
"""

from collections.abc import Mapping

from pps_agent.errors import SiteError
from pps_agent.memory import Memory
from pps_agent.state import Installed, Observed, Unknown
from pps_agent.store import Store
from pps_agent.tags.errors import TagError
from pps_agent.tags.life import Life
from pps_agent.tags.store import TagStore
from pps_wire.names import Component, ReleaseId, Subcluster, Tag, Vo

Published = Mapping[Subcluster, frozenset[Tag]] | Unknown | None
Production = Mapping[Component, str | Unknown]


def observe(
    store: Store,
    tags: TagStore,
    former: TagStore,
    memory: Memory | Unknown,
    profile: str | Unknown,
    published: Published,
) -> Observed:
    """Give one sight of the site. ``profile`` and ``published`` are costly looks, made once a round.

    ``former`` are the lists of subclusters the site serves no more. Under an unknown ``memory`` there
    are no verdicts and no drains, from which nothing but caution follows.
    """
    installed, current = _observe_store(store)
    pins = _observe_pins(store)
    spurned = memory.spurned() if isinstance(memory, Memory) else ()
    return Observed(
        installed=installed,
        current=current,
        profile=profile,
        probes={} if isinstance(memory, Unknown) else memory.verdicts,
        tags=_observe_tags(tags),
        published=published,
        draining={} if isinstance(memory, Unknown) else memory.drains,
        in_use=store.in_use(),
        previous={} if isinstance(installed, Unknown) else store.previous(spurned),
        pins=pins,
        former_tags=_observe_tags(former),
        lives=_observe_lives(tags),
    )


def _observe_store(
    store: Store,
) -> tuple[Mapping[ReleaseId, Installed] | Unknown, Mapping[Component, ReleaseId]]:
    try:
        return store.installed(), store.current()
    except SiteError as exc:
        return Unknown(str(exc)), {}


def _observe_pins(store: Store) -> Mapping[ReleaseId, str] | Unknown:
    try:
        return {release: pin.reason for release, pin in store.pins().items()}
    except SiteError as exc:
        return Unknown(str(exc))


def _observe_lives(tags: TagStore) -> Mapping[Vo, Mapping[Subcluster, Mapping[Tag, Life]]] | Unknown:
    if not tags.subclusters:
        return {}
    try:
        return {vo: tags.lives(vo).tags for vo in tags.known_vos()}
    except TagError as exc:
        return Unknown(str(exc))


def _observe_tags(tags: TagStore) -> Mapping[Subcluster, frozenset[Tag]] | Unknown:
    try:
        return {subcluster: tags.tags(subcluster) for subcluster in tags.subclusters}
    except TagError as exc:
        return Unknown(str(exc))
