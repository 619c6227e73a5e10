"""Loads what tag commands need of the settings, and finds what of it cannot work together."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.settings_reader import read_settings
from pps_agent.settings_tags import (
    OTHER_SECTIONS,
    InfosysSettings,
    PreproductionSettings,
    TagSections,
    TagSettings,
)

_LDAP: Final = ("ldap://", "ldaps://")


def load_tag_settings(path: Path) -> TagSettings:
    """Read the sections that concern tags. Raises: ConfigError listing every fault of these, of every file."""
    return read_settings(path, TagSettings, find_tag_conflicts, passed_over=OTHER_SECTIONS).settings


def find_tag_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give impossible pairs of these sections and addresses that cannot work."""
    for section in ("infosys", "preproduction"):
        system = getattr(settings, section)
        yield from find_wrong_scheme(f"{section}.url", system.url, _LDAP)
        for mirror in system.mirrors:
            yield from find_wrong_scheme(f"{section}.mirrors", mirror, _LDAP)
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
    site, paths, infosys, pre = settings.site, settings.paths, settings.infosys, settings.preproduction
    if not pre.subclusters:
        return
    taken = {name.lower() for name in (*site.subclusters, *site.hosts)}
    for key, names in (("subclusters", pre.subclusters), ("hosts", pre.hosts)):
        if shared := sorted(name for name in names if name.lower() in taken):
            yield (
                f"preproduction.{key}",
                f"preproduction.{key}: {shared[0]} is production's as well: each name must say which system is meant",
            )
    bases = {"paths.tags": paths.tags, "paths.global_tags": paths.global_tags}
    for key, path in (("tags", pre.tags), ("global_tags", pre.global_tags)):
        for other, base in bases.items():
            if path is not None and _overlap(path, base):
                yield (
                    f"preproduction.{key}",
                    f"preproduction.{key}: {path} and {other} = {base} lie in each other: give it a place of its own",
                )
    if pre.ldif is not None and infosys.ldif is not None and _plain(pre.ldif) == _plain(infosys.ldif):
        yield "preproduction.ldif", f"preproduction.ldif: {pre.ldif} is infosys.ldif as well: name another file"
    yield from _find_shared_servers(infosys, pre)


def _find_shared_servers(infosys: InfosysSettings, pre: PreproductionSettings) -> Iterator[tuple[str, str]]:
    """Give servers that are of both systems, under one base."""
    taken = {infosys.url, *infosys.mirrors} - {""}
    if pre.base != infosys.base:
        return
    for key, urls in (("url", (pre.url,)), ("mirrors", pre.mirrors)):
        if shared := [url for url in urls if url in taken]:
            text = f"{shared[0]} with base {pre.base} is production's as well: name the other server"
            yield f"preproduction.{key}", f"preproduction.{key}: {text}"


def _overlap(path: Path, other: Path) -> bool:
    path, other = _plain(path), _plain(other)
    return path.is_relative_to(other) or other.is_relative_to(path)


def _plain(path: Path) -> Path:
    """Give a path without ``..``; nothing is looked at, since its file system may hang, and publishers must not."""
    return Path(os.path.normpath(path))


def _find_ldif_conflicts(settings: TagSections) -> Iterator[tuple[str, str]]:
    """Give what keeps the file of tags in GLUE 2 from being written, or a BDII from reading it."""
    for section in ("infosys", "preproduction"):
        system = getattr(settings, section)
        if system.ldif is not None and system.ldif.suffix != ".ldif":
            yield f"{section}.ldif", f"{section}.ldif: a BDII reads *.ldif only: end {system.ldif.name} with .ldif"
        if system.ldif is not None and not system.service:
            yield f"{section}.ldif", f"{section}.ldif needs {section}.service: the GLUE2ServiceID of the static LDIF"
