"""Carries out ``pps-agent setup``, step by step; what is refused at one place does not stop the others."""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pps_agent.acl_files import has_acls
from pps_agent.errors import SiteError
from pps_agent.settings import Settings
from pps_agent.setup.accounts import Account, find_account, find_groups, find_missing, name_group, name_user
from pps_agent.setup.describe import describe_change
from pps_agent.setup.establish import establish, look
from pps_agent.setup.publishers import cache_rights, ldif_rights
from pps_agent.setup.rights import Place, Rights, Seen
from pps_agent.setup.tag_area import Parties, TagArea, find_writers, list_places, lock_rights, tag_rights
from pps_agent.tags import disk
from pps_agent.tags.areas import Area, find_areas
from pps_agent.tags.errors import TagError
from pps_agent.tags.layout import LOCK
from pps_wire.names import Vo

_LOCK_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class Report:
    """What was done at each path, in order; what people must know; what could not be done."""

    dry_run: bool
    changes: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def complain(self, problem: SiteError) -> None:
        """Note what could not be done, once."""
        if str(problem) not in self.problems:
            self.problems.append(str(problem))


def set_up(settings: Settings, user: str, publishers: Iterable[str], *, dry_run: bool) -> Report:
    """Bring all into place. Raises: SiteError when nothing can be begun; TagFileError when the tags stay locked."""
    if os.geteuid() != 0:
        raise SiteError("setup gives files to accounts, so only root can run it: try sudo pps-agent setup")
    agent = find_account(user, "--user")
    accounts = [agent, *(find_account(name, "--publisher") for name in publishers)]
    managers = find_groups(settings.site.managers)
    report = Report(dry_run)
    for area in find_areas(settings):
        if area.subclusters:
            global_base = area.global_base if area.global_base is not None and area.global_base.is_dir() else None
            tags = TagArea(area.base, area.subclusters, _find_vos(area, settings, report), global_base)
            _set_up_tags(tags, agent, managers, report)
        if area.ldif is not None:
            _establish(*ldif_rights(area.ldif, agent), report)
    for place, rights in cache_rights(settings.paths.cache, agent, accounts):
        _establish(place, rights, report)
    return report


def _find_vos(area: Area, settings: Settings, report: Report) -> tuple[Vo, ...]:
    """Give the VOs of the settings and those that have lists: their managers change tags here as well."""
    lists, found = area.open(), dict.fromkeys(settings.site.vos)
    for subcluster in area.subclusters:
        try:
            found |= dict.fromkeys(lists.vos(subcluster))
        except TagError as exc:
            report.complain(SiteError(str(exc)))
    return tuple(found)


def _set_up_tags(area: TagArea, agent: Account, managers: dict[Vo, int], report: Report) -> None:
    """Set up one tag base: the lock first, and under it the rest."""
    keeps_acls = _has_acls(area.base)
    parties = Parties(agent.uid, agent.gid, managers)
    writers = find_writers(area, parties, _look_at_all(area, report))
    lock = Place(area.base, (LOCK,))
    if not _establish(lock, lock_rights(parties, writers, has_acls=keeps_acls), report):
        return  # without the lock nothing is safe from who writes meanwhile
    if not keeps_acls:
        groups = frozenset(group for one in writers.values() for group in one.groups)
        report.notes.append(_explain_groups(area.base, agent, groups))
    with nullcontext() if report.dry_run else disk.locked(area.base, _LOCK_TIMEOUT_S):
        looks = _look_at_all(area, report)  # anew: a writer may have been at work
        for place, rights in tag_rights(area, parties, find_writers(area, parties, looks), looks):
            _establish(place, rights, report)


def _look_at_all(area: TagArea, report: Report) -> dict[Place, Seen | None]:
    """Look at all places; one that cannot be looked at is left out and told of."""
    looks = {}
    for place, kind in list_places(area):
        try:
            looks[place] = look(place, kind)
        except SiteError as exc:
            report.complain(exc)
    return looks


def _establish(place: Place, rights: Rights, report: Report) -> bool:
    """Bring one place into order; False where that cannot be."""
    try:
        change = establish(place, rights, dry_run=report.dry_run)
    except SiteError as exc:
        report.complain(exc)
        return False
    if change is not None:
        report.changes.append((place.path, describe_change(change, name_user, name_group)))
    return True


def _has_acls(base: Path) -> bool:
    try:
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise SiteError(
            f"the tag directory {base}: {exc.strerror}; create it, or set paths.tags (preproduction.tags) to where the"
            " lists are"
        ) from exc
    try:
        return has_acls(descriptor)
    finally:
        os.close(descriptor)


def _explain_groups(base: Path, agent: Account, groups: frozenset[int]) -> str:
    """Say what takes the place of access lists."""
    text = f"{base}: its file system keeps no access lists (POSIX ACLs), so groups must do"
    if missing := find_missing(agent, groups):
        text += f"; make {agent.name} a member: usermod -a -G {','.join(missing)} {agent.name}"
    if len(groups) > 1:
        text += f"; for the lock, make all managers of VOs members of {name_group(agent.gid)}"
    return text
