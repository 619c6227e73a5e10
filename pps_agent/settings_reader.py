"""Reads settings files into a tree of sections: ``agent.toml`` and ``conf.d/*.toml`` beside it, later files win.

Tables merge (``[probes.env]`` too), values and lists replace. All faults of all files are listed together, each as
``path:line: text``. Files whose names begin with a dot are an editor's and are not read.
Source: TOML 1.0.
"""

import re
import tomllib
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

from pps_agent.errors import ConfigError
from pps_wire import names
from pps_wire.errors import WireError

Tree = TypeVar("Tree")
_HEADER = re.compile(r"^\s*\[\s*([A-Za-z0-9_.\"' \t-]+)\s*\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_-]+)(?:\.([A-Za-z0-9_-]+))?\s*=")
_HEADER_QUOTES: Final = str.maketrans("", "", "\"' \t")
_MAX_SECONDS: Final = 10 * 366 * 86_400
"""Beyond ten years a time is a slip of the pen, and dates could not be reckoned with it."""
NAME_PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    names.Site: names.parse_site,
    names.Vo: names.parse_vo,
    names.Subcluster: names.parse_subcluster,
    names.Component: names.parse_component,
    names.Platform: names.parse_platform,
    names.HostGroup: names.parse_host_group,
}
"""What reads text of a type; the text of all other types is taken as it is."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Tree]):
    """The effective settings and, per ``section.key``, where the value came from (``path:line``)."""

    settings: Tree
    origins: Mapping[str, str]
    files: tuple[Path, ...]


def read_settings(
    path: Path,
    tree: type[Tree],
    find_conflicts: Callable[[Tree], Iterable[tuple[str, str]]],
    parsers: Mapping[Any, Callable[[str], Any]] = NAME_PARSERS,
    passed_over: Iterable[str] = (),
) -> Loaded[Tree]:
    """Read the sections that a tree has. Raises: ConfigError listing every fault of every file.

    ``find_conflicts`` gives what cannot work together, ``section.key`` and what to do about it; sections
    ``passed_over`` are not looked into.
    """
    reading = _Reading(path.parent, tree, parsers, passed_over)
    files = (path, *sorted((path.parent / "conf.d").glob("[!.]*.toml")))
    for file in files:
        reading.add(file)
    if reading.is_blind:
        reading.refuse_faults()  # what is missing cannot be told
    settings = tree(**reading.build(path))
    reading.faults += (f"{reading.place(key, path)}: {text}" for key, text in find_conflicts(settings))
    reading.refuse_faults()
    return Loaded(settings, reading.origins, files)


class _Reading:
    """Collects values, their places and all faults while the files are read."""

    def __init__(
        self,
        base: Path,
        tree: Any,
        parsers: Mapping[Any, Callable[[str], Any]],
        passed_over: Iterable[str],
    ) -> None:
        self.base, self.parsers, self.passed_over = base, parsers, frozenset(passed_over)
        hints = {field.name: field.type for field in fields(tree)}
        self.table_parsers = {
            section: parsers[get_args(hint)[0]] for section, hint in hints.items() if is_of_tables(hint)
        }
        self.kinds = {section: get_args(hint)[1] if is_of_tables(hint) else hint for section, hint in hints.items()}
        self.values: dict[str, dict[str, Any]] = {}
        self.origins: dict[str, str] = {}
        self.tables: dict[str, dict[str, str]] = {}
        self.faults: list[str] = []
        self.is_blind = False

    def add(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
            text = raw.decode()
            content = tomllib.loads(text)
        except OSError as exc:
            is_missing = isinstance(exc, FileNotFoundError)
            remedy = "create it" if is_missing else "let this account read it"
            self.faults.append(f"{path}: {exc.strerror}; {remedy} or name another with --config")
            self.is_blind = True
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
        self._add_sections(content, path, _find_lines(text, self.table_parsers))

    def _add_sections(self, content: Mapping[str, Any], path: Path, lines: Mapping[tuple[str, str], int]) -> None:
        for section, table in content.items():
            if section in self.passed_over:
                continue
            place = f"{path}:{lines.get((section, ''), lines.get(('', section), 1))}"
            if section not in self.kinds:
                self.faults.append(f"{place}: unknown section [{section}]{self._suggest_section(section)}")
                continue
            if not isinstance(table, dict):
                self.faults.append(f"{place}: {section} must be a table: write [{section}] on a line of its own")
                continue
            for key, value in table.items():
                place = f"{path}:{lines.get((section, key), 1)}"
                if section in self.table_parsers:
                    self._add_table(section, key, value, place, path, lines)
                else:
                    self._add_value(section, key, value, place)

    def _suggest_section(self, section: str) -> str:
        return _suggest(section, {*self.kinds, *self.passed_over})

    def _add_table(
        self, section: str, name: str, table: Any, place: str, path: Path, lines: Mapping[tuple[str, str], int]
    ) -> None:
        """Take in one table of a section of tables: ``[section.name]``."""
        if not isinstance(table, dict):
            self.faults.append(f"{place}: {section}.{name} must be a table: write [{section}.{name}] on its own line")
            return
        try:
            self.table_parsers[section](name)
        except WireError as exc:
            self.faults.append(f"{place}: [{section}.{name}]: {exc}")
            return
        where = f"{section}.{name}"
        self.tables.setdefault(section, {})[name] = place
        for key, value in table.items():
            self._add_value(where, key, value, f"{path}:{lines.get((where, key), lines.get((section, name), 1))}")

    def _add_value(self, section: str, key: str, value: Any, place: str) -> None:
        known = {field.name for field in fields(self._kind(section))}
        if key not in known:
            self.faults.append(f"{place}: unknown key {key!r} in [{section}]{_suggest(key, known)}")
            return
        values = self.values.setdefault(section, {})
        before = values.get(key)
        values[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
        self.origins[f"{section}.{key}"] = place

    def build(self, path: Path) -> dict[str, Any]:
        """Give the sections. Raises: ConfigError."""
        sections: dict[str, Any] = {
            section: {name: self._build_section(f"{section}.{name}", path) for name in self.tables.get(section, {})}
            for section in self.table_parsers
        }
        plain = [section for section in self.kinds if section not in self.table_parsers]
        sections |= {section: self._build_section(section, path) for section in plain}
        self.refuse_faults()
        return sections

    def refuse_faults(self) -> None:
        """End here when there are faults. Raises: ConfigError."""
        if self.faults:
            raise ConfigError(self.faults)

    def place(self, key: str, path: Path) -> str:
        """Give where a setting stands, or its file."""
        section, _, name = key.partition(".")
        return self.origins.get(key, self.tables.get(section, {}).get(name, str(path)))

    def _build_section(self, section: str, path: Path) -> Any:
        kind = self._kind(section)
        given: dict[str, Any] = {}
        for field in fields(kind):
            if field.name in self.values.get(section, {}):
                try:
                    given[field.name] = self._convert(self.values[section][field.name], field.type, field)
                except (ValueError, WireError) as exc:
                    place = self.place(f"{section}.{field.name}", path)
                    self.faults.append(f"{place}: {section}.{field.name}: {exc}")
            elif field.metadata.get("required"):
                self.faults.append(f"{path}: {section}.{field.name} is missing: {field.metadata['help']}")
        return None if self.faults else kind(**given)

    def _kind(self, section: str) -> Any:
        """Give the type of a section, or of the tables in it, by ``section`` or ``section.name``."""
        return self.kinds[section.partition(".")[0]]

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
        return self.parsers[hint](value) if hint in self.parsers else value

    def _convert_table(self, value: Any, hint: Any, field: Field[Any]) -> dict[Any, Any]:
        """Read a table whose keys are names of ours."""
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} must be a table of texts")
        key, item = get_args(hint)
        return {self.parsers[key](name): self._convert(text, item, field) for name, text in value.items()}


def is_of_tables(hint: Any) -> bool:
    """Tell whether a section of this type holds tables by name, ``[production.grid-clients]``, in place of values."""
    return get_origin(hint) is Mapping


def _find_lines(text: str, of_tables: Container[str]) -> dict[tuple[str, str], int]:
    """Map (section, key) to its line; the parser of the standard library does not tell."""
    lines: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section, _, key = header[1].translate(_HEADER_QUOTES).partition(".")
            lines.setdefault((section, key), number)
            if section in of_tables:
                section = f"{section}.{key}"
        elif key_match := _KEY.match(line):
            first, second = key_match[1], key_match[2]
            lines.setdefault((section, first) if section or second is None else (first, second), number)
            if section in of_tables and second is not None:
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
