"""Every reader of the contract: any bytes give a value or WireError, and nothing else."""

import json
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_wire import manifest, names, release, report, request
from pps_wire.errors import WireError
from tests.contract.samples import KEY, KEY_ID, RECORDS, SAMPLES, Sample, sign

KEYS = {KEY_ID: KEY.public_key()}
RELEASES = [sample for sample in SAMPLES if sample.file.startswith("release")]
OTHERS = [sample for sample in SAMPLES if sample not in RELEASES]
GOLDEN = {sample.file: sample.render(sample.value) for sample in SAMPLES}
DESCRIPTION = next(sample.value for sample in SAMPLES if sample.file == "release.json")
READERS = [
    *[(sample.file, sample.render(sample.value), sample.parse) for sample in OTHERS],
    *[(sample.file, sample.render(sample.value), lambda raw: read_release(raw)) for sample in RELEASES],
    ("record", RECORDS[0], report.parse_record),
    ("body", RECORDS[0], lambda raw: report.parse_body(report.parse_record(raw))),
]
DEEP = sys.getrecursionlimit() * 20
HOSTILE = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-0.0",
    b"9" * 400,
    b"-" + b"9" * 5000,
    b"9223372036854775808",
    b"1" + b"0" * 5000,
    b"0.1e-99999",
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"\\u0000"',
    b'"grid-clients\\n"',
    b'"0001-01-01T00:00:00+14:00"',
    b'"9999-12-31T23:59:60-14:00"',
    b'"2026-11-22T10:00:00"',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP,
    b'{"v":2}',
    b"[]",
    b"{}",
    b"null",
    b"true",
    b'""',
    b'"' + b"a" * 70_000 + b'"',
]


def read_release(raw: bytes) -> release.Release:
    """As python-tuf hands it over: decoded by the standard library, which lets more through than msgspec."""
    try:
        custom = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise WireError("release", "is no JSON") from exc
    return release.parse_release(custom)


def attempt(read, raw):
    try:
        return read(raw)
    except WireError:
        return None


@st.composite
def near_misses(draw: st.DrawFn, golden: bytes) -> bytes:
    """A golden document with a stretch of its bytes replaced, mostly a whole JSON value."""
    start, stop = sorted(draw(st.tuples(*[st.integers(0, len(golden))] * 2)))
    if draw(st.booleans()):
        colons = [index + 1 for index, byte in enumerate(golden) if byte == ord(":")]
        start = draw(st.sampled_from(colons))
        ends = [index for index in range(start + 1, len(golden)) if golden[index] in b",}\n"]
        stop = ends[0]
    filling = draw(st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=20), st.just(b"")))
    return golden[:start] + filling + golden[stop:]


@pytest.mark.parametrize(("golden", "read"), [row[1:] for row in READERS], ids=[row[0] for row in READERS])
def test_any_bytes_give_a_value_or_a_wire_error(golden, read):
    @settings(deadline=None, max_examples=60)
    @given(raw=st.one_of(st.binary(max_size=200), near_misses(golden)))
    def holds(raw):
        attempt(read, raw)

    holds()
    assert attempt(read, golden) is not None


@pytest.mark.parametrize(("golden", "read"), [row[1:] for row in READERS], ids=[row[0] for row in READERS])
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda raw: repr(raw[:24]))
def test_hostile_values_in_every_place_give_a_value_or_a_wire_error(golden, read, hostile):
    attempt(read, hostile)
    for index in [index for index, byte in enumerate(golden) if byte == ord(":")][:60]:
        stop = min(end for end in (golden.find(mark, index) for mark in (b",", b"}", b"\n")) if end > 0)
        attempt(read, golden[: index + 1] + hostile + golden[stop:])


ROUND_TRIPS = [sample for sample in OTHERS if sample.file not in ("envelope.json", "request.json")]


@pytest.mark.parametrize("sample", ROUND_TRIPS, ids=lambda sample: sample.file)
def test_whatever_is_read_can_be_written_and_read_again(sample: Sample):
    @settings(deadline=None, max_examples=60)
    @given(raw=near_misses(sample.render(sample.value)))
    def holds(raw):
        value = attempt(sample.parse, raw)
        if value is not None:
            again = sample.render(value)
            assert sample.parse(again) == value
            assert sample.render(sample.parse(again)) == again

    holds()


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(alphabet=st.characters(exclude_categories=())),
        st.sampled_from(["\ud800", 10**4000, -(10**4000), "dteam"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(alphabet=st.characters(exclude_categories=())), inner)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(field=st.sampled_from(sorted(release.render_custom(DESCRIPTION))), value=VALUES)
def test_any_decoded_value_in_a_release_gives_a_release_that_can_be_written_or_a_wire_error(field, value):
    try:
        read = release.parse_release(release.render_custom(DESCRIPTION) | {field: value})
    except WireError:
        return
    assert release.parse_release(json.loads(json.dumps(release.render_custom(read)))) == read


@settings(deadline=None)
@given(value=VALUES)
def test_any_decoded_value_for_a_whole_release_is_refused_by_a_wire_error(value):
    with pytest.raises(WireError):
        release.parse_release(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"references": ["\ud800"]},
        {"changes": {"variables_old": {"\udc80": "1"}}},
        {"changes": {"variables_new": {"A": "\udfff"}}},
        {"config_steps": [{"id": "a", "text": "\ud800"}]},
        {"requires": {"arch": "\ud800", "glibc": "2.36"}},
    ],
)
def test_text_that_could_not_be_written_again_is_refused_in_a_release(fields):
    with pytest.raises(WireError):
        release.parse_release(release.render_custom(DESCRIPTION) | fields)


@pytest.mark.parametrize(
    "moment", ["2026-11-22T10:00:00", "2026-11-22", "yesterday", 1_795_000_000, "2026-11-22T10:00:00 CET", None]
)
def test_a_time_without_a_zone_is_refused_wherever_it_stands(moment):
    cases = [
        (report.parse_record, RECORDS[0], "at"),
        (report.parse_batch, GOLDEN["batch.json"], "sent_at"),
        (report.parse_ack, GOLDEN["ack.json"], "server_time"),
        (release.parse_withdrawal, GOLDEN["withdrawal.json"], "at"),
        (open_signed, GOLDEN["envelope.json"], "deadline"),
        (open_signed, GOLDEN["envelope.json"], "not_before"),
    ]
    for read, golden, field in cases:
        with pytest.raises(WireError):
            read(json.dumps(json.loads(golden) | {field: moment}).encode())


def open_signed(payload: bytes) -> request.Request:
    return request.open_request(json.dumps(envelope_of(payload)).encode(), KEYS)


def envelope_of(payload: bytes) -> object:
    return msgspec.to_builtins(sign(payload))


@settings(deadline=None, max_examples=150)
@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=80))
def test_any_text_gives_a_name_or_a_wire_error(text):
    parsers = [
        names.parse_component,
        names.parse_version,
        names.parse_platform,
        names.parse_release_id,
        names.parse_vo,
        names.parse_site,
        names.parse_subcluster,
        names.parse_probe_name,
        lambda text: names.parse_tag(text, names.Vo("dteam")),
        lambda text: names.parse_tag("VO-dteam-" + text, names.Vo("dteam")),
        lambda text: names.expand_tag(text, names.Vo("dteam")),
    ]
    for parse in parsers:
        try:
            parsed = parse(text)
        except WireError:
            continue
        assert "\n" not in parsed
        assert "/" not in parsed
        assert not parsed.startswith(".")
        assert parsed.isascii()


@pytest.mark.parametrize("parse", [names.parse_component, names.parse_version, names.parse_vo, names.parse_site])
@pytest.mark.parametrize("text", ["", ".", "..", "a\n", "a/b", "a\0", " a", "a ", "é", "a" * 10_000_000, "\ud800"])
def test_names_that_could_mean_a_path_or_a_second_line_are_refused_shortly(parse, text):
    with pytest.raises(WireError) as caught:
        parse(text)
    assert len(str(caught.value)) < 700


@settings(deadline=None)
@given(lines=st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(GOLDEN["manifest.jsonl"].split(b"\n")))))
def test_any_lines_give_a_manifest_or_a_wire_error(lines):
    attempt(manifest.parse_manifest, lines)
