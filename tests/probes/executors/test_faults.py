"""Everything that can go wrong between head and node makes a probe lost, with a reason, and never OK."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pps_agent.errors import SiteError
from pps_agent.probes.executors.values import NodeAnswer, NodeTask
from pps_agent.probes.executors.work import read_output
from pps_agent.probes.quorum import combine_one
from pps_wire.report import Cause, Status
from tests.probes.executors.conftest import OWNER, over
from tests.support.fake_batch import FakeBatch
from tests.support.nodes import OK, make_task, name_of

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
FINE = {"ok": "echo fine"}
TWO = {"first": "echo one", "ok": "echo fine"}


def judge(answers: tuple[NodeAnswer, ...], quorum: int = 1) -> tuple[Status, str]:
    """Give what the quorum makes of the probe ``ok``."""
    result = combine_one((OK, None), None, answers, quorum, NOW)
    return result.status, result.summary


@pytest.fixture
def task(public_directory: Path) -> NodeTask:
    return make_task(public_directory, FINE)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse", "not submitted: fake-submit: no such queue"),
        ("hold", "held: the credential has expired"),
        ("fail", "killed by the node"),
        ("silent", "the job printed no document"),
        ("gone-silent", "the batch system knows the job no more, and the job printed no document"),
        ("twice", "the job printed more than one document"),
        ("forged", "the document answers another request"),
        ("foreign-probe", "it speaks of org.test.other, which was not sent or not in this form"),
        ("other-file", "it speaks of org.test.ok, which was not sent or not in this form"),
        ("doubled-run", "it speaks of org.test.ok twice"),
        ("cut", "the document breaks off: the job was cut short or the disk is full"),
    ],
)
def test_a_fault_is_unknown_with_its_reason(task: NodeTask, tmp_path: Path, fault: str, reason: str) -> None:
    answers = over(FakeBatch((fault,)), tmp_path / "work", poll_s=0.05).run(task)
    status, summary = judge(answers)
    assert status is Status.UNKNOWN
    assert reason in summary
    assert list((tmp_path / "work").iterdir()) == []


def test_a_probe_that_the_document_leaves_out_is_lost_and_the_others_count(
    public_directory: Path, tmp_path: Path
) -> None:
    answers = over(FakeBatch(("partial",)), tmp_path, poll_s=0.05).run(make_task(public_directory, TWO))
    assert judge(answers) == (Status.OK, "fine")
    lost = combine_one((name_of("first"), None), None, answers, 1, NOW)
    assert (lost.status, lost.cause) == (Status.UNKNOWN, Cause.LOST)
    assert lost.summary == "0 of the 1 node(s) wanted answered: wn0: the document does not speak of it"


def test_a_record_that_aged_out_does_not_lose_a_document_that_is_there(task: NodeTask, tmp_path: Path) -> None:
    assert judge(over(FakeBatch(("gone",)), tmp_path, poll_s=0.05).run(task)) == (Status.OK, "fine")


def test_output_that_shows_late_is_waited_for(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch(("late-output",))
    system.settle_s = 60
    assert judge(over(system, tmp_path, poll_s=0.05).run(task)) == (Status.OK, "fine")


def test_a_job_that_never_starts_is_given_up_and_cancelled(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch(("wait",))
    status, summary = judge(over(system, tmp_path, timeout_s=0.3, poll_s=0.05).run(task))
    assert status is Status.UNKNOWN
    assert "still waiting after 0.3 s (Priority): raise nodes.timeout_s, or see the queue" in summary
    assert system.discarded == {"0"}


def test_a_job_that_does_not_end_is_given_up_and_cancelled(public_directory: Path, tmp_path: Path) -> None:
    system = FakeBatch()
    task = make_task(public_directory, {"ok": "sleep 60"})
    status, summary = judge(over(system, tmp_path, timeout_s=1, poll_s=0.05).run(task))
    assert status is Status.UNKNOWN
    assert "wn0: still running after 1 s" in summary
    assert system.discarded == {"0"}


def test_a_server_that_does_not_answer_is_named(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch()
    system.blind = system.stuck = True
    status, summary = judge(over(system, tmp_path, timeout_s=0.3, poll_s=0.05).run(task))
    assert status is Status.UNKNOWN
    assert "nothing is known of it: fake-look: the server does not answer" in summary
    system.end()
    assert len(list(tmp_path.iterdir())) == 1  # its job may still write there: the next start clears it


def test_a_work_directory_that_cannot_be_made_is_said(task: NodeTask, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match=r"Not a directory: let the agent write there, or set nodes\.work"):
        over(FakeBatch(), tmp_path / "file" / "work").run(task)


def test_the_worst_of_two_nodes_counts_and_one_that_is_lost_does_not_hide_it(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch(("", "fail"))
    answers = over(system, tmp_path, count=2, poll_s=0.05).run(task)
    assert judge(answers) == (Status.OK, "fine (on wn0)")
    assert judge(answers, quorum=2)[0] is Status.UNKNOWN
    assert {answer.job for answer in answers} == {"Fake job 0", "Fake job 1"}


def test_jobs_that_met_on_one_node_count_once_and_another_node_is_asked(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch(nodes=("wn1", "wn1", "wn2"), can_exclude=True)
    answers = over(system, tmp_path, count=2, poll_s=0.05).run(task)
    assert [answer.node for answer in answers] == ["wn1", "wn2"]
    assert [sorted(job.exclude) for job in system.submitted] == [[], [], ["wn1"]]


def test_a_farm_of_one_node_gives_one_answer_however_many_are_wanted(task: NodeTask, tmp_path: Path) -> None:
    system = FakeBatch(nodes=("wn1", "wn1", "wn1"), can_exclude=True)
    answers = over(system, tmp_path, count=2, poll_s=0.05).run(task)
    assert [answer.node for answer in answers] == ["wn1"]
    assert judge(answers) == (Status.OK, "fine")
    assert judge(answers, quorum=2)[0] is Status.UNKNOWN


def test_waiting_ends_at_once_when_the_agent_is_told_to_stop(public_directory: Path, tmp_path: Path) -> None:
    system = FakeBatch(("wait",))
    stop = threading.Event()
    executor = over(system, tmp_path, timeout_s=3600, poll_s=3600, stop=stop)
    found: list[tuple[NodeAnswer, ...]] = []
    thread = threading.Thread(target=lambda: found.append(executor.run(make_task(public_directory, FINE))))
    thread.start()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert judge(found[0])[0] is Status.UNKNOWN
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from pps_agent.probes.executors.values import JobSeen, JobState
from tests.probes.executors.conftest import over
from tests.support.fake_batch import FakeBatch
from tests.support.nodes import make_task

class Telling(FakeBatch):
    def look(self, jobs):
        print(*(job.name for job in jobs.values()), flush=True)
        return super().look(jobs)

over(Telling(("wait",)), Path(sys.argv[1]), poll_s=0.05).run(make_task(Path(sys.argv[2]), {"ok": "echo fine"}))
"""


def test_the_next_start_ends_the_jobs_of_an_agent_that_was_killed_and_no_others(
    public_directory: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(public_directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        system = FakeBatch()
        executor = over(system, tmp_path)
        assert executor.clear_leftovers() == 0  # it is alive: another round of this agent
        process.kill()
    assert name.startswith(f"pps-{OWNER}-")
    system.stuck = True
    with pytest.raises(SiteError, match="fake-cancel"):
        executor.clear_leftovers()
    system.stuck = False
    assert executor.clear_leftovers() == 1
    assert system.leftovers == [name]
    assert list(tmp_path.iterdir()) == []


def test_output_of_a_job_is_read_without_following_links_or_waiting_for_pipes(tmp_path: Path) -> None:
    secret, link, fifo = tmp_path / "secret", tmp_path / "link", tmp_path / "fifo"
    secret.write_text("key")
    link.symlink_to(secret)
    os.mkfifo(fifo)
    assert [read_output(str(path), 2) for path in (secret, link, fifo, tmp_path, tmp_path / "none")] == [
        b"ke",
        b"",
        b"",
        b"",
        b"",
    ]
