"""WLCG probe tuples: what is written is read back as it was, and nothing that is in a value is read as a record."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_agent.probes.wlcg import KNOWN, MAX_KEYS, REQUIRED, WlcgRecord, parse_records, render_records
from pps_wire.errors import WireError
from pps_wire.report import Status

AT = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SAMPLE = """\
serviceURI: ce01.example.org:443
hostName: ce01.example.org
serviceFlavour: ARC-CE
siteName: EXAMPLE-SITE
metricStatus: WARNING
metricName: org.pps.ce.arc
summaryData: 2 of 12 slots free
gatheredAt: ui01.example.org
timestamp: 2026-11-22T10:00:00Z
role: site
voName: dteam
siteTier: silver
detailsData: queue long: 2
queue short: 0

  indented
EOT
"""
RECORD = WlcgRecord(
    service_uri="ce01.example.org:443",
    host_name="ce01.example.org",
    service_flavour="ARC-CE",
    site_name="EXAMPLE-SITE",
    status=Status.WARNING,
    metric="org.pps.ce.arc",
    summary="2 of 12 slots free",
    gathered_at="ui01.example.org",
    timestamp=AT,
    role="site",
    vo_name="dteam",
    extra=(("siteTier", "silver"),),
    details="queue long: 2\nqueue short: 0\n\n  indented",
)


def record(**values: object) -> WlcgRecord:
    fields = {name: getattr(RECORD, name) for name in RECORD.__slots__}
    return WlcgRecord(**{**fields, **values})


PIECES = [
    "EOT",
    "\n",
    "\r",
    " ",
    "\t",
    "\\",
    "x",
    "41",
    "metricStatus: OK",
    "summaryData:",
    ":",
    "a",
    "é",
    "\x0b",
    "\x85",
    "\u2028",
    "\0",
    "\udcff",
    "\udcc3",
    "eot",
    "\u017fiteName:",
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=12)
keys = st.sampled_from(["siteTier", "x", "X", "a.b_c-9", "siteNames", "k" * 64])
TEXTS = sorted(set(RECORD.__slots__) - {"status", "timestamp", "encrypted", "extra"})
records = st.builds(
    record,
    summary=texts,
    vo_name=texts,
    details=texts,
    status=st.sampled_from(Status),
    timestamp=st.datetimes(timezones=st.just(UTC)),
    encrypted=st.booleans(),
    extra=st.lists(st.tuples(keys, texts), max_size=2, unique_by=lambda item: item[0]).map(tuple),
)
several = st.lists(records, min_size=1, max_size=2)


def as_read(value: WlcgRecord) -> WlcgRecord:
    """Give a record as its bytes are: a surrogate stands for a byte, and bytes that are UTF-8 together are text."""

    def same(text: str) -> str:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")

    fields = {name: getattr(value, name) for name in value.__slots__}
    fields = {name: same(field) if isinstance(field, str) else field for name, field in fields.items()}
    return WlcgRecord(**{**fields, "extra": tuple((key, same(text)) for key, text in value.extra)})


@given(several)
@example([record(**{name: f" {name}\n" for name in TEXTS}, encrypted=True)])
@example([record(details="a\nEOT\nserviceURI: forged\n")])
@example([record(details="\u017fiteName: forged\neot\nEOTX")])
@example([record(summary="fine\nmetricStatus: OK", site_name=" x ", metric="\\x41")])
@example([record(details="\x0bEOT\n\u2003EOT\n EOT\nsummaryData : x", extra=(("a", ""),))])
def test_what_is_written_is_read_back_as_it_was(written):
    assert parse_records(render_records(written).encode("utf-8")) == tuple(map(as_read, written))


def careless(text: str) -> list[dict[str, str]]:
    """Read as carelessly as some do: any line end, blanks and case do not matter, details are lines like others."""
    found: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        if line.strip().upper().startswith("EOT"):
            found.append({})
            continue
        key, colon, value = line.partition(":")
        known = {name.lower() for name in KNOWN}
        if colon and key.strip().lower() in known:
            assert key.strip().lower() not in found[-1], "said twice"
            found[-1][key.strip().lower()] = value.strip()
    assert found.pop() == {}
    return found


def by_the_letter(text: str) -> list[dict[str, str]]:
    """Read as the specification says: details to a line EOT."""
    blocks = re.split(r"^EOT$\n", text, flags=re.MULTILINE)
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        head, _, details = block.partition("detailsData: ")
        found.append(dict(line.split(": ", 1) for line in head.splitlines()) | {"detailsData": details})
    return found


@given(several)
@example([record(details="a\nEOT\nserviceURI: forged\n")])
@example([record(details="EOT\x85EOT\u2028metricStatus: OK\r\nMETRICSTATUS : OK")])
@example([record(summary="x\nEOT\nmetricName: forged")])
def test_another_reader_sees_no_record_and_no_key_that_is_none(written):
    text = render_records(written)
    assert [seen["metricstatus"] for seen in careless(text)] == [one.status.name for one in written]
    assert [seen["metricStatus"] for seen in by_the_letter(text)] == [one.status.name for one in written]
    assert not set(text) & set("\0\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\t") - {"\t"}


def test_the_sample_is_read_and_written():
    assert parse_records(SAMPLE.encode()) == (RECORD,)
    assert render_records([RECORD]) == SAMPLE


OPTIONAL = ["nagiosName", "role", "voName", "voFqan", "serviceType", "encrypted"]


def test_all_keys_are_written_in_the_order_of_the_specification():
    text = render_records([record(**{name: name for name in TEXTS}, encrypted=True)])
    keys_written = re.findall(r"^(\w+)", text, re.MULTILINE)
    assert keys_written == [*REQUIRED, *OPTIONAL, "siteTier", "detailsData", "EOT"]
    assert "encrypted: yes\n" in text
    assert "role: role\n" in text


def test_what_is_empty_and_may_be_absent_is_not_written():
    fields = RECORD.__slots__[: len(REQUIRED)]
    text = render_records([WlcgRecord(**{name: getattr(RECORD, name) for name in fields})])
    assert re.findall(r"^(\w+)", text, re.MULTILINE) == [*REQUIRED, "EOT"]


def test_line_ends_of_windows_blank_lines_between_records_and_any_order_of_keys_are_read():
    lines = SAMPLE.replace("\n\n", "\n").splitlines()
    mixed = [*reversed(lines[:12]), *lines[12:]]
    read = parse_records(("\r\n".join(["", "  ", *mixed, "", *lines, ""])).encode())
    assert [one.details for one in read] == ["queue long: 2\nqueue short: 0\n  indented"] * 2
    assert read[0] == read[1]


def test_a_value_may_be_empty_or_follow_more_blanks():
    raw = SAMPLE.replace("siteName: EXAMPLE-SITE", "siteName:").replace("role: site", "role:  \t site \t")
    (read,) = parse_records(raw.encode())
    assert (read.site_name, read.role) == ("", "site")


def test_blanks_of_details_are_kept_and_an_end_without_newline_will_do():
    raw = SAMPLE.replace("detailsData: queue", "detailsData:   queue").removesuffix("\n")
    assert parse_records(raw.encode())[0].details.startswith("  queue")


def test_bytes_that_are_not_utf_8_are_kept():
    (read,) = parse_records(SAMPLE.encode().replace(b"silver", b"\xff\\xfe"))
    assert read.extra == (("siteTier", "\udcff\udcfe"),)
    assert "siteTier: \\xff\\xfe\n" in render_records([read])


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7))])
def test_times_are_written_in_utc(zone):
    text = render_records([record(timestamp=AT.astimezone(zone) + timedelta(microseconds=5))])
    assert "timestamp: 2026-11-22T10:00:00.000005Z\n" in text


def without(key: str) -> str:
    return "".join(line for line in SAMPLE.splitlines(keepends=True) if not line.startswith(f"{key}:"))


@pytest.mark.parametrize(
    ("raw", "where", "problem"),
    [
        ("", "WLCG output", "holds no record"),
        ("\n \n", "WLCG output", "holds no record"),
        ("EOT\n", "WLCG record 1", f"lacks {', '.join(REQUIRED)}"),
        (SAMPLE + "EOT\n", "WLCG record 2", "lacks"),
        (SAMPLE + without("siteName").replace("timestamp", "time"), "WLCG record 2", "lacks siteName, timestamp"),
        (SAMPLE.removesuffix("EOT\n"), "WLCG record 1", "has no line EOT at its end"),
        (SAMPLE + "serviceURI: x\n", "WLCG record 2", "has no line EOT at its end"),
        (SAMPLE.replace("EOT\n", " EOT\n"), "WLCG record 1", "has no line EOT at its end"),
        (SAMPLE.replace("role: site", "siteName: other"), "WLCG record 1", "line 10 says siteName again"),
        (SAMPLE.replace("role: site", "siteTier: gold"), "WLCG record 1", "line 12 says siteTier again"),
        (SAMPLE.replace("role: site", "role=site"), "WLCG record 1", "line 10 is not 'key: value': 'role=site'"),
        (SAMPLE.replace("role: site", "role:site"), "WLCG record 1", "line 10 is not"),
        (SAMPLE.replace("role: site", " role: site"), "WLCG record 1", "line 10 is not"),
        (SAMPLE.replace("role: site", ""), "WLCG record 1", "line 10 is not"),
        (SAMPLE.replace("role: site", "EOT: site"), "WLCG record 1", "line 10 is not"),
        (SAMPLE.replace("role: site", "SiteName: x"), "WLCG record 1", "line 10 says SiteName: write siteName"),
        (SAMPLE.replace("role: site", "a" * 65 + ": x"), "WLCG record 1", "line 10 is not"),
        (SAMPLE.replace("WARNING", "OKAY"), "WLCG record 1", "'OKAY' is none of OK, WARNING, CRITICAL, UNKNOWN"),
        (SAMPLE.replace("WARNING", "ok"), "WLCG record 1", "metricStatus 'ok' is none"),
        (SAMPLE.replace("WARNING", "1"), "WLCG record 1", "metricStatus '1' is none"),
        (SAMPLE.replace("role: site", "encrypted: maybe"), "WLCG record 1", "encrypted is neither yes nor no"),
        (SAMPLE.replace("T10", " 10"), "WLCG record 1", "timestamp '2026-11-22 10:00:00Z' is not a UTC time"),
        (SAMPLE.replace("00Z", "00+00:00"), "WLCG record 1", "timestamp"),
        (SAMPLE.replace("00Z", "00"), "WLCG record 1", "timestamp"),
        (SAMPLE.replace("11-22", "13-22"), "WLCG record 1", "timestamp"),
        (SAMPLE.replace("00Z", "00.1234567Z"), "WLCG record 1", "timestamp"),
    ],
)
def test_what_is_no_record_is_refused_with_its_number(raw, where, problem):
    with pytest.raises(WireError) as caught:
        parse_records(raw.encode())
    assert caught.value.where == where
    assert problem in caught.value.problem


@pytest.mark.parametrize(("said", "expected"), [("yes", True), ("no", False)])
def test_encrypted_is_yes_or_no(said, expected):
    (read,) = parse_records(SAMPLE.replace("role: site", f"encrypted: {said}").encode())
    assert read.encrypted is expected


def test_as_many_keys_as_allowed_are_read_and_no_more():
    def with_keys(count: int) -> bytes:
        return SAMPLE.replace("role: site\n", "".join(f"k{number}: x\n" for number in range(count))).encode()

    assert len(parse_records(with_keys(MAX_KEYS - 11))[0].extra) == MAX_KEYS - 10
    with pytest.raises(WireError, match=f"has {MAX_KEYS + 1} keys; at most {MAX_KEYS} are allowed"):
        parse_records(with_keys(MAX_KEYS - 10))


lines = st.sampled_from([*SAMPLE.encode().splitlines(), b"", b"EOT", b"\xff: x", b"a:", b"encrypted: yes"])


@given(st.binary(max_size=200) | st.lists(lines, max_size=30).map(b"\n".join))
def test_any_bytes_are_records_or_a_wire_error(raw):
    try:
        read = parse_records(raw)
    except WireError:
        return
    assert parse_records(render_records(read).encode("utf-8")) == read


NO_KEYS = ["", "sitename", "a b", "a:", "metricStatus", "detailsData", "EOT", "eotx", "1a", "a\n", "é", "a" * 65]


@pytest.mark.parametrize("key", NO_KEYS)
def test_a_further_key_that_is_none_is_not_written(key):
    with pytest.raises(WireError, match="cannot be a further key"):
        render_records([record(extra=((key, "x"),))])


def test_a_further_key_is_written_once():
    with pytest.raises(WireError, match="'a' cannot be a further key"):
        render_records([record(extra=(("a", "x"), ("a", "y")))])


def test_a_time_without_zone_is_not_written():
    with pytest.raises(WireError, match="time has no time zone"):
        render_records([record(timestamp=AT.replace(tzinfo=None))])
