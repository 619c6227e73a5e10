"""What can go wrong with Slurm, with a real one: refused, held, cancelled, killed, at a limit, controller gone."""

import os
import select
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pps_agent.probes.executors.batch import BatchExecutor, BatchPlan
from pps_agent.probes.executors.command import Account, Commands
from pps_agent.probes.executors.slurm import Slurm, read_job
from pps_agent.probes.executors.values import JobState, NodeAnswer
from pps_agent.probes.executors.work import Work
from pps_wire.report import Status
from tests.probes.executors.conftest import OWNER, PYTHON, over
from tests.probes.executors.test_faults import judge
from tests.support.nodes import make_task
from tests.support.slurm import SlurmCluster, run_slurm


@pytest.fixture
def make(slurm: SlurmCluster, tmp_path: Path) -> Callable[..., BatchExecutor]:
    """Give a function that makes an executor over the cluster."""

    def build(*, queue: str = "", options: tuple[str, ...] = (), **plan: float) -> BatchExecutor:
        system = Slurm(Commands(slurm.env), queue, options, settle_s=0.0)
        return over(system, slurm.shared / tmp_path.name, **plan)  # type: ignore[arg-type]

    return build


def run_while(executor: BatchExecutor, directory: Path, body: str, act: Callable[[], object]) -> tuple[NodeAnswer, ...]:
    """Run the probe ``ok`` and act once it has begun."""
    fifo = directory / "begun"
    task = make_task(directory, {"ok": f"echo > {fifo}; {body}"})
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(executor.run, task)
        fifo.read_bytes()
        act()
        return future.result(120)


def test_two_nodes_answer_and_each_counts_once(
    make: Callable[..., BatchExecutor], public_directory: Path, slurm: SlurmCluster
) -> None:
    task = make_task(public_directory, {"ok": 'echo fine; [ "$(cat /dev/null)" = "" ]'})
    answers = make(count=2).run(task)
    assert sorted(answer.node for answer in answers) == ["n1", "n2"]
    assert judge(answers, quorum=2)[0] is Status.OK


def test_the_jobs_of_an_agent_that_is_root_are_the_probe_users(
    slurm: SlurmCluster, tmp_path: Path, public_directory: Path
) -> None:
    nobody = Account("nobody", 65534, 65534)
    work = slurm.shared / f"nobody-{tmp_path.name}"
    plan = BatchPlan(owner=OWNER, count=1, timeout_s=60, poll_s=0.5, python=PYTHON)
    executor = BatchExecutor(Slurm(Commands(slurm.env, nobody), settle_s=0.0), plan, Work(work, nobody))
    answers = executor.run(make_task(public_directory, {"ok": 'echo "$(id -u) $(ls -ld "$HOME" | cut -c1-10)"'}))
    assert judge(answers) == (Status.OK, "65534 drwx------")
    assert list(work.iterdir()) == []


def test_a_broken_node_is_seen_beside_a_good_one(
    make: Callable[..., BatchExecutor], public_directory: Path, slurm: SlurmCluster
) -> None:
    # The probe knows its node by a file that only one of both directories has.
    body = 'case "$(cat /proc/$PPID/environ | tr "\\0" "\\n")" in *SLURMD_NODENAME=n2*) echo no library; exit 2;; esac'
    body += "; echo fine"
    answers = make(count=2).run(make_task(public_directory, {"ok": body}))
    status, summary = judge(answers)
    assert (status, summary) == (Status.CRITICAL, "no library (worst of 2 nodes, on n2)")


@pytest.mark.parametrize(
    ("queue", "options", "reason"),
    [
        ("no-such-partition", (), "not submitted: sbatch: "),
        ("", ("--constraint=no-such-feature",), "not submitted: sbatch: "),
        ("", ("--hold-me",), "not submitted: sbatch: "),
        ("short", (), "it would wait for ever: PartitionTimeLimit; see nodes.options and nodes.queue"),
    ],
)
def test_a_job_that_slurm_refuses_or_would_never_start_is_unknown(
    make: Callable[..., BatchExecutor], public_directory: Path, queue: str, options: tuple[str, ...], reason: str
) -> None:
    task = make_task(public_directory, {"ok": "echo fine"})
    status, summary = judge(make(queue=queue, options=options).run(task))
    assert status is Status.UNKNOWN
    assert reason in summary


def test_a_cancelled_job_is_unknown_and_says_so(
    make: Callable[..., BatchExecutor], public_directory: Path, slurm: SlurmCluster
) -> None:
    cancel = lambda: slurm.command("scancel", *slurm.queue())  # noqa: E731
    status, summary = judge(run_while(make(), public_directory, "sleep 100", cancel))
    assert status is Status.UNKNOWN
    assert "Slurm says CANCELLED" in summary


def test_a_job_that_is_given_up_is_cancelled(
    make: Callable[..., BatchExecutor], public_directory: Path, slurm: SlurmCluster
) -> None:
    status, summary = judge(make(timeout_s=3).run(make_task(public_directory, {"ok": "sleep 100"})))
    assert status is Status.UNKNOWN
    assert "still running after 3 s" in summary
    for _ in range(200):
        if not slurm.queue():
            break
        select.select([], [], [], 0.1)
    assert slurm.queue() == []


def test_a_controller_that_comes_back_costs_nothing_and_one_that_does_not_is_named(
    public_directory: Path,
) -> None:
    with run_slurm(("n1",)) as cluster:
        executor = over(Slurm(Commands(cluster.env), settle_s=0.0), cluster.shared / "work", timeout_s=60)

        def interrupt() -> None:
            cluster.stop_controller()
            cluster.start_controller()

        assert judge(run_while(executor, public_directory, "sleep 1; echo fine", interrupt)) == (Status.OK, "fine")
        cluster.stop_controller()
        status, summary = judge(executor.run(make_task(public_directory, {"other": "echo fine", "ok": "echo fine"})))
        assert status is Status.UNKNOWN
        assert "not submitted: sbatch: " in summary
        assert "Unable to contact slurm controller" in summary


def test_what_slurm_says_of_a_job_is_read() -> None:
    line = "JobId=7 JobName=x JobState={} Reason={} ExitCode={} NodeList={} BatchHost=n1"
    cases = {
        ("COMPLETED", "None", "0:0", "n1"): (JobState.ENDED, ""),
        ("RUNNING", "None", "0:0", "n1"): (JobState.RUNNING, ""),
        ("COMPLETING", "None", "0:0", "n1"): (JobState.RUNNING, ""),
        ("PENDING", "Priority", "0:0", "(null)"): (JobState.WAITING, "Priority"),
        ("FAILED", "NonZeroExitCode", "3:0", "n1"): (
            JobState.FAILED,
            "Slurm says FAILED, reason NonZeroExitCode, exit code 3:0",
        ),
        ("TIMEOUT", "TimeLimit", "0:15", "n1"): (
            JobState.FAILED,
            "Slurm says TIMEOUT, reason TimeLimit, exit code 0:15",
        ),
        ("NODE_FAIL", "None", "0:0", "n1"): (JobState.FAILED, "Slurm says NODE_FAIL"),
        ("DEADLINE", "DeadLine", "0:0", "(null)"): (JobState.FAILED, "Slurm says DEADLINE, reason DeadLine"),
    }
    for fields, (state, reason) in cases.items():
        seen = read_job(line.format(*fields))
        assert (seen.state, seen.reason) == (state, reason)
    assert read_job("").state is JobState.FAILED
