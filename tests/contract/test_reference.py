"""The reference pages and schemas are what the code says; a page that fell behind fails here."""

import re
from typing import Any

import msgspec
import pytest

from pps_agent.errors import AgentError, ConfigError, FetchError, SiteError, TrustError, exit_code_of, worst_exit_code
from pps_collector.ingest.route import _STATUS
from pps_wire.errors import WireError
from pps_wire.report import Refusal
from tests.contract.events import DynamicEventError, events_of, find_events
from tests.contract.reference import GOLDEN, REFERENCE, ROOT, SCHEMAS, read_meanings, render_reference
from tests.contract.samples import RECORDS
from tests.contract.schema import SchemaError, check_schema, validate

COMMAND = "python -m tests.contract.reference"
GENERATED = render_reference()
PACKAGES = ("pps_agent", "pps_collector", "pps_publisher")
DOCUMENTS = {
    "release": ["release.json"],
    "withdrawal": ["withdrawal.json"],
    "batch": ["batch.json"],
    "ack": ["ack.json"],
    "problem": ["problem.json"],
    "enrol-request": ["enrol-request.json"],
    "enrol-reply": ["enrol-reply.json"],
    "request": ["request.json"],
    "envelope": ["envelope.json"],
    "fleet-keys": ["fleet-keys.json"],
    "probe-output": ["probe-output.json"],
}


def schema(name: str) -> Any:
    return msgspec.json.decode(GENERATED[f"schemas/{name}.json"])


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_a_committed_file_is_what_is_generated(name):
    path = REFERENCE / name
    assert path.exists(), f"run {COMMAND}"
    assert path.read_text("utf-8") == GENERATED[name], f"run {COMMAND}"


def test_no_schema_is_left_over():
    assert sorted(path.stem for path in (REFERENCE / "schemas").iterdir()) == sorted(SCHEMAS)


@pytest.mark.parametrize("page", ["settings.md", "exit-codes.md", "log-events.md", "formats.md"])
def test_every_page_has_generated_parts(page):
    assert "<!-- generated: " in GENERATED[page]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_valid_2020_12_and_its_patterns_are_ecma_262(name):
    check_schema(schema(name))


@pytest.mark.parametrize(("name", "files"), DOCUMENTS.items())
def test_golden_documents_fit_their_schema(name, files):
    for file in files:
        validate(msgspec.json.decode((GOLDEN / file).read_bytes()), schema(name))


def test_golden_manifest_lines_and_records_fit_their_schemas():
    for line in (GOLDEN / "manifest.jsonl").read_bytes().splitlines():
        validate(msgspec.json.decode(line), schema("manifest-line"))
    for raw in RECORDS:
        record = msgspec.json.decode(raw)
        validate(record, schema("record"))
        if f"body-{record['kind']}" in SCHEMAS:
            validate(record["body"], schema(f"body-{record['kind']}"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("v", 0), ("component", "Grid"), ("version", "1-2"), ("vos", []), ("class", "other"), ("artifact", None)],
)
def test_a_schema_refuses_what_the_code_refuses(field, value):
    document = msgspec.json.decode((GOLDEN / "release.json").read_bytes())
    with pytest.raises(SchemaError):
        validate(document | {field: value}, schema("release"))


def test_every_event_in_the_code_is_listed_and_every_listed_one_is_in_the_code():
    logged = {event.name for package in PACKAGES for event in find_events(ROOT / package)}
    assert set(read_meanings()) == logged, f"run {COMMAND}"


def test_every_event_has_a_meaning_for_people():
    assert [name for name, meaning in read_meanings().items() if not meaning] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_events_are_named_noun_past_verb(package):
    names = [event.name for event in find_events(ROOT / package)]
    assert [name for name in names if re.fullmatch(r"[a-z]+\.[a-z_]+", name) is None] == []


def test_an_event_in_any_dress_is_found():
    source = "log.info('a.b', k=1)\nself._log.exception('c.d')\nlog.bind(x=1).warning('e.f', **facts)\nmath.log.x(1)"
    assert list(events_of(source, "x.py")) == [
        ("a.b", "info", ["k"]),
        ("c.d", "error", []),
        ("e.f", "warning", ["…"]),
    ]


@pytest.mark.parametrize("call", ["log.info(f'{a}.b')", "log.info('a.b', 1)", "log.error(text)", "log.info()"])
def test_an_event_without_a_constant_name_is_refused(call):
    with pytest.raises(DynamicEventError, match=r"x\.py:1"):
        list(events_of(call, "x.py"))


def test_the_page_of_exit_codes_tells_what_the_agent_answers():
    page = GENERATED["exit-codes.md"]
    for error in (ConfigError([]), TrustError(), SiteError(), FetchError("")):
        assert f"| {exit_code_of(error)} | `{type(error).__name__}` |" in page
    assert exit_code_of(FetchError("", permanent=True)) == 69
    assert exit_code_of(WireError("", "")) == 7
    assert exit_code_of(AgentError()) == 1


def test_the_order_of_exit_codes_is_the_page_s():
    match = re.search(r"is the answer: ([0-9, ]+)\.", GENERATED["exit-codes.md"])
    assert match is not None
    order = [int(code) for code in match[1].split(", ")]
    assert [worst_exit_code(order[index:]) for index in range(len(order))] == order
    assert worst_exit_code([0, 0]) == 0


def test_every_refusal_of_a_batch_is_explained_with_its_status():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([0-9, ]+) \|", GENERATED["formats.md"], re.MULTILINE))
    assert set(rows) == {code.value for code in Refusal}
    assert [code.value for code, status in _STATUS.items() if str(status) not in rows[code.value]] == []
