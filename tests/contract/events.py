"""Finds every event a program logs, by reading its syntax trees: ``log.info("noun.past_verb", key=…)``."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LEVELS: Final = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_LOGGERS: Final = {"log", "_log", "logger", "_logger"}


@dataclass(frozen=True)
class Event:
    """One event: its levels and keys from all places that log it; key ``…`` stands for ``**facts``."""

    name: str
    levels: tuple[str, ...]
    keys: tuple[str, ...]


class DynamicEventError(Exception):
    """An event whose name is no constant cannot be listed."""


def find_events(package: Path) -> tuple[Event, ...]:
    """Give the events of a package, sorted by name."""
    levels: dict[str, set[str]] = {}
    keys: dict[str, dict[str, None]] = {}
    for path in sorted(package.rglob("*.py")):
        for name, level, found in events_of(path.read_text("utf-8"), str(path)):
            levels.setdefault(name, set()).add(level)
            keys.setdefault(name, {}).update(dict.fromkeys(found))
    return tuple(Event(name, tuple(sorted(levels[name])), tuple(sorted(keys[name]))) for name in sorted(levels))


def events_of(source: str, where: str) -> Iterator[tuple[str, str, list[str]]]:
    """Give (name, level, keys) of each logging call. Raises: DynamicEventError."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in LEVELS or not _is_logger(node.func.value):
            continue
        event = node.args[0] if len(node.args) == 1 else None
        if not isinstance(event, ast.Constant) or not isinstance(event.value, str):
            raise DynamicEventError(f"{where}:{node.lineno}: name the event by one constant text")
        yield event.value, LEVELS[node.func.attr], [keyword.arg or "…" for keyword in node.keywords]


def _is_logger(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _LOGGERS
        case ast.Call(func=ast.Attribute(attr="bind", value=value)):
            return _is_logger(value)
    return False
