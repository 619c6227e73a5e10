"""The probes a site has: each a directory with ``probe.toml`` and an executable ``run``.

::

    [probe]
    name = "org.pps.se.xroot"              # reverse DNS
    aliases = ["se.xroot"]
    version = "1"
    summary = "put, checksum, get, compare and remove a file"
    service_type = "SE"
    where = "node"                         # node: where jobs run; head: where the agent runs
    timeout_s = 60
    interval_s = 3600                      # optional

    [requires]
    commands = ["xrdcp"]                   # missing: UNKNOWN without a start
    [requires.variables]
    PPS_SE_XROOT = "root://host:port//directory it may write in"

    [env]                                  # variables it takes if they are set, and what they mean
    [limits]                               # cpu_s, memory_bytes, files, file_bytes, processes
"""

import difflib
import grp
import os
import pwd
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pps_agent.errors import ConfigError
from pps_agent.probes.protocol import LIMIT_NAMES, MAX_TIMEOUT_S
from pps_wire.errors import WireError
from pps_wire.names import ProbeName, parse_probe_name

DEFAULT_TIMEOUT_S: Final = 60
DEFAULT_LIMITS: Final[Mapping[str, int]] = {
    "cpu_s": 120,
    "memory_bytes": 4 * 1024**3,
    "files": 1024,
    "file_bytes": 1024**3,
    "processes": 512,
}
INSTALLED: Final = Path("/usr/libexec/pps-agent/probes")

_ALIAS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("probe", "requires", "env", "limits"),
    "probe": ("name", "aliases", "version", "summary", "service_type", "where", "timeout_s", "interval_s"),
    "requires": ("commands", "variables"),
    "limits": LIMIT_NAMES,
}
_MAX_METADATA_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDefinition:
    """One installed probe. ``variables`` must be set, ``env`` may be: name → what it means."""

    name: ProbeName
    run: Path
    aliases: tuple[str, ...] = ()
    version: str = ""
    summary: str = ""
    service_type: str = ""
    where: str = "node"
    timeout_s: int = DEFAULT_TIMEOUT_S
    interval_s: int | None = None
    commands: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_LIMITS))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All installed probes, in the order of their names."""

    definitions: tuple[ProbeDefinition, ...] = ()

    def find(self, name: str) -> ProbeDefinition | None:
        """Give the probe with this name or alias, or None when it is not installed."""
        return next((d for d in self.definitions if name == d.name or name in d.aliases), None)

    def closest(self, name: str) -> str:
        """Give the name or alias nearest to a mistyped one; empty when none is near."""
        names = [known for d in self.definitions for known in (d.name, *d.aliases)]
        return next(iter(difflib.get_close_matches(name, names, 1)), "")


def shipped_directory() -> Path:
    """Give the directory of the probes that come with the program: beside it in a clone, else the package's."""
    beside = Path(__file__).resolve().parents[2] / "probes"
    return beside if beside.is_dir() else INSTALLED


def load_catalogue(directories: Iterable[Path] = ()) -> Catalogue:
    """Read all probes below these directories (none given: the shipped ones).

    A probe that somebody else could change is refused. Raises: ConfigError with all faults.
    """
    faults: list[str] = []
    definitions: dict[str, ProbeDefinition] = {}
    for directory in tuple(directories) or (shipped_directory(),):
        for path in _probe_directories(directory, faults):
            definition = _load_probe(path, faults)
            for name in (definition.name, *definition.aliases) if definition else ():
                other = definitions.get(name)
                if definition is not None and other is not None:
                    faults.append(f"{path}: {name} is also the name of {other.run.parent}: rename or remove one")
                elif definition is not None:
                    definitions[name] = definition
    if faults:
        raise ConfigError(faults)
    unique = {definition.name: definition for definition in definitions.values()}
    return Catalogue(tuple(unique[name] for name in sorted(unique)))


def _probe_directories(directory: Path, faults: list[str]) -> list[Path]:
    try:
        found = sorted(path.parent for path in directory.glob("*/probe.toml"))
        if not directory.is_dir():
            faults.append(f"{directory}: no such directory: correct paths.probes or install the probes")
    except OSError as exc:
        faults.append(f"{directory}: {exc.strerror}: let the agent's user read it")
        return []
    if found and (fault := _foreign_hand(directory)):
        faults.append(fault)
    return found


def _load_probe(path: Path, faults: list[str]) -> ProbeDefinition | None:
    """Read one probe's directory; on faults they are noted and None is given."""
    metadata, run = path / "probe.toml", path / "run"
    before = len(faults)
    try:
        faults.extend(filter(None, map(_foreign_hand, (path, metadata, run))))
        if not run.stat().st_mode & 0o111:
            faults.append(f"{run}: is not executable: chmod 755 it")
        content = metadata.read_bytes()[: _MAX_METADATA_BYTES + 1]
    except OSError as exc:
        faults.append(f"{exc.filename}: {exc.strerror}: a probe needs a readable probe.toml and an executable run")
        return None
    definition = parse_definition(content, path, faults)
    return definition if len(faults) == before else None


def parse_definition(content: bytes, path: Path, faults: list[str]) -> ProbeDefinition | None:
    """Read a probe's metadata; ``path`` is its directory. Faults are added to the list; None on any."""
    metadata = path / "probe.toml"
    before = len(faults)
    try:
        if len(content) > _MAX_METADATA_BYTES:
            raise ValueError(f"larger than {_MAX_METADATA_BYTES} bytes")
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as exc:
        faults.append(f"{metadata}: not readable as TOML: {exc}")
        return None
    reader = _Reader(metadata, content.decode(), faults)
    tables = {name: reader.table(document, "", name) for name in _KEYS[""]}
    for name, keys in _KEYS.items():
        reader.refuse_unknown(tables[name] if name else document, name, keys)
    definition = _read_definition(reader, tables, path)
    return definition if len(faults) == before else None


def _read_definition(reader: "_Reader", tables: Mapping[str, dict[str, Any]], path: Path) -> ProbeDefinition:
    probe, requires = tables["probe"], tables["requires"]
    limits = {key: reader.whole(tables["limits"], "limits", key, 2**62) for key in LIMIT_NAMES}
    return ProbeDefinition(
        name=reader.name(probe),
        run=path / "run",
        aliases=reader.texts(probe, "probe", "aliases", _ALIAS),
        version=reader.text(probe, "probe", "version"),
        summary=reader.text(probe, "probe", "summary"),
        service_type=reader.text(probe, "probe", "service_type"),
        where=reader.choice(probe, "probe", "where", ("node", "head")),
        timeout_s=reader.whole(probe, "probe", "timeout_s", int(MAX_TIMEOUT_S)) or DEFAULT_TIMEOUT_S,
        interval_s=reader.whole(probe, "probe", "interval_s", 366 * 86_400),
        commands=reader.texts(requires, "requires", "commands", _ALIAS),
        variables=reader.meanings(reader.table(requires, "requires", "variables"), "requires.variables"),
        env=reader.meanings(tables["env"], "env"),
        limits={**DEFAULT_LIMITS, **{key: value for key, value in limits.items() if value is not None}},
    )


class _Reader:
    """Typed reads that note a fault with its line and go on."""

    def __init__(self, path: Path, text: str, faults: list[str]) -> None:
        self._path, self._lines, self._faults = path, text.splitlines(), faults

    def _fault(self, table: str, key: str, problem: str) -> None:
        wanted = re.compile(rf"""\s*(?:\[\[?\s*)?(?:[\w.]+\.)?["']?{re.escape(key)}["']?\s*[=\].]""")
        line = next((n for n, text in enumerate(self._lines, 1) if wanted.match(text)), 1)
        self._faults.append(f"{self._path}:{line}: {table + '.' if table else ''}{key}: {problem}")

    def refuse_unknown(self, table: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> None:
        for key in table.keys() - set(keys):
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
            self._fault(name, key, f"unknown key; {hint}")

    def table(self, parent: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
        value = parent.get(key, {})
        if isinstance(value, dict):
            return value
        self._fault(name, key, "must be a table")
        return {}

    def name(self, table: Mapping[str, Any]) -> ProbeName:
        try:
            return parse_probe_name(self.text(table, "probe", "name"))
        except WireError as exc:
            self._fault("probe", "name", exc.problem)
            return ProbeName("")

    def text(self, table: Mapping[str, Any], name: str, key: str) -> str:
        value = table.get(key, "")
        if isinstance(value, str) and len(value) <= 1024 and "\0" not in value:
            return value
        self._fault(name, key, "must be a text of at most 1024 characters")
        return ""

    def choice(self, table: Mapping[str, Any], name: str, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(table, name, key) or allowed[0]
        if value not in allowed:
            self._fault(name, key, f"must be one of {', '.join(allowed)}")
        return value

    def whole(self, table: Mapping[str, Any], name: str, key: str, maximum: int) -> int | None:
        value = table.get(key)
        if value is None or (type(value) is int and 0 < value <= maximum):
            return value
        self._fault(name, key, f"must be a whole number from 1 to {maximum}")
        return None

    def texts(self, table: Mapping[str, Any], name: str, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
        value = table.get(key, [])
        if isinstance(value, list) and all(isinstance(item, str) and form.fullmatch(item) for item in value):
            return tuple(value)
        self._fault(name, key, "must be a list of plain names (letters, digits and . _ -)")
        return ()

    def meanings(self, table: Mapping[str, Any], name: str) -> dict[str, str]:
        for key, value in table.items():
            if _VARIABLE.fullmatch(key) is None or not isinstance(value, str):
                self._fault(name, key, 'must be VARIABLE = "what it means"')
        return {key: value for key, value in table.items() if isinstance(value, str)}


def _foreign_hand(path: Path) -> str:
    """Tell who else could change a file or directory; empty when nobody can. Raises: OSError."""
    status = path.stat()
    # Whoever owns this program's own code need not change a probe to make the agent do something else.
    if status.st_uid not in (0, os.geteuid(), Path(__file__).stat().st_uid):
        return f"{path}: belongs to user {status.st_uid}: chown it to root or to the agent's user"
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private_group(status)):
        return f"{path}: others can write it: chmod go-w it, and check what it does now"
    return ""


def _is_private_group(status: os.stat_result) -> bool:
    """Tell whether the group is its owner's alone (accounts with a group each, umask 002)."""
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and not set(group.gr_mem) - {owner.pw_name}
