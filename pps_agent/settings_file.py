"""Reads the settings files: ``agent.toml`` and ``conf.d/*.toml`` beside it, later files win.

Tables merge (``[probes.env]`` too), values and lists replace. All faults of all files are listed together, each as
``path:line: text``. Files whose names begin with a dot are an editor's and are not read.
Source: TOML 1.0.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from pps_agent.errors import ConfigError
from pps_agent.quiet_hours import QuietHours, parse_quiet_hours
from pps_agent.settings import Settings
from pps_agent.settings_pairs import (
    find_export_conflicts,
    find_ldif_conflicts,
    find_node_conflicts,
    find_policy_conflicts,
    find_preproduction_conflicts,
    find_production_conflicts,
    find_site_conflicts,
)
from pps_wire import names
from pps_wire.errors import WireError

_HEADER = re.compile(r"^\s*\[\s*([A-Za-z0-9_.\"' \t-]+)\s*\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?\s*=")
_HEADER_QUOTES: Final = str.maketrans("", "", "\"' \t")
_MAX_SECONDS: Final = 10 * 366 * 86_400
"""Beyond ten years a time is a slip of the pen, and dates could not be reckoned with it."""
_PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    names.Site: names.parse_site,
    names.Vo: names.parse_vo,
    names.Subcluster: names.parse_subcluster,
    names.Component: names.parse_component,
    names.Platform: names.parse_platform,
    QuietHours: parse_quiet_hours,
    names.HostGroup: names.parse_host_group,
}
_TABLES: Final[Mapping[str, Callable[[str], str]]] = {"production": names.parse_component}
"""Sections whose keys are names, each with a table of its own; and what reads such a name."""
MIN_FAR_DRAIN_S: Final = 86_400
"""Shortest drain time where nodes are other machines: their processes cannot be seen from here."""
_PARTS: Final = ("component", "version", "platform")
_NAMED_PARTS: Final = ", ".join(f"{{{part}}}" for part in _PARTS)
_SCHEMES: Final = {
    "repository": ("http://", "https://"),
    "collector": ("https://",),
    "infosys": ("ldap://", "ldaps://"),
    "preproduction": ("ldap://", "ldaps://"),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings and, per ``section.key``, where the value came from (``path:line``)."""

    settings: Settings
    origins: Mapping[str, str]
    files: tuple[Path, ...]


def load_settings(path: Path) -> Loaded:
    """Read the settings. Raises: ConfigError listing every fault of every file."""
    reading = _Reading(path.parent)
    files = (path, *sorted((path.parent / "conf.d").glob("[!.]*.toml")))
    for file in files:
        reading.add(file)
    settings = reading.build(path)
    return Loaded(settings, reading.origins, files)


class _Reading:
    """Collects values, their places and all faults while the files are read."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.values: dict[str, dict[str, Any]] = {}
        self.origins: dict[str, str] = {}
        self.tables: dict[str, dict[str, str]] = {}
        self.faults: list[str] = []

    def add(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
            text = raw.decode()
            content = tomllib.loads(text)
        except OSError as exc:
            self.faults.append(f"{path}: {exc.strerror}; create it or name another with --config")
            return
        except UnicodeDecodeError as exc:
            line = raw.count(b"\n", 0, exc.start) + 1
            self.faults.append(f"{path}:{line}: not valid TOML: not UTF-8")
            return
        except tomllib.TOMLDecodeError as exc:
            found = re.search(r"line (\d+)", str(exc))  # else it says "at end of document"
            line = int(found[1]) if found else len(text.splitlines()) or 1
            self.faults.append(f"{path}:{line}: not valid TOML: {exc}")
            return
        except RecursionError:
            self.faults.append(f"{path}:1: not valid TOML: nested too deeply")
            return
        lines = _find_lines(text)
        sections = {field.name for field in fields(Settings)}
        for section, table in content.items():
            place = f"{path}:{lines.get((section, ''), lines.get(('', section), 1))}"
            if section not in sections:
                self.faults.append(f"{place}: unknown section [{section}]{_suggest(section, sections)}")
                continue
            if not isinstance(table, dict):
                self.faults.append(f"{place}: {section} must be a table: write [{section}] on a line of its own")
                continue
            for key, value in table.items():
                place = f"{path}:{lines.get((section, key), 1)}"
                if section in _TABLES:
                    self._add_table(section, key, value, place, path, lines)
                else:
                    self._add_value(section, key, value, place)

    def _add_table(
        self, section: str, name: str, table: Any, place: str, path: Path, lines: Mapping[tuple[str, str], int]
    ) -> None:
        """Take in one table of a section of tables: ``[section.name]``."""
        if not isinstance(table, dict):
            self.faults.append(f"{place}: {section}.{name} must be a table: write [{section}.{name}] on its own line")
            return
        try:
            _TABLES[section](name)
        except WireError as exc:
            self.faults.append(f"{place}: [{section}.{name}]: {exc}")
            return
        where = f"{section}.{name}"
        self.tables.setdefault(section, {})[name] = place
        for key, value in table.items():
            self._add_value(where, key, value, f"{path}:{lines.get((where, key), lines.get((section, name), 1))}")

    def _add_value(self, section: str, key: str, value: Any, place: str) -> None:
        known = {field.name for field in fields(_section_type(section))}
        if key not in known:
            self.faults.append(f"{place}: unknown key {key!r} in [{section}]{_suggest(key, known)}")
            return
        values = self.values.setdefault(section, {})
        before = values.get(key)
        values[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
        self.origins[f"{section}.{key}"] = place

    def build(self, path: Path) -> Settings:
        sections: dict[str, Any] = {
            section: {name: self._build_section(f"{section}.{name}", path) for name in self.tables.get(section, {})}
            for section in _TABLES
        }
        plain = [field.name for field in fields(Settings) if field.name not in _TABLES]
        sections |= {section: self._build_section(section, path) for section in plain}
        if self.faults:
            raise ConfigError(self.faults)
        settings = Settings(**sections)
        self.faults += (f"{self._place(key, path)}: {text}" for key, text in _find_conflicts(settings))
        if self.faults:
            raise ConfigError(self.faults)
        return settings

    def _build_section(self, section: str, path: Path) -> Any:
        kind = _section_type(section)
        hints = get_type_hints(kind)
        given: dict[str, Any] = {}
        for field in fields(kind):
            if field.name in self.values.get(section, {}):
                try:
                    given[field.name] = self._convert(self.values[section][field.name], hints[field.name], field)
                except (ValueError, WireError) as exc:
                    place = self._place(f"{section}.{field.name}", path)
                    self.faults.append(f"{place}: {section}.{field.name}: {exc}")
            elif field.metadata.get("required"):
                self.faults.append(f"{path}: {section}.{field.name} is missing: {field.metadata['help']}")
        return None if self.faults else kind(**given)

    def _convert(self, value: Any, hint: Any, field: Field[Any]) -> Any:
        if get_origin(hint) is UnionType:
            hint = next(part for part in get_args(hint) if part is not NoneType)
        if get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise ValueError(f"{value!r} must be a list, e.g. [{_example(get_args(hint)[0])}]")
            if not value and field.metadata.get("required"):
                raise ValueError(f"must not be empty: {field.metadata['help']}")
            return tuple(self._convert(item, get_args(hint)[0], field) for item in value)
        if get_origin(hint) is dict:
            return _check_variables(value) if get_args(hint)[0] is str else self._convert_table(value, hint, field)
        if hint is int:
            return _check_int(value, field)
        if not isinstance(value, str):
            raise ValueError(f"{value!r} must be text in quotes")
        choices = field.metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        if "\0" in value:
            raise ValueError(f"{value!r} holds a NUL, which no file name or address may")
        if hint is Path:
            if not value:
                raise ValueError("must not be empty; leave the key out for the default")
            return (self.base / value).absolute()
        if field.metadata.get("path"):  # a glob or a pattern: a path all the same, but kept as text
            return str((self.base / value).absolute()) if value else value
        if value and "pattern" in field.metadata and re.fullmatch(field.metadata["pattern"], value) is None:
            raise ValueError(f"{value!r} is not valid: write e.g. {field.metadata['example']!r}")
        return _PARSERS[hint](value) if hint in _PARSERS else value

    def _convert_table(self, value: Any, hint: Any, field: Field[Any]) -> dict[Any, Any]:
        """Read a table whose keys are names of ours."""
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} must be a table of texts")
        key, item = get_args(hint)
        return {_PARSERS[key](name): self._convert(text, item, field) for name, text in value.items()}

    def _place(self, key: str, path: Path) -> str:
        section, _, name = key.partition(".")
        return self.origins.get(key, self.tables.get(section, {}).get(name, str(path)))


def describe_fields() -> Iterator[tuple[str, Field[Any], Any]]:
    """Give every setting as (section, field, type) in file order, for docs and ``config show``.

    A section of tables is left out; ``describe_tables`` gives those.
    """
    for section in fields(Settings):
        if section.name not in _TABLES:
            yield from _describe_section(section.name)


def describe_tables() -> Iterator[tuple[str, Field[Any], Any]]:
    """Give every setting of the sections of tables, the section's name standing for each of its tables."""
    for section in _TABLES:
        yield from _describe_section(section)


def _describe_section(section: str) -> Iterator[tuple[str, Field[Any], Any]]:
    kind = _section_type(section)
    hints = get_type_hints(kind)
    for field in fields(kind):
        yield section, field, hints[field.name]


def default_of(field: Field[Any]) -> Any:
    """Give a setting's default, or None when it must be given."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _section_type(section: str) -> Any:
    """Give the type of a section, or of the tables in it, by ``section`` or ``section.name``."""
    section = section.partition(".")[0]
    hint = get_type_hints(Settings)[section]
    return get_args(hint)[1] if section in _TABLES else hint


def _find_lines(text: str) -> dict[tuple[str, str], int]:
    """Map (section, key) to its line; the parser of the standard library does not tell."""
    lines: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section, _, key = header[1].translate(_HEADER_QUOTES).partition(".")
            lines.setdefault((section, key), number)
            if section in _TABLES:
                section = f"{section}.{key}"
        elif key_match := _KEY.match(line):
            first, second = key_match[1], key_match[2]
            lines.setdefault((section, first) if section or second is None else (first, second), number)
            if section in _TABLES and second is not None:
                lines.setdefault((f"{section}.{first}", second), number)
    return lines


def _suggest(word: str, known: set[str]) -> str:
    import difflib  # only on the way to an error

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _check_int(value: Any, field: Field[Any]) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} must be a whole number")
    minimum = field.metadata.get("minimum")
    if minimum is not None and value < minimum:
        raise ValueError(f"{value} is less than {minimum}")
    if field.name.endswith(("_s", "_h")) and value * (3600 if field.name.endswith("_h") else 1) > _MAX_SECONDS:
        raise ValueError(f"{value} {field.name[-1]} is more than ten years")
    if value >= 2**63:
        raise ValueError(f"{value} is too large")
    return value


def _check_variables(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"{value!r} must be a table of texts")
    for name in value:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
            raise ValueError(f"{name!r} is not the name of an environment variable")
        if "\0" in value[name]:
            raise ValueError(f"{name} holds a NUL, which no environment variable may")
    return dict(value)


def _example(hint: Any) -> str:
    return '"/etc/x"' if hint is Path else '"name"'


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
    for section, schemes in _SCHEMES.items():
        url = getattr(settings, section).url
        if url and not url.startswith(schemes):
            yield f"{section}.url", f"{section}.url: {url!r} must begin with {' or '.join(schemes)}"
    schemes = _SCHEMES["repository"]
    for url in settings.repository.mirrors:
        if not url.startswith(schemes):
            yield "repository.mirrors", f"repository.mirrors: {url!r} must begin with {' or '.join(schemes)}"
    proxy = settings.repository.proxy
    if proxy not in ("", "direct") and not proxy.startswith(schemes):
        yield "repository.proxy", f'repository.proxy: {proxy!r} must be "direct" or begin with {" or ".join(schemes)}'
    yield from find_site_conflicts(settings)
    yield from find_policy_conflicts(settings)
    yield from find_production_conflicts(settings)
    yield from find_node_conflicts(settings)
    yield from find_export_conflicts(settings)
    yield from find_preproduction_conflicts(settings)
    yield from find_ldif_conflicts(settings)


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
