"""Looks at store, history, tag files and processes, and changes nothing.

What cannot be looked at becomes Unknown with the reason; the plan knows what follows from that.
"""

from collections.abc import Iterable, Mapping

from pps_agent.errors import SiteError
from pps_agent.memory import Memory
from pps_agent.state import Installed, Observed, Unknown, VoList
from pps_agent.store import Store
from pps_agent.tags.areas import SiteTags
from pps_agent.tags.errors import TagError
from pps_agent.tags.life import Life
from pps_agent.tags.lists import TagLists
from pps_wire.names import Component, ReleaseId, Subcluster, Tag, Vo

Published = Mapping[Subcluster, frozenset[Tag]] | Unknown | None
Production = Mapping[Component, str | Unknown]


def observe(
    store: Store,
    tags: SiteTags,
    former: SiteTags,
    vos: Iterable[Vo],
    memory: Memory | Unknown,
    profile: str | Unknown,
    published: Published,
) -> Observed:
    """Give one sight of the site. ``profile`` and ``published`` are costly looks, made once a round.

    ``former`` are the lists of subclusters the site serves no more; ``vos`` those that may be offered previews. Under
    an unknown ``memory`` there are no verdicts and no drains, from which nothing but caution follows.
    """
    installed, current = _observe_store(store)
    pins = _observe_pins(store)
    spurned = memory.spurned() if isinstance(memory, Memory) else ()
    return Observed(
        installed=installed,
        current=current,
        profile=profile,
        probes={} if isinstance(memory, Unknown) else memory.verdicts,
        tags=_observe_tags(tags, vos),
        published=published,
        draining={} if isinstance(memory, Unknown) else memory.drains,
        in_use=store.in_use(),
        previous={} if isinstance(installed, Unknown) else store.previous(spurned),
        pins=pins,
        former_tags=_observe_tags(former, vos),
        lives=_observe_lives(tags, vos),
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


def _observe_tags(tags: SiteTags, vos: Iterable[Vo]) -> Mapping[VoList, frozenset[Tag] | Unknown]:
    """Look at the lists of these VOs and of any other there is; one that cannot be read hides no other."""
    found: dict[VoList, frozenset[Tag] | Unknown] = {}
    for subcluster, store in tags.serving():
        for vo in dict.fromkeys((*vos, *_vos_of(store, subcluster))):
            found[subcluster, vo] = _join(found.get((subcluster, vo)), _observe_list(store, subcluster, vo))
    return found


def _vos_of(store: TagLists, subcluster: Subcluster) -> tuple[Vo, ...]:
    try:
        return store.vos(subcluster)
    except TagError:
        return ()  # told with each list of the site's VOs


def _observe_list(store: TagLists, subcluster: Subcluster, vo: Vo) -> frozenset[Tag] | Unknown:
    try:
        return frozenset(store.standing(vo, subcluster))
    except TagError as exc:
        return Unknown(str(exc))


def _join(before: frozenset[Tag] | Unknown | None, there: frozenset[Tag] | Unknown) -> frozenset[Tag] | Unknown:
    """Put together what stands in two places of a former subcluster."""
    if before is None or isinstance(there, Unknown):
        return there
    return before if isinstance(before, Unknown) else before | there


def _observe_lives(tags: SiteTags, vos: Iterable[Vo]) -> Mapping[VoList, Mapping[Tag, Life] | Unknown]:
    found: dict[VoList, Mapping[Tag, Life] | Unknown] = {}
    for store in tags.stores:
        for vo in dict.fromkeys((*vos, *_vos_with_ledger(store))):
            try:
                known = store.lives(vo)
            except TagError as exc:
                found |= dict.fromkeys(((subcluster, vo) for subcluster in store.subclusters), Unknown(str(exc)))
            else:
                found |= {(subcluster, vo): known.of(subcluster) for subcluster in store.subclusters}
    return found


def _vos_with_ledger(store: TagLists) -> tuple[Vo, ...]:
    try:
        return store.known_vos()
    except TagError:
        return ()  # told with each list
