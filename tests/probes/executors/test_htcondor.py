"""What can go wrong with HTCondor, with a real pool: refused, held, removed, unmatched."""

import select
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pps_agent.probes.executors.batch import BatchExecutor
from pps_agent.probes.executors.command import Commands
from pps_agent.probes.executors.htcondor import HTCondor, read_job, render_submit_file
from pps_agent.probes.executors.values import Job, JobState
from pps_wire.report import Status
from tests.probes.executors.conftest import over
from tests.probes.executors.test_faults import judge
from tests.support.condor import CondorPool
from tests.support.nodes import make_task


@pytest.fixture
def make(condor: CondorPool, tmp_path: Path) -> Callable[..., BatchExecutor]:
    """Give a function that makes an executor over the pool."""

    def build(*options: str, **plan: float) -> BatchExecutor:
        system = HTCondor(Commands(condor.env), None, options)
        return over(system, condor.work / tmp_path.name, **plan)  # type: ignore[arg-type]

    return build


def wait_for_job(condor: CondorPool, status: str) -> str:
    """Wait until one job has this status and give its id."""
    for _ in range(300):
        found = condor.command("condor_q", "-constraint", f"JobStatus == {status}", "-af:j", "JobStatus").split()
        if found:
            return found[0]
        select.select([], [], [], 0.1)
    raise AssertionError(f"no job with status {status}")


def test_two_jobs_on_one_machine_count_once(make: Callable[..., BatchExecutor], public_directory: Path) -> None:
    answers = make(count=2, timeout_s=15).run(make_task(public_directory, {"ok": "echo fine"}))
    assert [answer.node for answer in answers if answer.results] == ["127-0-0-1.lab"]
    assert judge(answers)[0] is Status.OK
    assert judge(answers, quorum=2)[0] is Status.UNKNOWN


def test_what_condor_refuses_or_cannot_match_is_unknown(
    make: Callable[..., BatchExecutor], public_directory: Path, condor: CondorPool
) -> None:
    task = make_task(public_directory, {"ok": "echo fine"})
    refused, unmatched = make("request_cpus = (("), make("requirements = TARGET.NoSuchThing == 7", timeout_s=4)
    status, summary = judge(refused.run(task))
    assert status is Status.UNKNOWN
    assert "not submitted: condor_submit: " in summary
    status, summary = judge(unmatched.run(task))
    assert status is Status.UNKNOWN
    assert "still waiting after 4 s (idle: condor_q -better-analyze says why)" in summary
    assert condor.queue() == []


@pytest.mark.parametrize(
    ("command", "reason"), [("condor_hold", "held: via condor_hold"), ("condor_rm", "knows the job no more")]
)
def test_a_job_that_is_held_or_removed_is_unknown(
    make: Callable[..., BatchExecutor], public_directory: Path, condor: CondorPool, command: str, reason: str
) -> None:
    task = make_task(public_directory, {"ok": "sleep 100"})
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(make().run, task)
        condor.command(command, wait_for_job(condor, "2"))
        status, summary = judge(future.result(100))
    assert status is Status.UNKNOWN
    assert reason in summary
    assert condor.queue() == []


def test_the_submit_file_is_bounded_in_time_and_keeps_the_sites_own_requirements() -> None:
    job = Job(
        name="pps-0123456789ab-" + "0" * 32,
        nonce="0" * 32,
        directory="/j",
        payload="/j/payload.py",
        run_limit_s=300,
        not_after=datetime(2026, 11, 22, 10, 0, tzinfo=UTC),
        exclude=frozenset({"wn1"}),
    )
    text = render_submit_file(
        job, Path("/proxy"), ("request_memory = 64", 'requirements = OpSysAndVer == "AlmaLinux9"')
    )
    assert 'requirements = (OpSysAndVer == "AlmaLinux9") && (TARGET.Machine =!= "wn1")\n' in text
    for line in (
        "request_memory = 64",
        "x509userproxy = /proxy",
        "allowed_execute_duration = 300",
        "periodic_remove = (JobStatus == 1 || JobStatus == 5) && time() > 1795341600",
        "leave_in_queue = JobStatus == 4 && time() < 1795345500",
    ):
        assert f"{line}\n" in text
    assert text.endswith("\nqueue\n")


def test_what_condor_says_of_a_job_is_read() -> None:
    cases = [
        ({"JobStatus": 2, "RemoteHost": "slot1_1@wn1"}, JobState.RUNNING, ""),
        ({"JobStatus": 4, "ExitCode": 0, "ExitBySignal": False}, JobState.ENDED, ""),
        ({"JobStatus": 4, "ExitCode": 1, "ExitBySignal": False}, JobState.FAILED, "exit code 1"),
        ({"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}, JobState.FAILED, "ended by signal 9"),
        ({"JobStatus": 5, "HoldReason": "no proxy"}, JobState.FAILED, "held: no proxy"),
        ({"JobStatus": 3}, JobState.FAILED, "removed: no reason given"),
        ({}, JobState.FAILED, "JobStatus None"),
    ]
    for record, state, reason in cases:
        seen = read_job(record)
        assert (seen.state, seen.reason) == (state, reason)
    assert read_job(cases[0][0]).node == "wn1"
