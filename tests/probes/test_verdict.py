"""Judging what runs did: by property and by table.

``cases/NAME.in`` is what was printed, ``cases/NAME.out`` how the run ended and the verdict on it.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.definition import Format, ProbeDefinition
from pps_agent.probes.parse import MAX_DETAILS_CHARS, MAX_SUMMARY_CHARS
from pps_agent.probes.perfdata import scan_perfdata
from pps_agent.probes.protocol import STDOUT_HEAD_BYTES, RunResponse
from pps_agent.probes.verdict import MAX_CHILDREN, Verdict, judge, signal_name, worst
from pps_agent.probes.wlcg import WlcgRecord, render_records
from pps_wire.names import ProbeName
from pps_wire.report import Cause, ProbeBody, Status, parse_body, parse_record, render_record

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CASES = Path(__file__).parent / "cases"
PROBE = ProbeName("org.test.it")
CHILD = ProbeName("org.test.it.get")


def define(**fields: Any) -> ProbeDefinition:
    return ProbeDefinition(name=PROBE, run=Path("/run"), **fields)


def respond(stdout: bytes, **fields: Any) -> RunResponse:
    stderr = fields.pop("stderr", "").encode()
    return RunResponse(
        **{
            "run": "a",
            "exit": 0,
            "stdout": stdout,
            "stdout_bytes": len(stdout),
            "stderr": stderr,
            "stderr_bytes": len(stderr),
            **fields,
        }
    )


def described(verdict: Verdict) -> dict[str, object]:
    """Give a verdict as the tables write it: fields that are empty are left out."""
    rows = [
        {"metric": child.metric, "status": child.status.name, "summary": child.summary}
        | {name: getattr(child, name) for name in ("details", "perfdata") if getattr(child, name)}
        for child in verdict.children
    ]
    fields = {"status": verdict.status.name, "cause": verdict.cause.value, "summary": verdict.summary}
    rest = {"details": verdict.details, "perfdata": verdict.perfdata, "children": rows}
    return fields | {name: value for name, value in rest.items() if value}


@pytest.mark.parametrize("path", sorted(CASES.glob("*.in")), ids=lambda path: path.stem)
def test_a_run_is_judged_as_its_case_says(path: Path) -> None:
    case = json.loads(path.with_suffix(".out").read_text("utf-8"))
    expected = case.pop("verdict")
    definition = define(
        metrics=tuple(case.pop("metrics", ())),
        aliases=tuple(case.pop("aliases", ())),
        format=Format(case.pop("format", "auto")),
    )
    assert expected == described(judge(respond(path.read_bytes(), **case), definition, 60))


def test_every_case_has_both_its_files() -> None:
    assert sorted(path.stem for path in CASES.glob("*.in")) == sorted(path.stem for path in CASES.glob("*.out"))


def said(metric: str, status: Status, summary: str = "x", details: str = "") -> WlcgRecord:
    return WlcgRecord(
        service_uri="",
        host_name="",
        service_flavour="",
        site_name="",
        gathered_at="",
        status=status,
        metric=metric,
        summary=summary,
        timestamp=NOW,
        details=details,
    )


def told(*records: WlcgRecord) -> bytes:
    return render_records(records).encode()


names = st.sampled_from([PROBE, "it", CHILD, "org.test.it.put", "org.other.one", "no name"])
statements = st.builds(said, names, st.sampled_from(Status), st.text(max_size=9), st.text(max_size=9))
tuples = st.lists(statements, min_size=1, max_size=5)
outputs = st.one_of(
    st.binary(max_size=80),
    tuples.map(lambda records: told(*records)),
    st.sampled_from([path.read_bytes() for path in sorted(CASES.glob("*.in"))]),
)
responses = st.builds(
    RunResponse,
    run=st.just("a"),
    exit=st.none() | st.integers(0, 5),
    signal=st.sampled_from([None, None, 9, 11, 64]),
    timed_out=st.sampled_from([False, False, True]),
    failure=st.sampled_from(["", "", "could not be started: x"]),
    stdout=outputs,
    stdout_bytes=st.just(0) | st.integers(0, 2000),
    stderr=st.binary(max_size=40),
    stderr_bytes=st.integers(0, 200),
    leftovers_killed=st.integers(0, 2),
)
definitions = st.builds(
    define,
    metrics=st.sampled_from([(), (CHILD,), (CHILD, ProbeName("org.test.it.put"))]),
    aliases=st.sampled_from([(), ("it",)]),
    format=st.sampled_from(Format),
)


@given(response=responses, definition=definitions)
def test_only_a_whole_run_with_words_and_exit_0_is_ok(response: RunResponse, definition: ProbeDefinition) -> None:
    verdict = judge(response, definition, 60)
    if verdict.status is Status.OK:
        assert (response.exit, response.signal, response.timed_out, response.failure) == (0, None, False, "")
        assert response.stdout.strip()
    assert verdict.summary


@given(response=responses, definition=definitions)
def test_what_is_not_the_probe_s_own_word_is_unknown(response: RunResponse, definition: ProbeDefinition) -> None:
    verdict = judge(response, definition, 60)
    if verdict.cause is not Cause.VERDICT:
        assert {verdict.status, *(child.status for child in verdict.children)} == {Status.UNKNOWN}
    cut_short = response.timed_out or response.signal is not None or response.failure or response.exit not in range(4)
    assert (verdict.cause in (Cause.TIMEOUT, Cause.KILLED) or verdict.cause is Cause.FAULT) >= bool(cut_short)


@given(
    records=tuples,
    exit_code=st.integers(0, 3),
    definition=definitions.filter(lambda definition: definition.format in (Format.AUTO, Format.WLCG)),
)
def test_no_verdict_is_better_than_the_exit_code_or_anything_said(
    records: list[WlcgRecord], exit_code: int, definition: ProbeDefinition
) -> None:
    verdict = judge(respond(told(*records), exit=exit_code), definition, 60)
    if verdict.cause is Cause.VERDICT:
        assert verdict.status is worst((Status(exit_code), *(record.status for record in records)))
    else:
        assert verdict.status is Status.UNKNOWN


@given(response=responses, definition=definitions)
def test_nothing_is_said_of_a_metric_that_is_not_declared(response: RunResponse, definition: ProbeDefinition) -> None:
    metrics = [child.metric for child in judge(response, definition, 60).children]
    assert len(set(metrics)) == len(metrics)
    assert set(metrics) <= set(definition.metrics)


@given(response=responses, definition=definitions)
def test_every_verdict_fits_the_report(response: RunResponse, definition: ProbeDefinition) -> None:
    verdict = judge(response, definition, 60)
    for part in (verdict, *verdict.children):
        body = ProbeBody(
            probe=PROBE,
            status=part.status,
            summary=part.summary,
            details=part.details,
            perfdata=part.perfdata,
            duration_s=0.0,
        )
        assert parse_body(parse_record(render_record(1, NOW, body))) == body
        assert scan_perfdata(part.perfdata).text == part.perfdata
        assert len(part.summary) <= MAX_SUMMARY_CHARS
        assert part.summary.isprintable() or "\n" not in part.summary


def test_the_largest_output_fits_the_report() -> None:
    response = RunResponse(run="a", exit=0, stdout=b"\xff" * 65_536, stdout_bytes=10**9, stderr=b"\0" * 32_768)
    verdict = judge(response, define(), 60)
    assert (len(verdict.details) <= MAX_DETAILS_CHARS, len(verdict.summary) <= MAX_SUMMARY_CHARS) == (True, True)


@pytest.mark.parametrize("form", ["auto", "wlcg", "json"])
@pytest.mark.parametrize("whole", [told(said(PROBE, Status.OK)), b'{"status":"OK","summary":"x"}'])
def test_structured_output_with_a_gap_is_unknown_and_says_so(form: str, whole: bytes) -> None:
    response = respond(whole, stdout_bytes=len(whole) + 7)
    verdict = judge(response, define(format=Format(form)), 60)
    assert (verdict.status, verdict.cause) == (Status.UNKNOWN, Cause.FAULT)
    assert f"7 of {len(whole) + 7} bytes were left out" in verdict.summary


def test_text_with_a_gap_counts_and_measurements_beside_the_gap_do_not() -> None:
    head = b"OK - fine|a=1 b=2 c=3" + b"3" * STDOUT_HEAD_BYTES
    kept = head[:STDOUT_HEAD_BYTES] + b"44 d=5\nthe end"
    verdict = judge(respond(kept, stdout_bytes=10**6), define(), 60)
    assert (verdict.status, verdict.summary, verdict.perfdata) == (Status.OK, "OK - fine", "a=1 b=2")
    assert verdict.details.startswith(f"(output cut: {10**6 - len(kept)} of 1000000 bytes left out)\n[…]\n44 d=5\n")


def test_a_measurement_that_ends_before_the_gap_counts() -> None:
    head = b"OK|a=1\n" + b"x" * STDOUT_HEAD_BYTES
    verdict = judge(respond(head[:STDOUT_HEAD_BYTES] + b"yz|b=2", stdout_bytes=10**6), define(), 60)
    assert (verdict.perfdata, verdict.details[-2:]) == ("a=1", "yz")


def test_a_run_reports_no_more_further_metrics_than_allowed() -> None:
    metrics = tuple(ProbeName(f"org.test.it.m{number:03}") for number in range(MAX_CHILDREN + 3))
    records = [said(PROBE, Status.OK), *(said(metric, Status.OK) for metric in reversed(metrics))]
    verdict = judge(respond(told(*records)), define(metrics=metrics), 60)
    assert tuple(child.metric for child in verdict.children) == metrics[:MAX_CHILDREN]
    assert verdict.details == "note: 3 metrics dropped: a run may report 64"
    whole = judge(respond(told(*records[4:], records[0])), define(metrics=metrics), 60)
    assert (len(whole.children), whole.details) == (MAX_CHILDREN, "")


def test_a_name_of_a_stranger_cannot_flood_or_forge_the_note() -> None:
    records = [said(PROBE, Status.OK), said("a\nnote: b", Status.OK), said("x" * 500, Status.OK)]
    verdict = judge(respond(told(*records)), define(), 60)
    start = "note: dropped, since its probe.toml does not declare them under metrics: a note: b, "
    assert verdict.details == start + "x" * 128


def test_refused_measurements_are_named_and_no_flood_of_them() -> None:
    flood = b" ".join(b"bad%d" % number for number in range(11))
    verdict = judge(respond(b"OK|" + flood), define(), 60)
    named = ", ".join(f"bad{number}" for number in range(8))
    assert verdict.details == f"note: not performance data, or said before: {named} and 3 more"
    verdict = judge(respond(b"OK|" + b"x" * 80 + b" " + b"y" * 81), define(), 60)
    assert verdict.details == f"note: not performance data, or said before: {'x' * 80}, {'y' * 79}…"


def test_a_long_summary_leaves_room_for_the_remark() -> None:
    verdict = judge(respond(b"OK - " + b"x" * 600, exit=1), define(), 60)
    assert verdict.summary.endswith("x… (exit 1 but it says OK: the worse counts)")
    assert len(verdict.summary) == MAX_SUMMARY_CHARS


TOO_LONG = "see what it waits for, or raise timeout_s in its probe.toml"
CANNOT_EXECUTE = (
    "exit 126: the probe or a command in it cannot be executed: check its permissions and its first line (#!)"
)
NOT_FOUND = "exit 127: a command was not found: check the PATH of the probe's environment and the probe's requirements"


@pytest.mark.parametrize(
    ("fields", "cause", "summary"),
    [
        ({"timed_out": True, "signal": 15}, Cause.TIMEOUT, f"timed out after 2.5 s: {TOO_LONG}"),
        ({"timed_out": True, "failure": "stuck"}, Cause.TIMEOUT, f"timed out after 2.5 s, and stuck: {TOO_LONG}"),
        ({"failure": "no such file"}, Cause.FAULT, "no such file: check the probe's file and its first line (#!)"),
        (
            {"killed_by": "directory", "signal": 9},
            Cause.KILLED,
            "killed: its directory had grown too large (limits.directory_bytes)",
        ),
        (
            {"killed_by": "cgroup memory", "signal": 9},
            Cause.KILLED,
            "killed: its processes together had used up their memory (limits.memory_bytes)",
        ),
        ({"signal": 24}, Cause.KILLED, "ended by SIGXCPU: it used up its CPU time (limits.cpu_s)"),
        ({"signal": 25}, Cause.KILLED, "ended by SIGXFSZ: it wrote a file larger than allowed (limits.file_bytes)"),
        ({"signal": 15}, Cause.KILLED, "ended by SIGTERM: run it by hand to see why"),
        ({"exit": None}, Cause.FAULT, "exit None: not one of 0 to 3: the probe itself is at fault"),
        ({"exit": 4}, Cause.FAULT, "exit 4: not one of 0 to 3: the probe itself is at fault"),
        ({"exit": 126}, Cause.FAULT, CANNOT_EXECUTE),
        ({"exit": 127}, Cause.FAULT, NOT_FOUND),
        ({"exit": 0}, Cause.FAULT, "exit 0 but nothing on stdout"),
    ],
)
def test_a_run_without_a_verdict_says_why(fields: dict[str, Any], cause: Cause, summary: str) -> None:
    verdict = judge(respond(b"", **{"exit": None, **fields}), define(), 2.5)
    assert (verdict.status, verdict.cause, verdict.summary) == (Status.UNKNOWN, cause, summary)


def test_silence_with_a_verdict_s_exit_code_is_that_verdict() -> None:
    silent = judge(respond(b"", exit=2), define(), 60)
    assert (silent.status, silent.cause, silent.summary) == (Status.CRITICAL, Cause.VERDICT, "exit 2 and no output")


@pytest.mark.parametrize("form", Format)
def test_a_probe_that_only_complains_is_judged_by_its_exit_code_in_any_format(form: Format) -> None:
    verdict = judge(respond(b" \n", exit=2, stderr="no such server\n"), define(format=form), 60)
    assert (verdict.status, verdict.cause, verdict.summary) == (Status.CRITICAL, Cause.VERDICT, "no such server")


def test_what_happened_to_the_run_stands_in_its_details() -> None:
    response = respond(b"OK\nmore\n", stderr="warned\n", stderr_bytes=107, leftovers_killed=2)
    assert judge(response, define(), 60).details == (
        "more\nstderr:\nwarned\n\n[… 100 bytes left out …]\n2 process(es) left behind by the probe were killed"
    )


def test_a_signal_without_a_name_has_its_number() -> None:
    assert (signal_name(9), signal_name(99)) == ("SIGKILL", "signal 99")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [("0", 0), ("01", 1), ("13", 3), ("32", 2), ("2310", 2), ("30", 3)],
)
def test_the_order_is_ok_warning_unknown_critical(statuses: str, expected: int) -> None:
    assert worst(Status(int(digit)) for digit in statuses) == expected
