"""Reads ``probe.toml``, strictly: all faults are noted with their line, each with what to write instead. Pure.

::

    [probe]
    name = "org.pps.se.xroot"              # reverse DNS
    aliases = ["se.xroot"]
    version = "1"
    summary = "put, checksum, get, compare and remove a file"
    where = "node"                         # node: where jobs run; head: where the agent runs
    timeout_s = 60
    interval_s = 3600                      # optional

    [requires]
    commands = ["xrdcp"]                   # missing: UNKNOWN without a start
    [requires.variables]
    PPS_SE_XROOT = "root://host:port//directory it may write in"

    [env]                                  # variables it takes if they are set, and what they mean
    [secrets]                              # VARIABLE = "file" or "environment"
    [arguments]                            # what a caller may set
    url = { variable = "PPS_SE_XROOT", form = "url", option = "-u", help = "the directory" }
    [limits]                               # cpu_s, memory_bytes, files, file_bytes, processes, …

All keys: docs/reference/probe-toml.md.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import time
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from pps_agent.probes.definition import (
    DAY_S,
    DEFAULT_LIMITS,
    DEFAULT_RETRY_INTERVAL_S,
    DEFAULT_TIMEOUT_S,
    Argument,
    Form,
    Format,
    ProbeDefinition,
    Scope,
    SecretForm,
    Weight,
    Where,
)
from pps_agent.probes.protocol import LIMIT_NAMES, MAX_TIMEOUT_S
from pps_wire.errors import WireError
from pps_wire.names import ProbeName, parse_probe_name, parse_vo

MAX_METADATA_BYTES: Final = 64 * 1024
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("probe", "requires", "env", "secrets", "arguments", "limits"),
    "probe": (
        *("name", "aliases", "version", "summary", "service_type", "where", "scope", "vos", "needs_proxy"),
        *("depends_on", "interval_s", "retry_interval_s", "max_attempts", "timeout_s", "freshness_s", "at"),
        *("splay_s", "weight", "format", "matrix", "metrics"),
    ),
    "requires": ("commands", "variables"),
    "limits": LIMIT_NAMES,
}
"""Known keys of each table; the other tables' keys are names."""
OPTIONS: Final = ("-H", "-p", "-u", "-w", "-c")
"""Plugin options that an argument may answer to. Source: Monitoring Plugins Development Guidelines."""

_ALIAS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_RESERVED: Final = re.compile(
    r"(?:PATH|HOME|TMPDIR|IFS|ENV|BASH_ENV|LC_.*|LD_.*|PYTHON.*|PPS_RUN|PPS_RELEASE.*|PPS_PRODUCTION.*)", re.ASCII
)
_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)
_YEAR_S: Final = 366 * DAY_S
_MOST_FAULTS: Final = 100
"""What is told of one file: a line is looked for, for each."""
_Choice = TypeVar("_Choice", bound=Enum)
_Name = TypeVar("_Name")


def parse_definition(content: bytes, path: Path, faults: list[str]) -> ProbeDefinition | None:
    """Read a probe's metadata; ``path`` is its directory. Faults are added to the list; None on any."""
    metadata = path / "probe.toml"
    before = len(faults)
    try:
        if len(content) > MAX_METADATA_BYTES:
            raise ValueError(f"larger than {MAX_METADATA_BYTES} bytes")
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as exc:
        faults.append(f"{metadata}: not readable as TOML: {exc}")
        return None
    reader = _Reader(metadata, content.decode(), faults)
    tables = {name: reader.table(document, "", name) for name in KEYS[""]}
    for name, keys in KEYS.items():
        reader.refuse_unknown(tables[name] if name else document, name, keys)
    definition = _read_definition(reader, tables, path)
    if len(faults) == before:
        _check_together(definition, reader)
    return definition if len(faults) == before else None


def parse_names(content: bytes) -> tuple[str, ...]:
    """Give the name and aliases that metadata claims, faulty as it may be; none where they cannot be read."""
    try:
        probe = tomllib.loads(content[:MAX_METADATA_BYTES].decode()).get("probe")
    except (ValueError, RecursionError):
        return ()
    table = probe if isinstance(probe, dict) else {}
    aliases = table.get("aliases")
    claimed = [table.get("name"), *(aliases if isinstance(aliases, list) else ())]
    return tuple(name for name in claimed if isinstance(name, str) and _ALIAS.fullmatch(name))


def _read_definition(reader: "_Reader", tables: Mapping[str, dict[str, Any]], path: Path) -> ProbeDefinition:
    probe, requires = tables["probe"], tables["requires"]
    limits = {key: reader.whole(tables["limits"], "limits", key, 2**62) for key in LIMIT_NAMES}
    given = {key: value for key, value in limits.items() if value is not None}
    where = reader.choice(probe, "probe", "where", Where.NODE)
    at = reader.time(probe, "at")
    return ProbeDefinition(
        name=reader.name(probe),
        run=path / "run",
        aliases=reader.texts(probe, "probe", "aliases", _ALIAS),
        version=reader.text(probe, "probe", "version"),
        summary=reader.text(probe, "probe", "summary"),
        service_type=reader.text(probe, "probe", "service_type"),
        where=where,
        scope=reader.choice(probe, "probe", "scope", Scope.WN if where is Where.NODE else Scope.SITE),
        vos=reader.names(probe, "vos", parse_vo),
        needs_proxy=reader.truth(probe, "needs_proxy"),
        depends_on=reader.names(probe, "depends_on", parse_probe_name),
        interval_s=reader.whole(probe, "probe", "interval_s", _YEAR_S) or (DAY_S if at else None),
        retry_interval_s=reader.whole(probe, "probe", "retry_interval_s", _YEAR_S) or DEFAULT_RETRY_INTERVAL_S,
        max_attempts=reader.whole(probe, "probe", "max_attempts", 100) or 1,
        timeout_s=reader.whole(probe, "probe", "timeout_s", int(MAX_TIMEOUT_S)) or DEFAULT_TIMEOUT_S,
        freshness_s=reader.whole(probe, "probe", "freshness_s", _YEAR_S),
        at=at,
        splay_s=reader.whole(probe, "probe", "splay_s", _YEAR_S, minimum=0),
        weight=reader.choice(probe, "probe", "weight", Weight.LIGHT),
        format=reader.choice(probe, "probe", "format", Format.AUTO),
        matrix=reader.is_matrix(probe),
        metrics=reader.names(probe, "metrics", parse_probe_name),
        commands=reader.texts(requires, "requires", "commands", _ALIAS),
        variables=reader.meanings(reader.table(requires, "requires", "variables"), "requires.variables"),
        env=reader.meanings(tables["env"], "env"),
        secrets=reader.secrets(tables["secrets"]),
        arguments=reader.arguments(tables["arguments"]),
        limits={**DEFAULT_LIMITS, **given} if given else DEFAULT_LIMITS,
    )


def _check_together(definition: ProbeDefinition, reader: "_Reader") -> None:
    """Note what cannot work together."""
    interval_s = definition.interval_s
    if definition.name in definition.depends_on:
        reader.fault("probe", "depends_on", "a probe cannot depend on itself")
    if definition.at is not None and (interval_s is None or interval_s % DAY_S):
        reader.fault("probe", "at", f"with a time of day interval_s must be a multiple of {DAY_S}, or left out")
    if definition.at is not None and definition.splay_s:
        reader.fault("probe", "splay_s", "a fixed time of day has no splay: leave one of them out")
    if interval_s is None:
        return
    if definition.splay_s is not None and definition.splay_s > interval_s:
        reader.fault("probe", "splay_s", f"must not be more than interval_s ({interval_s})")
    if definition.freshness_s is not None and definition.freshness_s <= interval_s:
        reader.fault("probe", "freshness_s", f"must be more than interval_s ({interval_s}), else results go stale")


class _Reader:
    """Typed reads that note a fault with its line and go on."""

    def __init__(self, path: Path, text: str, faults: list[str]) -> None:
        self._path, self._lines, self._faults = path, text.splitlines(), faults
        self._found = 0

    def fault(self, table: str, key: str, problem: str) -> None:
        self._found += 1
        if self._found > _MOST_FAULTS:
            return
        wanted = re.compile(rf"""\s*(?:\[\[?\s*)?(?:[\w.]+\.)?["']?{re.escape(key)}["']?\s*[=\].]""")
        line = next((n for n, text in enumerate(self._lines, 1) if wanted.match(text)), 1)
        self._faults.append(f"{self._path}:{line}: {table + '.' if table else ''}{key}: {problem}")

    def refuse_unknown(self, table: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> None:
        unknown = sorted(table.keys() - set(keys))[:_MOST_FAULTS]
        if not unknown:
            return
        import difflib  # only on the way to a fault

        for key in unknown:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
            self.fault(name, key, f"unknown key; {hint}")

    def table(self, parent: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
        value = parent.get(key, {})
        if isinstance(value, dict):
            return value
        self.fault(name, key, "must be a table")
        return {}

    def name(self, table: Mapping[str, Any]) -> ProbeName:
        try:
            return parse_probe_name(self.text(table, "probe", "name"))
        except WireError as exc:
            self.fault("probe", "name", exc.problem)
            return ProbeName("")

    def names(self, table: Mapping[str, Any], key: str, parse: Callable[[str], _Name]) -> tuple[_Name, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or len(value) > 64:
            self.fault("probe", key, "must be a list of at most 64 names")
            return ()
        try:
            return tuple(dict.fromkeys(map(parse, value)))
        except WireError as exc:
            self.fault("probe", key, exc.problem)
            return ()

    def text(self, table: Mapping[str, Any], name: str, key: str) -> str:
        value = table.get(key, "")
        if isinstance(value, str) and len(value) <= 1024 and value.isprintable():
            return value
        self.fault(name, key, "must be one line of text of at most 1024 characters")
        return ""

    def choice(self, table: Mapping[str, Any], name: str, key: str, default: _Choice) -> _Choice:
        kind = type(default)
        value = table.get(key, default.value)
        try:
            return kind(value)
        except ValueError:
            self.fault(name, key, f"must be one of {', '.join(choice.value for choice in kind)}")
            return default

    def truth(self, table: Mapping[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if isinstance(value, bool):
            return value
        self.fault("probe", key, "must be true or false")
        return False

    def is_matrix(self, table: Mapping[str, Any]) -> bool:
        value = table.get("matrix", "")
        if value not in ("", "releases"):
            self.fault("probe", "matrix", 'must be "releases", or left out')
        return bool(value == "releases")

    def time(self, table: Mapping[str, Any], key: str) -> time | None:
        value = table.get(key)
        if value is None:
            return None
        if isinstance(value, str) and _TIME.fullmatch(value):
            return time.fromisoformat(value)
        self.fault("probe", key, 'must be a time of day in UTC, e.g. "03:15"')
        return None

    def whole(self, table: Mapping[str, Any], name: str, key: str, maximum: int, *, minimum: int = 1) -> int | None:
        value = table.get(key)
        if value is None or (type(value) is int and minimum <= value <= maximum):
            return value
        self.fault(name, key, f"must be a whole number from {minimum} to {maximum}")
        return None

    def texts(self, table: Mapping[str, Any], name: str, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(item, str) and form.fullmatch(item) for item in value):
            return tuple(value)
        self.fault(name, key, "must be a list of plain names (letters, digits and . _ -)")
        return ()

    def meanings(self, table: Mapping[str, Any], name: str) -> dict[str, str]:
        for key, value in table.items():
            if _VARIABLE.fullmatch(key) is None or not isinstance(value, str):
                self.fault(name, key, 'must be VARIABLE = "what it means"')
        return {key: value for key, value in table.items() if isinstance(value, str)}

    def secrets(self, table: Mapping[str, Any]) -> dict[str, SecretForm]:
        found = {}
        for key, value in table.items():
            if self._is_variable("secrets", key, key) and value in [form.value for form in SecretForm]:
                found[key] = SecretForm(value)
            elif _VARIABLE.fullmatch(key):
                self.fault("secrets", key, f"must be one of {', '.join(form.value for form in SecretForm)}")
        return found

    def arguments(self, table: Mapping[str, Any]) -> dict[str, Argument]:
        found: dict[str, Argument] = {}
        taken: set[str] = set()
        for key in table:
            argument = self.table(table, "arguments", key)
            self.refuse_unknown(argument, f"arguments.{key}", ("variable", "form", "option", "help"))
            variable, option = (self.text(argument, f"arguments.{key}", name) for name in ("variable", "option"))
            if option and (option not in OPTIONS or option in taken):
                self.fault(f"arguments.{key}", "option", f"must be one of {', '.join(OPTIONS)}, each once")
            taken.add(option)
            if _ALIAS.fullmatch(key) and self._is_variable("arguments", key, variable):
                form = self.choice(argument, f"arguments.{key}", "form", Form.WORD)
                help_text = self.text(argument, f"arguments.{key}", "help")
                found[key] = Argument(variable=variable, form=form, option=option, help=help_text)
        return found

    def _is_variable(self, table: str, key: str, variable: str) -> bool:
        if _VARIABLE.fullmatch(variable) and not _RESERVED.fullmatch(variable):
            return True
        self.fault(table, key, f"{variable!r} is no variable that a probe may be given: use e.g. PPS_SE_URL")
        return False
