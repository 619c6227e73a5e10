"""Executors ready to run: one for each way to the nodes, behind the real batch system."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pps_agent.probes.client import start_runner
from pps_agent.probes.executors.arc import Arc
from pps_agent.probes.executors.batch import BatchExecutor, BatchPlan
from pps_agent.probes.executors.command import Commands
from pps_agent.probes.executors.htcondor import HTCondor
from pps_agent.probes.executors.local import LocalExecutor
from pps_agent.probes.executors.slurm import Slurm
from pps_agent.probes.executors.values import BatchSystem, Executor
from pps_agent.probes.executors.work import Work
from tests.support.arex import ENDPOINT, ComputingElement, run_arex
from tests.support.condor import CondorPool, run_condor
from tests.support.fake_batch import FakeBatch
from tests.support.slurm import SlurmCluster, run_slurm

OWNER = "0123456789ab"
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Prepared:
    """An executor, its work directory, and what lists the jobs the batch system still has."""

    executor: Executor
    work: Path
    jobs: Callable[[], list[str]]


def over(
    system: BatchSystem,
    work: Path,
    *,
    count: int = 1,
    timeout_s: float = 120,
    poll_s: float = 0.5,
    stop: threading.Event | None = None,
) -> BatchExecutor:
    """Give an executor over a batch system."""
    plan = BatchPlan(owner=OWNER, count=count, timeout_s=timeout_s, poll_s=poll_s, python=PYTHON)
    return BatchExecutor(system, plan, Work(work, None), stop.wait if stop else None)


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    with run_slurm() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def condor() -> Iterator[CondorPool]:
    with run_condor() as pool:
        yield pool


@pytest.fixture(scope="session")
def arex() -> Iterator[ComputingElement]:
    with run_arex() as element:
        yield element


@contextlib.contextmanager
def prepare(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Prepared]:
    """Give the executor of a kind."""
    match kind:
        case "local":
            with start_runner() as runner:
                yield Prepared(LocalExecutor(lambda: runner), tmp_path / "work", list)
        case "fake":
            yield Prepared(over(FakeBatch(), tmp_path / "work"), tmp_path / "work", list)
        case "slurm":
            cluster = request.getfixturevalue("slurm")
            system = Slurm(Commands(cluster.env))
            yield Prepared(over(system, cluster.shared / tmp_path.name), cluster.shared / tmp_path.name, cluster.queue)
        case "htcondor":
            pool = request.getfixturevalue("condor")
            work = pool.work / tmp_path.name
            yield Prepared(over(HTCondor(Commands(pool.env)), work), work, pool.queue)
        case "arc":
            element = request.getfixturevalue("arex")
            work = element.work / tmp_path.name
            killed = element.jobs()  # by other tests: A-REX keeps such a job for its own time
            jobs = functools.partial(element.lasting_jobs, killed)
            yield Prepared(over(Arc(Commands(element.env), ENDPOINT), work), work, jobs)
