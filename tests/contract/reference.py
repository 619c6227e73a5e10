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
from pps_agent.probes.arguments import describe_form
from pps_agent.probes.catalogue import load_catalogue, shipped_directory
from pps_agent.probes.definition import Form, ProbeDefinition
from pps_agent.probes.json_format import JsonResult
from pps_agent.quiet_hours import QuietHours
from pps_agent.settings_file import default_of, describe_fields, describe_tables
from pps_collector.settings import Settings as CollectorSettings
from pps_wire.manifest import Directory, File, Head, Link
from pps_wire.node import NodeDocument, NodeRequest
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
    RequestBody,
    RoundBody,
    TagBody,
)
from pps_wire.request import Envelope, FleetKeys, Inbox, Request
from tests.contract.events import Event, find_events
from tests.contract.probe_metadata import PROBE_EXAMPLE, PROBE_METADATA

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
    "body-request": RequestBody,
    "node-request": NodeRequest,
    "node-document": NodeDocument,
    "ack": Ack,
    "problem": Problem,
    "enrol-request": EnrolRequest,
    "enrol-reply": EnrolReply,
    "request": Request,
    "inbox": Inbox,
    "envelope": Envelope,
    "fleet-keys": FleetKeys,
    "probe-output": JsonResult | list[JsonResult],
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
    tables = [(f"{name}.NAME", field, hint) for name, field, hint in describe_tables()]
    for name, field, hint in (*describe_fields(), *tables):
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
    names = {int: f"whole number{minimum}", str: "text", Path: "path", QuietHours: "span of time"}
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


def _probes(_: str) -> str:
    rows = ["| probe | tests | runs on | every | also known as |", "|---|---|---|---|---|"]
    parts = []
    for definition in load_catalogue((shipped_directory(),)).definitions:
        name = definition.run.parent.name
        others = ", ".join(f"`{alias}`" for alias in definition.aliases if alias != name) or "-"
        every = _span(definition.interval_s) if definition.interval_s else "when asked"
        link = f"[{name}](#{name.replace('.', '')})"
        rows.append(f"| {link} | {_cell(definition.summary)} | {definition.where.value} | {every} | {others} |")
        parts.append(_probe(name, definition))
    return "\n".join([*rows, "", *parts]).strip()


def _probe(name: str, definition: ProbeDefinition) -> str:
    needs = [f"`{command}`" for command in definition.commands] + (["a proxy"] if definition.needs_proxy else [])
    facts = [
        f"version {definition.version}",
        f"{definition.weight.value}",
        f"time limit {_span(definition.timeout_s)}",
        f"hard after {definition.max_attempts}",
        f"again after {_span(definition.retry_interval_s)}",
        *(
            [f"depends on {', '.join(f'`{parent}`' for parent in definition.depends_on)}"]
            if definition.depends_on
            else []
        ),
        *([f"needs {', '.join(needs)}"] if needs else []),
    ]
    rows = [f"| `{key}` | {_cell(text)} | yes |" for key, text in definition.variables.items()]
    rows += [f"| `{key}` | a secret, as {form.value} | no |" for key, form in definition.secrets.items()]
    rows += [f"| `{key}` | {_cell(text)} | no |" for key, text in definition.env.items()]
    table = "\n".join(["| variable | meaning | needed |", "|---|---|---|", *rows])
    return f"## {name}\n\n`{definition.name}`: {'; '.join(facts)}.\n\n{table}\n"


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


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


def _probe_metadata(table: str) -> str:
    """Give the keys of one table of probe.toml: types and defaults as the parser has them, meanings from here."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, row in PROBE_METADATA[table].items():
        rows.append(f"| `{key}` | {row.value} | {row.default} | {_cell(row.meaning)} |")
    return "\n".join(rows)


def _probe_example(_: str) -> str:
    return f"```toml\n{PROBE_EXAMPLE.rstrip()}\n```"


def _probe_forms(_: str) -> str:
    rows = ["| form | what is taken |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{form.value}` | {_cell(describe_form(form))} |" for form in Form)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


_FILLERS: Final[dict[str, Callable[[str], str]]] = {
    "sample": _sample,
    "agent-settings": _agent_settings,
    "collector-settings": _collector_settings,
    "exit-codes": _exit_codes,
    "probes": _probes,
    "log-events": _log_events,
    "probe-metadata": _probe_metadata,
    "probe-example": _probe_example,
    "probe-forms": _probe_forms,
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
