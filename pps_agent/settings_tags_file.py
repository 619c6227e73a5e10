"""Loads what tag commands need of the settings, and finds what of it cannot work together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.settings_reader import read_settings
from pps_agent.settings_tags import OTHER_SECTIONS, TagSections, TagSettings

_LDAP: Final = ("ldap://", "ldaps://")


def load_tag_settings(path: Path) -> TagSettings:
    """Read the sections that concern tags. Raises: ConfigError listing every fault of these, of every file."""
    return read_settings(path, TagSettings, find_tag_conflicts, passed_over=OTHER_SECTIONS).settings


def find_tag_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give impossible pairs of these sections and addresses that cannot work."""
    for section in ("infosys", "preproduction"):
        yield from find_wrong_scheme(f"{section}.url", getattr(settings, section).url, _LDAP)
    yield from _find_site_conflicts(settings)
    yield from _find_preproduction_conflicts(settings)
    yield from _find_ldif_conflicts(settings)


def find_wrong_scheme(key: str, url: str, schemes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Give what is wrong with an address; an empty one is none."""
    if url and not url.startswith(schemes):
        yield key, f"{key}: {url!r} must begin with {' or '.join(schemes)}"


def _find_site_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give managers of VOs that are none of the site's, and groups that cannot be those of managers."""
    vos = settings.site.vos
    for vo, group in settings.site.managers.items():
        if vo not in vos:
            yield "site.managers", f"site.managers: {vo} is not in site.vos; known: {', '.join(sorted(vos))}"
        if not group:
            yield "site.managers", f"site.managers: {vo} has an empty group: name one, or leave the VO out"


def _find_preproduction_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give what would let production's information system show what is pre-production's, or the other way round."""
    site, paths, pre = settings.site, settings.paths, settings.preproduction
    if not pre.subclusters:
        return
    for key, ours, theirs in (("subclusters", pre.subclusters, site.subclusters), ("hosts", pre.hosts, site.hosts)):
        taken = {name.lower() for name in (*theirs, *(site.subclusters if key == "hosts" else ()))}
        if shared := sorted(name for name in ours if name.lower() in taken):
            yield (
                f"preproduction.{key}",
                f"preproduction.{key}: {shared[0]} is production's as well: each name must say which system is meant",
            )
    bases = {"paths.tags": paths.tags, "paths.global_tags": paths.global_tags}
    for key, path in (("tags", pre.tags), ("global_tags", pre.global_tags)):
        for other, base in bases.items():
            if path is not None and (path.is_relative_to(base) or base.is_relative_to(path)):
                yield (
                    f"preproduction.{key}",
                    f"preproduction.{key}: {path} and {other} = {base} lie in each other: give it a place of its own",
                )
    if pre.ldif is not None and pre.ldif == settings.infosys.ldif:
        yield "preproduction.ldif", f"preproduction.ldif: {pre.ldif} is infosys.ldif as well: name another file"
    if settings.infosys.url and pre.url == settings.infosys.url and pre.base == settings.infosys.base:
        yield (
            "preproduction.url",
            f"preproduction.url: {pre.url} with base {pre.base} is production's as well: name the other server",
        )


def _find_ldif_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give what keeps the file of tags in GLUE 2 from being written, or a BDII from reading it."""
    for section in ("infosys", "preproduction"):
        system = getattr(settings, section)
        if system.ldif is not None and system.ldif.suffix != ".ldif":
            yield f"{section}.ldif", f"{section}.ldif: a BDII reads *.ldif only: end {system.ldif.name} with .ldif"
        if system.ldif is not None and not system.service:
            yield f"{section}.ldif", f"{section}.ldif needs {section}.service: the GLUE2ServiceID of the static LDIF"
