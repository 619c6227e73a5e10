"""Writes the generated parts of docs/reference/ from the code: ``python -m tests.contract.reference``.

``schemas/*.json`` are written whole. In the Markdown files only what stands between
``<!-- generated: NAME -->`` and ``<!-- end -->`` is; everything around it is for people to write, and so
is the last column of the log events. test_reference.py fails when a committed file is not what is generated.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

import pps_agent.errors
import pps_agent.tags.errors
import pps_collector.errors
import pps_publisher.errors
from pps_agent.settings_file import default_of, describe_fields
from pps_collector.settings import Settings as CollectorSettings
from pps_wire.manifest import Directory, File, Head, Link
from pps_wire.release import Release, Withdrawal
from pps_wire.report import (
    Ack,
    Batch,
    EnrolReply,
    EnrolRequest,
    ProbeBody,
    Problem,
    Record,
    ReleaseBody,
    RoundBody,
    TagBody,
)
from pps_wire.request import Envelope, FleetKeys, Request
from tests.contract.events import Event, find_events

ROOT: Final = Path(__file__).resolve().parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"
GOLDEN: Final = ROOT / "tests" / "contract" / "golden"
SCHEMAS: Final[dict[str, Any]] = {
    "manifest-line": Head | Directory | File | Link,
    "release": Release,
    "withdrawal": Withdrawal,
    "batch": Batch,
    "record": Record,
    "body-probe": ProbeBody,
    "body-release": ReleaseBody,
    "body-tag": TagBody,
    "body-round": RoundBody,
    "ack": Ack,
    "problem": Problem,
    "enrol-request": EnrolRequest,
    "enrol-reply": EnrolReply,
    "request": Request,
    "envelope": Envelope,
    "fleet-keys": FleetKeys,
}
_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROW = re.compile(r"^\| `([a-z_.]+)` \|.*\| (.*?) \|$", re.MULTILINE)


def render_reference() -> dict[str, str]:
    """Give every generated file, by its path below docs/reference/, as it should be."""
    files = {f"schemas/{name}.json": render_schema(kind) for name, kind in SCHEMAS.items()}
    for path in sorted(REFERENCE.glob("*.md")):
        files[path.name] = _BLOCK.sub(_fill, path.read_text("utf-8"))
    return files


def render_schema(kind: Any) -> str:
    """Give the JSON Schema of one document."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(kind)
    for part in schema["$defs"].values():
        part["description"] = inspect.cleandoc(part["description"])  # Python 3.13 strips docstrings itself
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def read_meanings() -> dict[str, str]:
    """Give the last column of the log events, which people write."""
    return dict(_ROW.findall((REFERENCE / "log-events.md").read_text("utf-8")))


def _fill(block: re.Match[str]) -> str:
    kind, _, argument = block[2].partition("=")
    return f"{block[1]}{_FILLERS[kind](argument)}\n{block[3]}"


def _sample(name: str) -> str:
    raw = (GOLDEN / name).read_bytes()
    text = raw if name.endswith(".jsonl") else msgspec.json.format(raw, indent=2)
    return f"```json\n{text.decode().rstrip()}\n```"


def _agent_settings(_: str) -> str:
    parts = []
    section = ""
    for name, field, hint in describe_fields():
        if name != section:
            parts.append(f"\n### [{name}]\n\n| key | type | default | meaning |\n|---|---|---|---|")
            section = name
        default = "**required**" if field.metadata.get("required") else f"`{_toml(default_of(field))}`"
        parts.append(
            f"| `{field.name}` | {_type(hint, field.metadata)} | {default} | {_cell(field.metadata['help'])} |"
        )
    return "\n".join(parts).strip()


def _collector_settings(_: str) -> str:
    hints = get_type_hints(CollectorSettings)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in fields(CollectorSettings):
        default = "**required**" if field.default is MISSING else f"`{_toml(field.default)}`"
        kind = _type(hints[field.name], field.metadata)
        rows.append(f"| `{field.name}` | {kind} | {default} | {_cell(field.metadata['help'])} |")
    return "\n".join(rows)


def _type(hint: Any, metadata: Any) -> str:
    if "choices" in metadata:
        words = " or ".join(f'`"{choice}"`' for choice in metadata["choices"])
        return f"list of {words}" if get_origin(hint) is tuple else words
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0], {})}"
    if get_origin(hint) is dict:
        return "table of texts"
    if get_args(hint):  # X | None
        return _type(next(part for part in get_args(hint) if part is not type(None)), metadata)
    minimum = f" ≥ {metadata['minimum']}" if "minimum" in metadata else ""
    names = {int: f"whole number{minimum}", str: "text", Path: "path"}
    return names[hint] if hint in names else hint.__name__.lower()


def _toml(value: Any) -> str:
    match value:
        case None:
            return "unset"
        case tuple():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case dict():
            return "{}"
        case int():
            return str(value)
        case _:
            return f'"{value}"'


def _exit_codes(program: str) -> str:
    module = {
        "agent": pps_agent.errors,
        "tags": pps_agent.tags.errors,
        "collector": pps_collector.errors,
        "publisher": pps_publisher.errors,
    }[program]
    rows = ["| exit | class | meaning |", "|---|---|---|"]
    for error in _errors_of(module):
        meaning = (inspect.getdoc(error) or "").splitlines()[0].replace("``", "`")
        rows.append(f"| {error.exit_code} | `{error.__name__}` | {_cell(meaning)} |")
    return "\n".join(rows)


def _errors_of(module: Any) -> Iterator[Any]:
    """Give the error classes a module defines, in file order, without its base."""
    bases = {"AgentError", "CollectorError", "PublishError", "TagError"}
    for value in vars(module).values():
        is_error = inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == module.__name__
        if is_error and value.__name__ not in bases:
            yield value


def _log_events(package: str) -> str:
    meanings = read_meanings()
    events = find_events(ROOT / package)
    if not events:
        return "No events."
    rows = ["| event | level | keys | meaning |", "|---|---|---|---|"]
    rows += [_event_row(event, meanings.get(event.name, "")) for event in events]
    return "\n".join(rows)


def _event_row(event: Event, meaning: str) -> str:
    keys = ", ".join(f"`{key}`" for key in event.keys) or "none"
    return f"| `{event.name}` | {', '.join(event.levels)} | {keys} | {meaning} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


_FILLERS: Final[dict[str, Callable[[str], str]]] = {
    "sample": _sample,
    "agent-settings": _agent_settings,
    "collector-settings": _collector_settings,
    "exit-codes": _exit_codes,
    "log-events": _log_events,
}


def main() -> int:
    """Write every generated file and say which changed."""
    for name, text in render_reference().items():
        path = REFERENCE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"written: docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
