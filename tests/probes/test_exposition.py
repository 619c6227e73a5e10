"""Results as Prometheus reads them, judged by Prometheus' own ``promtool`` and by a reader of the format."""

import math
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.exposition import AgentFigures, Newest, render_metrics
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Status
from tests.support.services import need

AT = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)
RELEASE = ReleaseId("grid-clients-6.1.0-x86_64-glibc2.36")
FIGURES = AgentFigures(version="0.1.0", site="EXAMPLE-SITE", group="default", outbox_waiting=3, misfires=1)

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ESCAPED = re.compile(r"\\(.)")


def result(**changed: object) -> ProbeResult:
    fields = {
        "probe": ProbeName("org.pps.sys.disk"),
        "release": None,
        "status": Status.OK,
        "summary": "12 GB free",
        "details": "",
        "started_at": AT,
        "duration_s": 0.25,
        "perfdata": "'/ free'=12.5GB;2;1;0 inodes=90%",
    }
    return ProbeResult(**(fields | changed))  # type: ignore[arg-type]


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read an exposition as its format says; every line counts and no sample comes twice."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for line in text.removesuffix("\n").split("\n") if text else []:
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ \S.*", line)
            continue
        matched = _SAMPLE.fullmatch(line)
        assert matched is not None, line
        labels = matched["labels"] or ""
        found = {
            name: _ESCAPED.sub(lambda m: {"n": "\n"}.get(m[1], m[1]), value) for name, value in _LABEL.findall(labels)
        }
        assert "".join(found_text[0] for found_text in _LABEL.finditer(labels)) == labels
        key = (matched["name"], frozenset(found.items()))
        assert key not in samples
        samples[key] = float(matched["value"].replace("Inf", "inf"))
    return samples


def sample(text: str, name: str, **labels: str) -> float | None:
    return read(text).get((name, frozenset(labels.items())))


def test_each_figure_of_a_result_is_a_sample_under_its_metric():
    text = render_metrics([Newest(result(status=Status.CRITICAL, hard=False, attempt=2), AT + timedelta(seconds=660))])
    metric = "org.pps.sys.disk"
    assert {
        ("pps_probe_status", frozenset({("metric", metric)})): 2,
        ("pps_probe_hard", frozenset({("metric", metric)})): 0,
        ("pps_probe_attempt", frozenset({("metric", metric)})): 2,
        ("pps_probe_duration_seconds", frozenset({("metric", metric)})): 0.25,
        ("pps_probe_last_run_timestamp_seconds", frozenset({("metric", metric)})): AT.timestamp(),
        ("pps_probe_fresh_until_timestamp_seconds", frozenset({("metric", metric)})): AT.timestamp() + 660,
        ("pps_probe_value", frozenset({("metric", metric), ("label", "/ free"), ("unit", "GB")})): 12.5,
        ("pps_probe_value", frozenset({("metric", metric), ("label", "inodes"), ("unit", "%")})): 90,
    } == read(text)


def test_a_preview_and_a_node_have_samples_of_their_own():
    text = render_metrics([Newest(result()), Newest(result(release=RELEASE, status=Status.WARNING, host="wn01"))])
    assert sample(text, "pps_probe_status", metric="org.pps.sys.disk") == 0
    assert sample(text, "pps_probe_status", metric="org.pps.sys.disk", release=RELEASE, host="wn01") == 1


def test_a_result_that_nothing_renews_has_no_end():
    assert "fresh_until" not in render_metrics([Newest(result())])


def test_of_two_results_of_one_metric_the_first_counts():
    text = render_metrics([Newest(result(status=Status.CRITICAL)), Newest(result())])
    assert sample(text, "pps_probe_status", metric="org.pps.sys.disk") == 2


def test_the_agents_figures_stand_beside_the_results():
    text = render_metrics([], FIGURES)
    assert sample(text, "pps_agent_info", version="0.1.0", site="EXAMPLE-SITE", group="default") == 1
    assert (sample(text, "pps_agent_outbox_records"), sample(text, "pps_agent_missed_slots_total")) == (3, 1)
    assert sample(text, "pps_agent_last_round_timestamp_seconds") is None


RESULTS = st.builds(
    result,
    summary=st.text(),
    perfdata=st.text()
    | st.from_regex(r"('[^']{1,9}'|[a-z]{1,5})=[0-9]{1,4}(\.[0-9])?(s|%|GB)?( x=[0-9])?", fullmatch=True),
    host=st.text(max_size=20),
    status=st.sampled_from(Status),
    duration_s=st.floats(0, 1e9),
)


@given(st.lists(RESULTS, max_size=5))
def test_whatever_results_hold_each_line_is_one_sample_of_the_format(results):
    samples = read(render_metrics([Newest(item) for item in results], FIGURES))
    statuses = [key for key in samples if key[0] == "pps_probe_status"]
    assert {item.host.encode("utf-8", "replace").decode() for item in results} == {
        dict(labels).get("host", "") for _, labels in statuses
    }
    assert all(math.isfinite(value) for (name, _), value in samples.items() if name != "pps_probe_value")


@pytest.mark.parametrize("label", ["back\\slash", "new\nline", 'quo"te', "ü", "a\\nb", "\\", '"', "tab\there"])
def test_text_in_a_label_comes_back_as_it_was(label):
    text = render_metrics([Newest(result(host=label))])
    assert sample(text, "pps_probe_status", metric="org.pps.sys.disk", host=label) == 0


def test_promtool_reads_it_without_a_complaint():
    need("" if shutil.which("promtool") else "promtool is missing: install Debian's package prometheus")
    odd = result(host='a"b\\c\nd', perfdata="'it''s \\ \"x\"'=1e3s;;;; load=0.5")
    text = render_metrics([Newest(result(), AT), Newest(odd), Newest(result(release=RELEASE))], FIGURES)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_gives_nothing():
    assert render_metrics([]) == ""
