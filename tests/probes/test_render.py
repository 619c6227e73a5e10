"""Results as plugin text, tuples and JSON: what is written is read back, and no text of a probe misleads its reader."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_agent.probes import json_format, wlcg
from pps_agent.probes.definition import Format
from pps_agent.probes.output import detect_format, read_output, split_status
from pps_agent.probes.parse import clean_line, parse_plugin_output, show_text
from pps_agent.probes.perfdata import parse_perfdata, scan_perfdata
from pps_agent.probes.render import (
    MIN_LIMIT_BYTES,
    SENSU_LIMIT_BYTES,
    Place,
    render_json,
    render_nagios,
    render_wlcg,
)
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName
from pps_wire.report import Status

AT = datetime(2026, 11, 22, 10, 0, 0, 250_000, tzinfo=UTC)
PLACE = Place(
    service_uri="root://se01.example.org:1094",
    host_name="se01.example.org",
    service_flavour="XRootD",
    site_name="EXAMPLE-SITE",
    gathered_at="ui01.example.org",
    vo_name="dteam",
)
OWN = ProbeResult(
    probe=ProbeName("org.pps.se.xroot"),
    release=None,
    status=Status.WARNING,
    summary="XROOT WARNING - put took 7 s",
    details="put  7 s\nlog: a | b\n\\x1b[1m",
    started_at=AT,
    duration_s=8.5,
    perfdata="put=7s;5;10 'a | b'=1",
)
CHILD = replace(OWN, probe=ProbeName("org.pps.se.xroot.get"), status=Status.OK, summary="fine", details="", perfdata="")


def test_text_is_one_line_with_the_status_and_further_lines_without_a_bar() -> None:
    assert render_nagios([OWN, CHILD]) == (
        "WARNING - XROOT: put took 7 s|put=7s;5;10 'a ¦ b'=1\n"
        "org.pps.se.xroot.get: OK - fine\n"
        "put  7 s\nlog: a ¦ b\n\\x1b[1m\n"
    )


def test_a_result_that_says_nothing_more_is_one_line() -> None:
    assert render_nagios([CHILD]) == "OK - fine\n"
    assert render_nagios([replace(CHILD, summary="")]) == "OK\n"
    assert render_nagios([replace(CHILD, perfdata="a=1")]) == "OK - fine|a=1\n"


@pytest.mark.parametrize(
    ("status", "summary", "line"),
    [
        (Status.OK, "OK - fine", "OK - fine"),
        (Status.OK, "OK: fine", "OK - fine"),
        (Status.OK, "OK", "OK"),
        (Status.OK, "[OK] fine", "OK - fine"),
        (Status.OK, "OK - OK - fine", "OK - fine"),
        (Status.OK, "DISK OK - free space: / 12%", "OK - DISK: free space: / 12%"),
        (Status.OK, "DISK OK", "OK - DISK"),
        (Status.OK, "OK so far", "OK - OK so far"),
        (Status.OK, "all is OK", "OK - all is OK"),
        (Status.CRITICAL, "OK - fine (exit 2)", "CRITICAL - OK - fine (exit 2)"),
        (Status.UNKNOWN, "timed out after 60 s", "UNKNOWN - timed out after 60 s"),
        (Status.OK, "a|b\nc\x1b\td", "OK - a¦b c\\x1b d"),
        (Status.OK, "x" * 600, "OK - " + "x" * 511 + "…"),
    ],
)
def test_the_status_comes_first_and_once(status: Status, summary: str, line: str) -> None:
    assert render_nagios([replace(CHILD, status=status, summary=summary)]) == f"{line}\n"


words = st.lists(
    st.sampled_from(
        ["OK", " - ", "CRITICAL", ":", " ", "|", "\n", "DISK", "x", "é", "\\x41", "\0", "\u202e", "]", "[", "EOT"]
    ),
    max_size=9,
).map("".join)
results = st.builds(
    replace,
    st.just(OWN),
    status=st.sampled_from(Status),
    summary=words | st.text(max_size=12),
    details=words | st.text(max_size=12),
    perfdata=st.sampled_from(["", "a=1", "a=1s;2;3;0;9 'b | c'=2%", "junk 'x", "a=1\nb=2"]),
)  # fmt: skip
several = st.lists(results, min_size=1, max_size=3)


@given(several)
def test_a_reader_of_the_text_gets_status_and_measurements_and_nothing_else(given_results: list[ProbeResult]) -> None:
    own = given_results[0]
    text = render_nagios(given_results)
    first, _, rest = text.partition("\n")
    head, bar, measured = first.partition("|")
    assert (head == own.status.name) or head.startswith(f"{own.status.name} - ")
    assert split_status(head.removeprefix(f"{own.status.name} - "))[0] is not own.status or head == own.status.name
    assert "|" not in measured + rest
    bars = str.maketrans("|", "¦")
    assert measured == scan_perfdata(own.perfdata).text.translate(bars)
    assert bool(bar) == bool(measured)
    assert text.replace("\n", "").replace("\t", "").isprintable() or not text.isascii()
    read = parse_plugin_output(text.encode())
    assert [datum.value for datum in read.perfdata] == [datum.value for datum in parse_perfdata(own.perfdata)]
    assert read.refused == ()


@given(several, st.integers(MIN_LIMIT_BYTES, 2 * MIN_LIMIT_BYTES), st.sampled_from([0, 1, 500, 5000]))
@example([replace(OWN, summary="≥" * 512, details="é" * 9000)], MIN_LIMIT_BYTES, 1)
def test_text_stays_within_its_limit_and_says_what_was_cut(
    given_results: list[ProbeResult], limit_bytes: int, size: int
) -> None:
    own = given_results[0]
    given_results[0] = replace(
        own,
        details=own.details * size,
        perfdata=" ".join(f"label-{number}=1.5s;;;0;{number}" for number in range(min(size, 256))),
    )
    text = render_nagios(given_results, limit_bytes)
    whole = render_nagios(given_results)
    assert len(text.encode()) <= limit_bytes
    assert text == whole or "left out …]" in text
    assert parse_plugin_output(text.encode()).refused == ()


def test_what_was_cut_is_counted() -> None:
    many = replace(
        OWN,
        details="\n".join(f"line {number}" for number in range(3000)),
        perfdata=" ".join(f"'a long label {number}'=1" for number in range(256)),
    )
    text = render_nagios([many], MIN_LIMIT_BYTES)
    first, note, *lines, last = text.removesuffix("\n").split("\n")
    kept = len(parse_perfdata(first.partition("|")[2]))
    assert note == f"[… {256 - kept} measurements left out …]"
    missing = len(many.details.encode()) - len("\n".join(lines).encode())
    assert last == f"[… {missing} bytes left out …]"
    assert 60 < kept < 120
    assert MIN_LIMIT_BYTES - 200 < len(text.encode()) <= MIN_LIMIT_BYTES


def test_measurements_alone_may_take_all_the_room() -> None:
    many = replace(OWN, details="", perfdata=" ".join(f"label{number}=1" for number in range(256)))
    assert render_nagios([many], MIN_LIMIT_BYTES) == render_nagios([many])


def test_a_limit_below_the_least_is_the_least() -> None:
    long = replace(OWN, details="x" * 5000)
    assert render_nagios([long], 10) == render_nagios([long], MIN_LIMIT_BYTES)
    assert SENSU_LIMIT_BYTES == 16_384


@given(several)
def test_json_is_read_back_as_the_same_results(given_results: list[ProbeResult]) -> None:
    read = json_format.parse_results(render_json(given_results).encode())
    assert [(one.metric, json_format.status_of(one)) for one in read] == [
        (one.probe, one.status) for one in given_results
    ]
    for one, result in zip(read, given_results, strict=True):
        assert json_format.read_perfdata(one) == parse_perfdata(result.perfdata)


def test_json_holds_what_a_result_says() -> None:
    assert render_json([OWN]) == (
        '{"v":1,"metric":"org.pps.se.xroot","status":"WARNING","summary":"XROOT WARNING - put took 7 s",'
        '"details":"put  7 s\\nlog: a | b\\n\\\\x1b[1m",'
        '"perfdata":[{"label":"put","value":7.0,"unit":"s","warn":"5","crit":"10"},{"label":"a | b","value":1.0}],'
        '"timestamp":"2026-11-22T10:00:08Z"}\n'
    )


@given(several)
def test_tuples_are_read_back_as_the_same_results(given_results: list[ProbeResult]) -> None:
    raw = render_wlcg(given_results, PLACE).encode()
    assert detect_format(raw) is Format.WLCG
    statements = read_output(raw, Format.AUTO)
    assert [(one.metric, one.status, one.perfdata) for one in statements] == [
        (one.probe, one.status, scan_perfdata(one.perfdata).text) for one in given_results
    ]


def test_tuples_hold_what_a_result_says() -> None:
    text = render_wlcg([OWN], PLACE)
    assert text == (
        "serviceURI: root://se01.example.org:1094\nhostName: se01.example.org\nserviceFlavour: XRootD\n"
        "siteName: EXAMPLE-SITE\nmetricStatus: WARNING\nmetricName: org.pps.se.xroot\n"
        "summaryData: XROOT WARNING - put took 7 s|put=7s;5;10 'a | b'=1\n"
        "gatheredAt: ui01.example.org\ntimestamp: 2026-11-22T10:00:08Z\nvoName: dteam\n"
        "detailsData: put  7 s\nlog: a | b\n\\x1b[1m\nEOT\n"
    )
    (read,) = wlcg.parse_records(text.encode())
    assert show_text(read.details) == OWN.details


def test_shown_bytes_survive_tuples() -> None:
    shown = replace(OWN, summary="caf\\xe9 \\x5cx41", details="\\xff\\x00\nEOT\n\\x5cxff")
    (read,) = read_output(render_wlcg([shown], PLACE).encode(), Format.WLCG)
    assert (read.summary, read.details) == (shown.summary, shown.details)


@pytest.mark.parametrize(
    ("raw", "form"),
    [
        (b"", Format.NAGIOS),
        (b"OK", Format.NAGIOS),
        (b"{", Format.JSON),
        (b' \n{"a"', Format.JSON),
        (b"[", Format.JSON),
        (b"[ \n{", Format.JSON),
        (b"[]", Format.JSON),
        (b"[OK] fine", Format.NAGIOS),
        (b"[1]", Format.NAGIOS),
        (b"serviceURI: x", Format.WLCG),
        (b"\n timestamp:\n", Format.WLCG),
        (b"encrypted:", Format.WLCG),
        (b"metricName:x", Format.NAGIOS),
        (b"serviceuri: x", Format.NAGIOS),
        (b"OK\nserviceURI: x", Format.NAGIOS),
    ],
)
def test_the_format_is_told_by_the_first_bytes(raw: bytes, form: Format) -> None:
    assert detect_format(raw) is form


@pytest.mark.parametrize(
    ("text", "status", "rest"),
    [
        ("OK", Status.OK, ""),
        ("CRITICAL: no", Status.CRITICAL, "no"),
        ("WARNING - slow", Status.WARNING, "slow"),
        ("UNKNOWN, why", Status.UNKNOWN, "why"),
        ("(CRITICAL) no", Status.CRITICAL, "no"),
        ("** WARNING ** slow", None, "** WARNING ** slow"),
        ("HTTP OK: HTTP/1.1 200 OK - 100 bytes", Status.OK, "HTTP: HTTP/1.1 200 OK - 100 bytes"),
        ("FILE_AGE OK: /x is 3 s old", Status.OK, "FILE_AGE: /x is 3 s old"),
        ("MY OWN CHECK OK: x", None, "MY OWN CHECK OK: x"),
        ("CHECK_X Y OK: x", Status.OK, "CHECK_X Y: x"),
        ("OK fine", None, "OK fine"),
        ("OKAY: fine", None, "OKAY: fine"),
        ("ok: fine", None, "ok: fine"),
        ("NO CRITICAL: errors", None, "NO CRITICAL: errors"),
        ("NOT OK: x", None, "NOT OK: x"),
        ("NORTH OK: x", Status.OK, "NORTH: x"),
        ("0 CRITICAL, 0 WARNING", None, "0 CRITICAL, 0 WARNING"),
        ("CRITICAL errors: 0", None, "CRITICAL errors: 0"),
        ("Disk OK: x", None, "Disk OK: x"),
        ("", None, ""),
    ],
)
def test_a_status_word_is_one_only_where_plugins_write_it(text: str, status: Status | None, rest: str) -> None:
    assert split_status(text) == (status, rest)


@given(words)
def test_parting_a_status_from_its_text_ends(text: str) -> None:
    line = clean_line(text)
    status, rest = split_status(line)
    assert (len(rest) < len(line)) == (status is not None)
