"""Reads ``tests/NAME.case`` of a probe: what it is given, and what it must say. Pure.

::

    # the server refuses
    [env]
    PPS_SE_URL = "root://localhost//scratch"
    PPS_RELEASE_ROOT = "{dir}/tree"        # {dir} and {tree}: the directory in which [files] are made

    [files]
    "tree/VERSION" = "6.1.0"               # content by relative path; what begins with #! is made executable

    [commands]
    xrdcp = "echo refused >&2; exit 54"    # a shell script that takes this program's place in PATH

    [servers]                              # started first; the first line each prints is its variable's value
    PPS_BDII = "exec serve-something"      # sh unless it begins with #!; it may print nothing more

    [expect]
    status = "CRITICAL"
    summary = "server refused"             # optional: a regular expression found in the first line
    details = "exit 54"                    # optional: one found in the lines after it
    perfdata = ["time"]                    # optional: labels that must be there
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pps_agent.errors import ConfigError
from pps_wire.report import Status

MAX_CASE_BYTES: Final = 1024**2
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,126}", re.ASCII)
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("env", "files", "commands", "servers", "expect"),
    "expect": ("status", "summary", "details", "perfdata"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test of a probe. ``summary`` and ``details`` None: anything goes; ``perfdata``: labels it must have."""

    name: str
    status: Status
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)
    summary: re.Pattern[str] | None = None
    details: re.Pattern[str] | None = None
    perfdata: tuple[str, ...] = ()


def parse_case(content: bytes, name: str, where: str) -> Case:
    """Read one case; ``where`` names the file in faults. Raises: ConfigError with all faults, for any bytes."""
    try:
        if len(content) > MAX_CASE_BYTES:
            raise ValueError(f"larger than {MAX_CASE_BYTES} bytes")
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as exc:
        raise ConfigError([f"{where}: not readable as TOML: {exc}"]) from None
    faults: list[str] = []
    tables = {key: _table(document, key, faults) for key in _KEYS[""]}
    for table, keys in _KEYS.items():
        known = document if not table else tables[table]
        faults += [f"unknown key {key!r}; known are {', '.join(keys)}" for key in sorted(known.keys() - set(keys))]
    env = _texts(tables["env"], "env", _VARIABLE, faults)
    commands = _texts(tables["commands"], "commands", _COMMAND, faults)
    files = _texts(tables["files"], "files", None, faults)
    servers = _texts(tables["servers"], "servers", _VARIABLE, faults)
    faults += [f"files: {path!r} must be a relative path that stays inside" for path in files if not _is_inside(path)]
    faults += _find_overlaps(files)
    expect = tables["expect"]
    status, summary, details = (
        _status(expect, faults),
        *(_pattern(expect, key, faults) for key in ("summary", "details")),
    )
    perfdata = _labels(expect, faults)
    if faults or status is None:
        raise ConfigError([f"{where}: {fault}" for fault in faults])
    return Case(
        name=name, status=status, env=env, files=files, commands=commands, servers=servers,
        summary=summary, details=details, perfdata=perfdata,
    )  # fmt: skip


def _table(document: Mapping[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    value = document.get(key, {})
    if isinstance(value, dict):
        return value
    faults.append(f"{key}: must be a table")
    return {}


def _texts(table: Mapping[str, Any], name: str, form: re.Pattern[str] | None, faults: list[str]) -> dict[str, str]:
    for key, value in table.items():
        if not isinstance(value, str):
            faults.append(f'{name}.{key}: must be a text; a name with dots stands in quotes: "{key}.x" = "..."')
        elif form is not None and (form.fullmatch(key) is None or "\0" in value):
            faults.append(f"{name}.{key}: is no name for one of [{name}]")
    return {key: value for key, value in table.items() if isinstance(value, str)}


def _is_inside(path: str) -> bool:
    return path.isprintable() and all(part not in ("", ".", "..") and len(part) < 200 for part in path.split("/"))


def _find_overlaps(files: Mapping[str, str]) -> list[str]:
    parents = {path.rsplit("/", count)[0] for path in files for count in range(1, path.count("/") + 1)}
    return [f"files: {path!r} is a file and a directory" for path in sorted(parents & files.keys())]


def _status(expect: Mapping[str, Any], faults: list[str]) -> Status | None:
    value = expect.get("status")
    if isinstance(value, str) and value in Status.__members__:
        return Status[value]
    faults.append(f"expect.status: must be one of {', '.join(Status.__members__)}")
    return None


def _pattern(expect: Mapping[str, Any], key: str, faults: list[str]) -> re.Pattern[str] | None:
    value = expect.get(key)
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise re.error("not a text")
        return re.compile(value)
    except (re.error, OverflowError, RecursionError) as exc:
        faults.append(f"expect.{key}: is no regular expression: {exc}")
        return None


def _labels(expect: Mapping[str, Any], faults: list[str]) -> tuple[str, ...]:
    value = expect.get("perfdata", [])
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return tuple(value)
    faults.append("expect.perfdata: must be a list of labels")
    return ()
