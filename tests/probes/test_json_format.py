"""JSON v1 from probes: read strictly, with the place of what is wrong."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.json_format import (
    JsonResult,
    Measurement,
    describe_perfdata,
    parse_results,
    read_perfdata,
    render_results,
    status_of,
    word_of,
)
from pps_agent.probes.perfdata import PerfDatum, Range
from pps_wire.errors import WireError
from pps_wire.report import Status

OK = b'{"status":"OK","summary":"fine"}'
texts = st.text(max_size=12)
measurements = st.builds(
    Measurement,
    label=st.text("aé '=|", min_size=1, max_size=6),
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=st.sampled_from(["", "s", "%"]),
    warn=st.sampled_from(["", "10", "@1:2", "~:3"]),
    min=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
results = st.builds(
    JsonResult,
    metric=texts,
    status=st.sampled_from(["OK", "WARNING", "CRITICAL", "UNKNOWN", 0, 1, 2, 3]),
    summary=texts,
    details=texts,
    perfdata=st.lists(measurements, max_size=3).map(tuple),
    timestamp=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(results, min_size=1, max_size=3).map(tuple))
def test_what_is_written_is_read_back_as_it_was(written):
    assert parse_results(render_results(written)) == written


@given(st.lists(measurements, max_size=3).map(tuple))
def test_measurements_are_values_and_back(written):
    values = read_perfdata(JsonResult(status="OK", summary="", perfdata=written))
    assert read_perfdata(JsonResult(status="OK", summary="", perfdata=describe_perfdata(values))) == values


def test_a_measurement_has_all_that_a_value_has():
    full = PerfDatum("a", 1.5, "s", Range(0, 1), Range(2, 3, True), 0.0, 9.0)
    untold = PerfDatum("b", None)
    assert describe_perfdata((full, untold)) == (
        Measurement(label="a", value=1.5, unit="s", warn="1", crit="@2:3", min=0, max=9),
        Measurement(label="b", value=None),
    )


def test_status_is_a_word_or_a_number():
    for status in Status:
        word = parse_results(b'{"status":"%s","summary":""}' % status.name.encode())[0]
        number = parse_results(b'{"status":%d,"summary":""}' % status)[0]
        assert (status_of(word), status_of(number), word_of(status)) == (status, status, status.name)


def test_one_object_or_a_list_of_any_length_is_read():
    assert len(parse_results(b" \n" + OK)) == 1
    assert len(parse_results(b" \n[" + b",".join([OK] * 100) + b"]\n")) == 100


def test_a_time_is_read_with_its_zone():
    (read,) = parse_results(b'{"status":"OK","summary":"","timestamp":"2026-11-22T11:00:00+01:00"}')
    assert read.timestamp == datetime(2026, 11, 22, 10, tzinfo=UTC)


NO_ZONE = b'{"status":0,"summary":"","timestamp":"2026-11-22T11:00:00"}'
NO_UNIT = "JSON output: unit is none: write letters, % or nothing; a value that is null has none - at `$.perfdata[1]`"


def measured(fields: bytes) -> bytes:
    return b'{"status":"OK","summary":"","perfdata":[{"label":"a","value":1},{%s}]}' % fields


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", "JSON output: JSON ends too early (byte 0)"),
        (OK[:12], "JSON output: JSON ends too early (byte 12)"),
        (b"[" + OK[:12], "JSON output: JSON ends too early (byte 13)"),
        (b"[" + OK + b",", "JSON output: JSON ends too early (byte 34)"),
        (b'{"status":"OK",}', "JSON output: JSON is malformed: trailing comma in object (byte 15)"),
        (b"[" + OK + b",x]", "JSON output: JSON is malformed: invalid character (byte 34)"),
        (OK + b" trailing", "JSON output: JSON is malformed: trailing characters (byte 34)"),
        (OK.replace(b"fine", b"f\xffne"), "JSON output: not UTF-8 (byte 27)"),
        (b"[" + OK.replace(b"fine", b"f\xffne") + b"]", "JSON output: not UTF-8 (byte 28)"),
        (b"[]", "JSON output: the list is empty: a run gives at least one result"),
        (b"[1]", "JSON result 1: Expected `object`, got `int`"),
        (b"1", "JSON output: Expected `object`, got `int`"),
        (b'{"summary":""}', "JSON output: Object missing required field `status`"),
        (b"[" + OK + b',{"status":"OK"}]', "JSON result 2: Object missing required field `summary`"),
        (b'{"status":"ok","summary":""}', "JSON output: Invalid enum value 'ok' - at `$.status`"),
        (b'{"status":4,"summary":""}', "JSON output: Invalid enum value 4 - at `$.status`"),
        (b'{"status":true,"summary":""}', "JSON output: Expected `int | str`, got `bool` - at `$.status`"),
        (NO_ZONE, "JSON output: Expected `datetime` with a timezone component - at `$.timestamp`"),
        (b'{"v":2,"anything":"else"}', "JSON output: format 2 is newer than 1: update this program"),
        (b'[{"v":2,"anything":"else"}]', "JSON result 1: format 2 is newer than 1: update this program"),
        (measured(b'"label":"b"'), "JSON output: Object missing required field `value` - at `$.perfdata[1]`"),
        (
            measured(b'"label":"b","value":"1"'),
            "JSON output: Expected `float | null`, got `str` - at `$.perfdata[1].value`",
        ),
        (measured(b'"label":"","value":1'), "JSON output: Expected `str` of length >= 1 - at `$.perfdata[1].label`"),
        (
            measured(b'"label":"a\\nb","value":1'),
            "JSON output: label holds a character that cannot be printed - at `$.perfdata[1]`",
        ),
        (measured(b'"label":"b","value":1,"unit":"5"'), NO_UNIT),
        (measured(b'"label":"b","value":null,"unit":"s"'), NO_UNIT),
        (
            measured(b'"label":"b","value":1,"crit":"5:1"'),
            "JSON output: '5:1' begins above its end: for values up to 1 write ~:1 - at `$.perfdata[1]`",
        ),
        (measured(b'"label":"b","value":1e999'), "JSON output: Number out of range - at `$.perfdata[1].value`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(raw, error):
    with pytest.raises(WireError) as caught:
        parse_results(raw)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"a":' * 100_000, b'{"x":"\\ud800","status":0,"summary":""}', b'{"status":1e5}']
)
def test_hostile_json_is_a_wire_error(raw):
    with pytest.raises(WireError):
        parse_results(raw)


FIELDS = st.sampled_from(["status", "summary", "v", "perfdata", "label", "value", "metric", "x"])
json_bytes = st.recursive(
    st.sampled_from([None, True, 0, 1.5, "OK", "x", 10**30]) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=12,
).map(msgspec.json.encode)


cut_json = st.tuples(json_bytes, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]])


@given(st.binary(max_size=60) | json_bytes | cut_json)
def test_any_bytes_are_results_or_a_wire_error(raw):
    try:
        read = parse_results(raw)
    except WireError:
        return
    assert parse_results(render_results(read)) == read
