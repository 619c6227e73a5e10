"""Where tags are: the lists of production's information system and, at a site that has one, of pre-production's.

Each area has lists, subclusters and servers of its own and shares none with the other, so that nothing announced in one
can show in the other. No subcluster is in both, so its name alone says which area is meant.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pps_agent.settings_tags import PreproductionSettings, TagSections
from pps_agent.tags.change import Request
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.life import Life
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster, Tag, Vo

PRODUCTION: Final = "production"
PREPRODUCTION: Final = "preproduction"


class Area(NamedTuple):
    """One information system: its subclusters, where their lists are, and the servers that show them."""

    name: str
    subclusters: tuple[Subcluster, ...]
    hosts: tuple[str, ...]
    base: Path
    global_base: Path | None
    servers: tuple[str, ...]
    search_base: str
    service: str
    manager: str
    ldif: Path | None

    def open(self, subclusters: tuple[Subcluster, ...] | None = None, *, everywhere: bool = True) -> TagStore:
        """Give the lists, or those of these subclusters. ``everywhere``: the global lists count too."""
        chosen = self.subclusters if subclusters is None else subclusters
        return TagStore(self.base, chosen, global_base=self.global_base if everywhere else None)

    def name_of(self, subclusters: tuple[Subcluster, ...]) -> str:
        """Give a name for what is kept of these subclusters: of all of the area, or of one."""
        return self.name if subclusters == self.subclusters else f"{self.name}-{'-'.join(subclusters)}"


def find_areas(settings: TagSections) -> tuple[Area, ...]:
    """Give production's area and, where the settings name subclusters for it, pre-production's."""
    site, paths, infosys, pre = settings.site, settings.paths, settings.infosys, settings.preproduction
    production = Area(
        name=PRODUCTION,
        subclusters=site.subclusters,
        hosts=site.hosts,
        base=paths.tags,
        global_base=paths.global_tags,
        servers=_servers(infosys.url, infosys.mirrors),
        search_base=infosys.base,
        service=infosys.service,
        manager=infosys.manager,
        ldif=infosys.ldif,
    )
    return (production, _preproduction(pre)) if pre.subclusters else (production,)


def _preproduction(pre: PreproductionSettings) -> Area:
    return Area(
        name=PREPRODUCTION,
        subclusters=pre.subclusters,
        hosts=pre.hosts,
        base=pre.tags,
        global_base=pre.global_tags,
        servers=_servers(pre.url, pre.mirrors),
        search_base=pre.base,
        service=pre.service,
        manager=pre.manager,
        ldif=pre.ldif,
    )


def choose_area(settings: TagSections, name: str | None, *, preproduction: bool = False) -> Area:
    """Give the area of the subcluster ``name``; without one production's, or pre-production's when that is asked for.

    Raises: UnknownTargetError when no area, or not the one asked for, has it.
    """
    areas = find_areas(settings)
    if preproduction and len(areas) < 2:
        raise UnknownTargetError("this site has no pre-production information system: set preproduction.subclusters")
    candidates = areas[1:] if preproduction else areas
    if name is None:
        return candidates[0]
    for area in candidates:
        if name in area.subclusters:
            return area
    known = ", ".join(subcluster for area in candidates for subcluster in area.subclusters)
    raise UnknownTargetError(
        f"{name!r} is not a subcluster of this site; known: {known or 'none (set site.subclusters)'}"
    )


class SiteTags:
    """The tags of all areas as one: each subcluster's lists are those of its area.

    A subcluster that several stores serve is a former one, of which it is not known any more where its lists are: it is
    looked for in all of them.
    """

    def __init__(self, stores: Iterable[TagStore]) -> None:
        self.stores = tuple(stores)

    def serving(self) -> Iterator[tuple[Subcluster, TagStore]]:
        """Give each subcluster with the store of its lists."""
        for store in self.stores:
            for subcluster in store.subclusters:
                yield subcluster, store

    def add(self, vo: Vo, tag: Tag, subcluster: Subcluster, *, life: Life, request: Request) -> None:
        """Add one tag. Raises: TagError."""
        for store in self._stores_of(subcluster):
            store.add(vo, [tag], [subcluster], life=life, request=request)

    def remove(self, vo: Vo, tag: Tag, subcluster: Subcluster, *, request: Request) -> None:
        """Remove one tag; one that is gone already is no error. Raises: TagError."""
        for store in self._stores_of(subcluster):
            store.remove(vo, [tag], [subcluster], missing_ok=True, request=request)

    def set_lives(self, vo: Vo, lives: Mapping[Subcluster, Mapping[Tag, Life | None]], *, request: Request) -> None:
        """Change what is known of tags, and no list. Raises: TagError."""
        for store in self.stores:
            own = {subcluster: entries for subcluster, entries in lives.items() if subcluster in store.subclusters}
            if own:
                store.set_life(vo, own, request=request)

    def _stores_of(self, subcluster: Subcluster) -> list[TagStore]:
        return [store for store in self.stores if subcluster in store.subclusters]


NOWHERE: Final = SiteTags(())
"""For those who run probes and change no tag."""


def open_all(settings: TagSections, former: Iterable[Subcluster] = ()) -> SiteTags:
    """Give all tags of a site, with those of ``former`` subclusters wherever they are."""
    gone = tuple(former)
    return SiteTags(area.open((*area.subclusters, *gone)) for area in _find_all_areas(settings, gone))


def open_former(settings: TagSections, former: Iterable[Subcluster]) -> SiteTags:
    """Give the tags of former subclusters, without the global lists, which count for the present ones only."""
    gone = tuple(former)
    return SiteTags(area.open(gone, everywhere=False) for area in _find_all_areas(settings, gone) if gone)


def _find_all_areas(settings: TagSections, former: tuple[Subcluster, ...]) -> tuple[Area, ...]:
    """Give the areas, and pre-production's while its base is there although the settings give it no subcluster more."""
    areas, pre = find_areas(settings), settings.preproduction
    return (*areas, _preproduction(pre)) if former and len(areas) == 1 and pre.tags.is_dir() else areas


def _servers(url: str, mirrors: tuple[str, ...]) -> tuple[str, ...]:
    return (url, *mirrors) if url else ()
