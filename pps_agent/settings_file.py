"""Loads the whole settings tree, finds what of it cannot work together, and describes its fields."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final, get_args

from pps_agent.quiet_hours import QuietHours, parse_quiet_hours
from pps_agent.settings import Settings
from pps_agent.settings_pairs import (
    find_export_conflicts,
    find_node_conflicts,
    find_policy_conflicts,
    find_production_conflicts,
)
from pps_agent.settings_reader import NAME_PARSERS, Loaded, is_of_tables, read_settings
from pps_agent.settings_tags_file import find_tag_conflicts, find_wrong_scheme

MIN_FAR_DRAIN_S: Final = 86_400
"""Shortest drain time where nodes are other machines: their processes cannot be seen from here."""
_PARTS: Final = ("component", "version", "platform")
_NAMED_PARTS: Final = ", ".join(f"{{{part}}}" for part in _PARTS)
_HTTP: Final = ("http://", "https://")


def load_settings(path: Path) -> Loaded[Settings]:
    """Read the settings. Raises: ConfigError listing every fault of every file."""
    return read_settings(path, Settings, _find_conflicts, {**NAME_PARSERS, QuietHours: parse_quiet_hours})


def describe_fields() -> Iterator[tuple[str, Field[Any], Any]]:
    """Give every setting as (section, field, type) in file order, for docs and ``config show``.

    A section of tables is left out; ``describe_tables`` gives those.
    """
    for section in fields(Settings):
        if not is_of_tables(section.type):
            yield from _describe_section(section.name, section.type)


def describe_tables() -> Iterator[tuple[str, Field[Any], Any]]:
    """Give every setting of the sections of tables, the section's name standing for each of its tables."""
    for section in fields(Settings):
        if is_of_tables(section.type):
            yield from _describe_section(section.name, get_args(section.type)[1])


def _describe_section(section: str, kind: Any) -> Iterator[tuple[str, Field[Any], Any]]:
    for field in fields(kind):
        yield section, field, field.type


def default_of(field: Field[Any]) -> Any:
    """Give a setting's default, or None when it must be given."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _find_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give impossible pairs and addresses that cannot work."""
    age, interval = settings.probes.max_age_s, settings.daemon.interval_s
    if age < 2 * interval:
        yield (
            "probes.max_age_s",
            f"probes.max_age_s = {age} is less than twice daemon.interval_s = {interval}: raise it or lower that one",
        )
    if ":" in str(settings.paths.store) or not str(settings.paths.store).isprintable():
        yield (
            "paths.store",
            f"paths.store: {str(settings.paths.store)!r} cannot stand in PATH: no ':', no control characters",
        )
    yield from _find_farm_conflicts(settings)
    for section, schemes in {"repository": _HTTP, "collector": ("https://",)}.items():
        yield from find_wrong_scheme(f"{section}.url", getattr(settings, section).url, schemes)
    for url in settings.repository.mirrors:
        if not url.startswith(_HTTP):
            yield "repository.mirrors", f"repository.mirrors: {url!r} must begin with {' or '.join(_HTTP)}"
    proxy = settings.repository.proxy
    if proxy not in ("", "direct") and not proxy.startswith(_HTTP):
        yield "repository.proxy", f'repository.proxy: {proxy!r} must be "direct" or begin with {" or ".join(_HTTP)}'
    yield from find_policy_conflicts(settings)
    yield from find_production_conflicts(settings)
    yield from find_node_conflicts(settings)
    yield from find_export_conflicts(settings)
    yield from find_tag_conflicts(settings)


def _find_farm_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give what does not fit the store's kind. Paths are compared as they are written."""
    store, group, paths = settings.store, settings.group, settings.paths
    if store.kind != "local" and store.drain_s < MIN_FAR_DRAIN_S:
        yield (
            "store.drain_s",
            f"store.drain_s = {store.drain_s} is less than {MIN_FAR_DRAIN_S}: jobs of other hosts are not seen",
        )
    if store.kind == "local":
        for key in ("arch", "glibc", "os"):
            if getattr(group, key):
                yield (
                    f"group.{key}",
                    f"group.{key} speaks of other machines, but store.kind is 'local': leave it out or set store.kind",
                )
    if store.kind != "cvmfs":
        if store.trees:
            yield "store.trees", f"store.trees is for store.kind = 'cvmfs', not {store.kind!r}: leave it out"
        return
    names_used = set(re.findall(r"\{([^{}]*)\}", store.trees))
    if not names_used <= {"release", *_PARTS} or not ("release" in names_used or names_used >= set(_PARTS)):
        yield (
            "store.trees",
            f"store.trees = {store.trees!r} must tell releases apart: use {{release}}, or all of {_NAMED_PARTS}",
        )
        return
    base = store.trees.partition("{")[0].rpartition("/")[0]
    for key in ("store", "state", "cache", "tags"):
        if getattr(paths, key).is_relative_to(base or "/"):
            yield (
                f"paths.{key}",
                f"paths.{key} lies in {base or '/'}, where store.trees is and the agent never writes: move it",
            )
