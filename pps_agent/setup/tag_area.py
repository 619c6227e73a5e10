"""Who may do what below a tag base: the agent and each VO's managers change that VO's tags, all others read; pure.

See ADR 0027. One ``TagArea`` is one base; a site may have several.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.setup.rights import ROOT, Kind, Place, Rights, Seen
from pps_agent.tags.layout import AUDIT, INTENT, LEDGERS, LIVES
from pps_wire.names import Subcluster, Vo

_SHARED_DIRECTORY: Final = 0o2775
_SHARED_FILE: Final = 0o664
_READABLE: Final = 0o755

Looks = Mapping[Place, Seen | None]
"""What was seen at each place; None: nothing is there."""


@dataclass(frozen=True, slots=True)
class TagArea:
    """One tag base and what lies in it."""

    base: Path
    subclusters: tuple[Subcluster, ...]
    vos: tuple[Vo, ...]
    global_base: Path | None = None


@dataclass(frozen=True, slots=True)
class Parties:
    """Who changes tags: the agent's account with its own group, and groups of managers by VO."""

    agent: int
    agent_group: int
    managers: Mapping[Vo, int]


@dataclass(frozen=True, slots=True)
class Writers:
    """Who changes the tags of one VO. ``owners``: accounts that own its directories, and so could all along."""

    groups: tuple[int, ...]
    owners: tuple[int, ...]


def list_places(area: TagArea) -> Iterator[tuple[Place, Kind]]:
    """Give the places to look at before anything is decided."""
    for vo in area.vos:
        for home in _homes(area, vo):
            yield home, Kind.DIRECTORY
            yield from ((file, Kind.FILE) for file in _files(home, vo))


def find_writers(area: TagArea, parties: Parties, looks: Looks) -> Mapping[Vo, Writers]:
    """Give who changes each VO's tags.

    Where the settings name no group, groups count that may write already, for a group that could only read may be
    that of all users; else the agent's own.
    """
    found = {}
    for vo in area.vos:
        homes = [seen for home in _homes(area, vo) if (seen := looks.get(home)) is not None]
        there = sorted({seen.gid for seen in homes if seen.group_writes and seen.gid != ROOT})
        groups = (parties.managers[vo],) if vo in parties.managers else tuple(there) or (parties.agent_group,)
        owners = {seen.uid for seen in homes} - {ROOT, parties.agent}
        found[vo] = Writers(groups, tuple(sorted(owners)))
    return found


def lock_rights(parties: Parties, writers: Mapping[Vo, Writers], *, has_acls: bool) -> Rights:
    """Give the rights of the lock: whoever may open it, if only to read, may hold it and stop every change."""
    groups = sorted({group for one in writers.values() for group in one.groups})
    if not has_acls:
        group = groups[0] if len(groups) == 1 else parties.agent_group
        return Rights(Kind.FILE, 0o660, ROOT, group, is_made=True)
    users = {parties.agent, *(owner for one in writers.values() for owner in one.owners)} - {ROOT}
    return Rights(Kind.FILE, 0o600, ROOT, ROOT, tuple(sorted(users)), tuple(groups), is_exact=True, is_made=True)


def tag_rights(
    area: TagArea, parties: Parties, writers: Mapping[Vo, Writers], looks: Looks
) -> Iterator[tuple[Place, Rights]]:
    """Give all places but the lock with what is to be there, directories before what is in them."""
    for subcluster in area.subclusters:
        yield Place(area.base, (subcluster,)), Rights(Kind.DIRECTORY, _READABLE, is_made=True, is_kept=True)
    yield (
        Place(area.base, (LEDGERS,)),
        Rights(Kind.DIRECTORY, _READABLE, parties.agent, parties.agent_group, is_exact=True, is_made=True),
    )
    for vo in area.vos:
        for home in _homes(area, vo):
            is_global = home.root == area.global_base
            if is_global and home in looks and looks[home] is None:
                continue  # what the site does not use is not begun
            yield from _home_rights(home, vo, parties, writers[vo], looks, is_made=not is_global)


def _home_rights(
    home: Place, vo: Vo, parties: Parties, writers: Writers, looks: Looks, *, is_made: bool
) -> Iterator[tuple[Place, Rights]]:
    seen = looks.get(home)
    group = seen.gid if seen is not None and seen.gid in writers.groups else writers.groups[0]
    users = tuple(sorted({parties.agent, *writers.owners} - {ROOT}))
    others = tuple(other for other in writers.groups if other != group)
    yield (
        home,
        Rights(Kind.DIRECTORY, _SHARED_DIRECTORY, None, group, users, others, hands_down=True, is_made=is_made),
    )
    for file in _files(home, vo):
        if looks.get(file) is not None or file not in looks:
            yield file, Rights(Kind.FILE, _SHARED_FILE, None, group, users, others)


def _homes(area: TagArea, vo: Vo) -> tuple[Place, ...]:
    """Give the directories of one VO: of each subcluster, global, and its ledger."""
    homes = [Place(area.base, (subcluster, vo)) for subcluster in area.subclusters]
    if area.global_base is not None:
        homes.append(Place(area.global_base, (vo,)))
    return (*homes, Place(area.base, (LEDGERS, vo)))


def _files(home: Place, vo: Vo) -> tuple[Place, ...]:
    names = (LIVES, AUDIT, INTENT) if home.names[0] == LEDGERS else (f"{vo}.list",)
    return tuple(Place(home.root, (*home.names, name)) for name in names)
