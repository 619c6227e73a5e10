"""Reading what plugins print, and judging what runs did: pure, so by property and by table."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.parse import (
    MAX_DETAILS_CHARS,
    MAX_PERFDATA,
    MAX_SUMMARY_CHARS,
    PerfDatum,
    PluginOutput,
    cut_text,
    decode_output,
    parse_perfdata,
    parse_plugin_output,
    render_perfdata,
)
from pps_agent.probes.protocol import RunResponse
from pps_agent.probes.verdict import judge
from pps_wire.report import ProbeBody, Status, parse_body, parse_record, render_record

NOW = datetime(2026, 3, 1, tzinfo=UTC)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_label = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_bound = st.sampled_from(["", "10", "@5:10", "~:3", "1.5:", "-2"])
_data = st.builds(
    PerfDatum,
    label=_label,
    value=st.none() | _finite,
    unit=st.sampled_from(["", "s", "ms", "%", "B", "KiB", "c"]),
    warn=_bound,
    crit=_bound,
    minimum=st.none() | _finite,
    maximum=st.none() | _finite,
)


@given(data=st.lists(_data, max_size=5).map(tuple))
def test_performance_data_is_read_back_as_it_was(data: tuple[PerfDatum, ...]) -> None:
    assert parse_perfdata(render_perfdata(data)) == data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time=0.2s", (PerfDatum("time", 0.2, "s"),)),
        ("/=2643MB;5948;5958;0;5968", (PerfDatum("/", 2643, "MB", "5948", "5958", 0, 5968),)),
        ("'free space'=12% x=U", (PerfDatum("free space", 12, "%"), PerfDatum("x", None))),
        ("'it''s | it'=1;@1:2;~:3", (PerfDatum("it's | it", 1, "", "@1:2", "~:3"),)),
        ("a=1;;;0;", (PerfDatum("a", 1, minimum=0),)),
        ("a=1,5 b=2", (PerfDatum("b", 2),)),
        ("junk =1 a= b=x c=3", (PerfDatum("c", 3),)),
        ("a=1e400 b=1e3", (PerfDatum("a", None), PerfDatum("b", 1000))),
        ("", ()),
    ],
)
def test_performance_data_follows_the_grammar_or_is_left_out(text: str, expected: tuple[PerfDatum, ...]) -> None:
    assert parse_perfdata(text) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", PluginOutput("", "")),
        (b"OK\n", PluginOutput("OK", "")),
        (b"\n\nOK - late\n", PluginOutput("OK - late", "")),
        (b"OK|a=1\n", PluginOutput("OK", "", (PerfDatum("a", 1),), "a=1")),
        (
            b"DISK OK | /=1MB\nlong 1\nlong 2 | /boot=2MB\n/home=3MB\n",
            PluginOutput(
                "DISK OK",
                "long 1\nlong 2 ",
                (PerfDatum("/", 1, "MB"), PerfDatum("/boot", 2, "MB"), PerfDatum("/home", 3, "MB")),
                "/=1MB\n/boot=2MB\n/home=3MB",
            ),
        ),
        (b"a\tb \x1b[1m c\r\nnext", PluginOutput("a b \\x1b[1m c", "next")),
        ("≥ 1 \u202e gone\n".encode(), PluginOutput("≥ 1 \\u202e gone", "")),
    ],
)
def test_output_falls_into_its_parts(raw: bytes, expected: PluginOutput) -> None:
    assert parse_plugin_output(raw) == expected


@given(raw=st.binary(max_size=400) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_output_gives_text_that_can_be_stored(raw: bytes) -> None:
    output = parse_plugin_output(raw)
    for text in (output.summary, output.details, output.perftext):
        assert text == json.loads(json.dumps(text).encode("ascii"))
        text.encode("utf-8")
        assert "\0" not in text
    assert "\n" not in output.summary
    assert len(output.summary) <= MAX_SUMMARY_CHARS
    assert len(output.perfdata) <= MAX_PERFDATA


@given(raw=st.binary(max_size=100))
def test_every_byte_that_is_not_text_stays_visible(raw: bytes) -> None:
    text = decode_output(raw)
    assert text.isprintable() or {c for c in text if not c.isprintable()} <= set("\n\t\xa0") | {
        c for c in text if ord(c) > 127
    }
    if 0xFF in raw:
        assert "\\xff" in text


def test_a_first_line_too_long_is_cut_and_kept_whole_in_the_details() -> None:
    output = parse_plugin_output(b"x" * 2000 + b"\nrest")
    assert len(output.summary) == MAX_SUMMARY_CHARS
    assert output.details == "x" * 2000 + "\nrest"


@given(text=st.text(max_size=300), limit=st.integers(64, 300))
def test_cut_text_keeps_its_limit_and_both_ends(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert len(cut) <= limit
    assert cut[:5] == text[:5]
    assert cut == text or "left out" in cut


@pytest.mark.timeout(30)
def test_a_hostile_line_of_performance_data_takes_no_quadratic_time() -> None:
    assert parse_perfdata("'" * 65_536) == ()
    assert parse_perfdata("a" * 65_536) == ()
    assert parse_perfdata("=" * 65_536) == ()


_response = st.builds(
    RunResponse,
    run=st.just("a"),
    exit=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    timed_out=st.booleans(),
    failure=st.sampled_from(["", "could not be started: x"]),
    stdout=st.binary(max_size=80),
    stdout_bytes=st.integers(0, 200),
    stderr=st.binary(max_size=80),
    stderr_bytes=st.integers(0, 200),
    leftovers_killed=st.integers(0, 3),
)


@given(response=_response)
def test_only_a_whole_run_with_words_and_exit_0_is_ok(response: RunResponse) -> None:
    verdict = judge(response, 60)
    if verdict.status is Status.OK:
        assert (response.exit, response.signal, response.timed_out, response.failure) == (0, None, False, "")
        assert response.stdout.strip()
    assert verdict.summary


@given(response=_response)
def test_every_verdict_fits_the_report(response: RunResponse) -> None:
    verdict = judge(response, 60)
    body = ProbeBody(
        probe="org.test.it",  # type: ignore[arg-type]
        status=verdict.status,
        summary=verdict.summary,
        details=verdict.details,
        duration_s=0.0,
    )
    assert parse_body(parse_record(render_record(1, NOW, body))) == body


def test_the_largest_output_fits_the_report() -> None:
    response = RunResponse(run="a", exit=0, stdout=b"\xff" * 65_536, stdout_bytes=10**9, stderr=b"\0" * 32_768)
    verdict = judge(response, 60)
    assert (len(verdict.details) <= MAX_DETAILS_CHARS, len(verdict.summary) <= 512) == (True, True)
