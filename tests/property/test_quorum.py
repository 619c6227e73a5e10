"""The quorum: what may be believed of a release after some nodes answered and some did not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.executors.values import NodeAnswer
from pps_agent.probes.quorum import combine, combine_one, merge_nodes
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName
from pps_wire.report import Cause, Status
from tests.support.nodes import RELEASE

PROBE, OTHER = ProbeName("org.test.a"), ProbeName("org.test.b")
DEFINITIONS = tuple(ProbeDefinition(name=name, run=Path("/run")) for name in (PROBE, OTHER))
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def make_result(status: Status, probe: ProbeName = PROBE, age_s: int = 0, summary: str = "said so") -> ProbeResult:
    return ProbeResult(probe, RELEASE, status, summary, "", NOW - timedelta(seconds=age_s), 1.0)


@st.composite
def answers(draw):
    found = []
    for number in range(draw(st.integers(0, 5))):
        node = draw(st.sampled_from(["wn1", "wn2", "wn3", "wn4", ""]))
        results, lost = [], {}
        for probe in (PROBE, OTHER):
            status = draw(st.sampled_from([*Status, None])) if node else None
            if status is None:
                lost[probe] = draw(st.text(max_size=600))
            else:
                results.append(make_result(status, probe, draw(st.integers(0, 99)), draw(st.text(max_size=600))))
        found.append(NodeAnswer(node, tuple(results), lost, f"job {number}"))
    return tuple(found)


@settings(deadline=None)
@given(answers(), st.integers(1, 4))
def test_ok_means_that_enough_nodes_answered_and_every_answer_was_ok(given_answers, quorum):
    merged = merge_nodes(given_answers)
    result = combine_one((PROBE, None), RELEASE, merged, quorum, NOW)
    said = [r.status for answer in merged for r in answer.results if r.probe == PROBE]
    assert (result.status is Status.OK) == (len(said) >= quorum and set(said) == {Status.OK})


@settings(deadline=None)
@given(answers(), st.integers(1, 4))
def test_critical_means_that_enough_nodes_answered_and_one_of_them_said_so(given_answers, quorum):
    merged = merge_nodes(given_answers)
    result = combine_one((PROBE, None), RELEASE, merged, quorum, NOW)
    said = [r.status for answer in merged for r in answer.results if r.probe == PROBE]
    assert (result.status is Status.CRITICAL) == (len(said) >= quorum and Status.CRITICAL in said)


@settings(deadline=None)
@given(answers(), st.integers(1, 4))
def test_too_few_answers_are_unknown_and_say_who_is_missing(given_answers, quorum):
    result = combine_one((PROBE, None), RELEASE, given_answers, quorum, NOW)
    lost = [answer for answer in given_answers if answer.lost.get(PROBE)]
    if len(given_answers) - len([answer for answer in given_answers if PROBE in answer.lost]) < quorum:
        assert (result.status, result.cause) == (Status.UNKNOWN, Cause.LOST)
        assert all(answer.place in result.details for answer in lost)


@settings(deadline=None)
@given(answers(), st.integers(1, 4))
def test_every_word_fits_its_place_and_every_node_is_kept(given_answers, quorum):
    seen = combine(DEFINITIONS, RELEASE, given_answers, quorum, NOW)
    assert [result.probe for result in seen.own] == [PROBE, OTHER]
    assert {result.host for result in (*seen.own, *seen.further)} == {""}
    for result in seen.own:
        assert len(result.summary) <= 512
        assert len(result.details) <= 65_536
    assert [(r.host, r.probe) for r in seen.by_node] == [(a.node, r.probe) for a in given_answers for r in a.results]


@settings(deadline=None)
@given(answers())
def test_a_node_counts_once_with_the_worse_of_what_it_said(given_answers):
    merged = merge_nodes(given_answers)
    nodes = [answer.node for answer in merged if answer.node]
    assert len(nodes) == len(set(nodes))
    badness = [Status.OK, Status.WARNING, Status.UNKNOWN, Status.CRITICAL]
    for answer in merged:
        assert {r.probe for r in answer.results} | answer.lost.keys() == {PROBE, OTHER}
        assert not {r.probe for r in answer.results} & answer.lost.keys()
        for result in answer.results:
            said = [
                r.status for a in given_answers if a.node == answer.node for r in a.results if r.probe == result.probe
            ]
            assert result.status is max(said, key=badness.index)


@settings(deadline=None)
@given(answers())
def test_a_result_is_as_old_as_the_oldest_answer_it_rests_on(given_answers):
    result = combine_one((PROBE, None), RELEASE, given_answers, 1, NOW)
    said = [r.started_at for answer in given_answers for r in answer.results if r.probe == PROBE]
    assert result.started_at == min(said, default=NOW)


def test_one_answer_of_one_node_is_given_as_it_is():
    answer = NodeAnswer("wn1", (make_result(Status.WARNING, summary="slow"),), {}, "job 1")
    assert combine_one((PROBE, None), RELEASE, (answer,), 1, NOW) == answer.results[0]


def test_a_metric_that_a_probe_reports_beside_its_own_has_a_quorum_too():
    put = replace(make_result(Status.OK, OTHER), parent=PROBE)
    bad = replace(make_result(Status.CRITICAL, OTHER), parent=PROBE)
    answers = (NodeAnswer("wn1", (make_result(Status.OK), put)), NodeAnswer("wn2", (make_result(Status.OK), bad)))
    seen = combine(DEFINITIONS[:1], RELEASE, answers, 2, NOW)
    assert [(r.probe, r.parent, r.status) for r in (*seen.own, *seen.further)] == [
        (PROBE, None, Status.OK),
        (OTHER, PROBE, Status.CRITICAL),
    ]
    (metric,) = combine(DEFINITIONS[:1], RELEASE, answers[:1], 2, NOW).further
    assert (metric.status, metric.cause, metric.parent) == (Status.UNKNOWN, Cause.LOST, PROBE)


def test_several_answers_name_the_node_of_the_worst():
    nodes = (
        NodeAnswer("wn1", (make_result(Status.OK, summary="fine"),)),
        NodeAnswer("wn2", (make_result(Status.CRITICAL, summary="libxml2.so.2 is missing"),)),
        NodeAnswer("", (), {PROBE: "still waiting after 60 s"}, "Slurm job 7"),
    )
    result = combine_one((PROBE, None), RELEASE, nodes, 1, NOW)
    assert (result.status, result.host) == (Status.CRITICAL, "")
    assert result.summary == "libxml2.so.2 is missing (worst of 2 nodes, on wn2)"
    assert result.details == (
        "wn1: OK: fine\nwn2: CRITICAL: libxml2.so.2 is missing\nSlurm job 7: still waiting after 60 s"
    )
    result = combine_one((PROBE, None), RELEASE, nodes, 3, NOW)
    assert result.status is Status.UNKNOWN
    assert result.summary == "2 of the 3 node(s) wanted answered: Slurm job 7: still waiting after 60 s"
