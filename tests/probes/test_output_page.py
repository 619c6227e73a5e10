"""docs/reference/probe-output.md says what the code does: its examples and its figures are read."""

import re

import pytest

from pps_agent.probes.definition import Format
from pps_agent.probes.output import detect_format, read_output, split_status
from pps_agent.probes.parse import MAX_DETAILS_CHARS, MAX_SUMMARY_CHARS
from pps_agent.probes.perfdata import (
    MAX_LABEL_CHARS,
    MAX_PERFDATA,
    MAX_PERFDATA_CHARS,
    is_exceeded,
    parse_perfdata,
    parse_range,
)
from pps_agent.probes.protocol import STDOUT_HEAD_BYTES, STDOUT_TAIL_BYTES
from pps_agent.probes.verdict import MAX_CHILDREN
from pps_agent.probes.wlcg import MAX_KEYS, REQUIRED, parse_records, render_records
from pps_wire.report import Status
from tests.contract.reference import REFERENCE

PAGE = (REFERENCE / "probe-output.md").read_text("utf-8")


def example(kind: str) -> bytes:
    return re.search(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1].encode()  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "form", "labels"),
    [
        ("text", Format.NAGIOS, ["/scratch", "largest file", "time"]),
        ("wlcg", Format.WLCG, ["put", "get"]),
        ("json", Format.JSON, ["put", "free space", "queue"]),
    ],
)
def test_an_example_is_read_whole(kind: str, form: Format, labels: list[str]) -> None:
    assert detect_format(example(kind)) is form
    (said,) = read_output(example(kind), Format.AUTO)
    assert (said.status, said.notes) == (Status.OK, ())
    assert [datum.label for datum in parse_perfdata(said.perfdata)] == labels
    assert said.details


def test_the_example_of_a_tuple_is_as_we_write_it() -> None:
    assert render_records(parse_records(example("wlcg"))).encode() == example("wlcg")
    assert re.findall(r"^(\w+):", example("wlcg").decode(), re.MULTILINE)[:9] == list(REQUIRED)


@pytest.mark.parametrize(("text", "alarm"), re.findall(r"^\| `([@~:0-9]+)` \| (.*) \|$", PAGE, re.MULTILINE))
def test_the_table_of_ranges_is_right(text: str, alarm: str) -> None:
    limits = parse_range(text)
    words = {"below 0": -1, "below 10": 9, "above 10": 11, "above 20": 21, "10 to 20": 15}
    said = {value for word, value in words.items() if word in alarm}
    assert {value for value in words.values() if is_exceeded(limits, value)} >= said
    assert [value for value in (10, 15, 20) if is_exceeded(limits, value)] == {
        "below 0 or above 10": [15, 20],
        "above 10": [15, 20],
        "10 to 20": [10, 15, 20],
    }.get(alarm, [])


def test_the_ranges_of_the_table_are_found() -> None:
    assert len(re.findall(r"^\| `[@~:0-9]+` \| .* \|$", PAGE, re.MULTILINE)) == 5


@pytest.mark.parametrize(
    "words",
    [
        f"above {(STDOUT_HEAD_BYTES + STDOUT_TAIL_BYTES) // 1024} KiB",
        f"{STDOUT_HEAD_BYTES // 1024} KiB from its beginning and {STDOUT_TAIL_BYTES // 1024} KiB from its end",
        f"more than {MAX_SUMMARY_CHARS} characters",
        f"above {MAX_DETAILS_CHARS:,} characters",
        f"more than {MAX_PERFDATA} measurements, or {MAX_PERFDATA_CHARS:,} characters",
        f"up to {MAX_KEYS} keys in all",
        f"at most {MAX_LABEL_CHARS} characters",
        f"A run may report {MAX_CHILDREN} further metrics",
    ],
)
def test_a_figure_is_the_code_s(words: str) -> None:
    assert words in " ".join(PAGE.split())


def test_the_examples_of_status_words_are_read_as_told() -> None:
    texts = ("DISK CRITICAL - full", "No CRITICAL errors", "0 CRITICAL, 0 WARNING")
    assert all(f"`{text}`" in PAGE for text in texts)
    assert [split_status(text)[0] for text in texts] == [Status.CRITICAL, None, None]
