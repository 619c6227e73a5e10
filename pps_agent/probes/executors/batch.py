"""Runs a task as jobs of a batch system: submits, watches, collects within a deadline, cancels what is left.

The same for every batch system; what differs is behind ``BatchSystem``. Whatever goes wrong makes probes lost, with
the reason. A document counts only when the batch system says that its job ended well, or no longer knows the job.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes import node_run
from pps_agent.probes.executors.answers import lose_all, make_request, read_answer
from pps_agent.probes.executors.payload import parse_document, render_payload
from pps_agent.probes.executors.values import BatchSystem, Job, JobSeen, JobState, NodeAnswer, NodeTask, Output
from pps_agent.probes.executors.work import PAYLOAD, RunDirectory, Work
from pps_agent.probes.parse import clean_line, decode_output
from pps_agent.probes.quorum import merge_nodes
from pps_wire.errors import WireError

_FIRST_LOOK_S: Final = 0.25
_START_S: Final = 120
"""Beyond the payload's own limit: prologue, start of the interpreter, epilogue."""
_LATE_S: Final = 60
"""A payload may start this much later than the head gives up, by the node's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How many nodes, how long, how often: see the settings ``[nodes]``. ``owner`` is 12 hex digits of the agent."""

    owner: str
    count: int
    timeout_s: float
    poll_s: float
    python: str


class BatchExecutor:
    """An executor over a batch system.

    ``wait`` waits for so many seconds; True means to give up what is under way, in all threads.
    """

    def __init__(
        self, system: BatchSystem, plan: BatchPlan, work: Work, wait: Callable[[float], bool] | None = None
    ) -> None:
        self._system, self._plan, self._work = system, plan, work
        self._wait = wait or threading.Event().wait

    def run(self, task: NodeTask) -> tuple[NodeAnswer, ...]:
        """Run a task on ``count`` nodes. Raises: SiteError when there is no work directory to be had."""
        with self._work.open_run() as directory:
            return merge_nodes(_Batch(self._system, self._plan, task, directory, self._wait).run())

    def clear_leftovers(self) -> int:
        """End the jobs of dead processes of this agent; give how many were named. Raises: SiteError."""
        ended = 0
        for path, names in self._work.leftovers().items():
            mine = tuple(name for name in names if name.startswith(f"pps-{self._plan.owner}-"))
            if mine:
                self._system.discard_leftovers(mine, path)
            self._work.remove(path)
            ended += len(mine)
        return ended


class _Batch:
    """All jobs of one task."""

    def __init__(
        self,
        system: BatchSystem,
        plan: BatchPlan,
        task: NodeTask,
        directory: RunDirectory,
        wait: Callable[[float], bool],
    ) -> None:
        self._system, self._plan, self._task, self._directory, self._wait = system, plan, task, directory, wait
        self._deadline = time.monotonic() + plan.timeout_s
        self._submitted_at = datetime.now(UTC)
        self._jobs: dict[str, Job] = {}
        self._seen: dict[str, JobSeen] = {}
        self._settling: dict[str, float] = {}
        self._answers: list[NodeAnswer] = []
        self._blind = ""

    def run(self) -> list[NodeAnswer]:
        """Submit, watch and collect; give one answer a job."""
        every: dict[str, Job] = {}
        try:
            every |= self._submit(self._plan.count, frozenset())
            self._watch()
            if missing := self._missing_nodes():
                every |= self._submit(missing, frozenset(seen.node for seen in self._seen.values() if seen.node))
                self._watch()
            for job_id, job in self._jobs.items():
                self._lose(job_id, job, self._why_late(job_id))
        finally:
            self._discard(every)
        return self._answers

    def _missing_nodes(self) -> int:
        """Give how many nodes are wanted beyond those that answered, where two jobs met on one."""
        nodes = {answer.node for answer in self._answers if answer.results}
        met = sum(1 for answer in self._answers if answer.results) - len(nodes)
        return min(met, self._plan.count - len(nodes)) if self._system.can_exclude and not self._jobs else 0

    def _submit(self, count: int, exclude: frozenset[str]) -> dict[str, Job]:
        submitted = {}
        for _ in range(count):
            nonce = secrets.token_hex(16)
            name = f"pps-{self._plan.owner}-{nonce}"
            try:
                job = self._make_job(name, nonce, exclude)
                submitted[self._system.submit(job)] = job
            except (SiteError, WireError) as exc:
                problem = exc.problem if isinstance(exc, WireError) else str(exc)
                if not exclude:  # no further node is there to be had: those that answered are all
                    self._answers.append(lose_all(self._task, f"not submitted: {problem}", self._system.title))
                break  # the next would meet the same
        self._jobs |= submitted
        return submitted

    def _make_job(self, name: str, nonce: str, exclude: frozenset[str]) -> Job:
        not_after = datetime.now(UTC) + timedelta(seconds=max(0.0, self._deadline - time.monotonic()) + _LATE_S)
        request = make_request(self._task, nonce, not_after)
        directory = self._directory.add_job(name, render_payload(request, load_source(), self._plan.python))
        return Job(
            name=name,
            nonce=nonce,
            directory=directory,
            payload=f"{directory}/{PAYLOAD}",
            run_limit_s=int(self._task.time_limit_s) + _START_S,
            not_after=not_after,
            exclude=exclude,
        )

    def _watch(self) -> None:
        """Look at the jobs, often at first, until none is left or time is up."""
        pause_s = min(_FIRST_LOOK_S, self._plan.poll_s)
        while self._jobs:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0 or self._wait(min(pause_s, left_s)):
                return
            pause_s = min(2 * pause_s, self._plan.poll_s)
            try:
                self._seen |= self._system.look(self._jobs)
                self._blind = ""
            except SiteError as exc:
                self._blind = str(exc)
                continue
            for job_id, job in list(self._jobs.items()):
                self._step(job_id, job, self._seen.get(job_id, JobSeen(JobState.GONE)))

    def _step(self, job_id: str, job: Job, seen: JobSeen) -> None:
        if seen.state in (JobState.WAITING, JobState.RUNNING):
            return
        output = self._collect(job_id, job)
        if seen.state is JobState.FAILED:
            self._lose(job_id, job, _explain(seen.reason or "the job failed", output))
            return
        took = time.monotonic() - self._settling.setdefault(job_id, time.monotonic())
        try:
            document = parse_document(output.stdout, job.nonce)
            started_at = max(self._submitted_at, datetime.now(UTC) - timedelta(seconds=document.took_s))
            answer = read_answer(self._task, document, seen.node, self._name(job_id), started_at)
        except WireError as exc:
            if took >= self._system.settle_s:
                gone = "the batch system knows the job no more, and " if seen.state is JobState.GONE else ""
                self._lose(job_id, job, _explain(gone + exc.problem, output))
            return
        self._answers.append(answer)
        del self._jobs[job_id]

    def _collect(self, job_id: str, job: Job) -> Output:
        try:
            return self._system.collect(job_id, job)
        except SiteError as exc:
            return Output(b"", str(exc).encode())

    def _lose(self, job_id: str, job: Job, reason: str) -> None:
        node = self._seen[job_id].node if job_id in self._seen else ""
        self._answers.append(lose_all(self._task, reason, self._name(job_id), node))
        self._jobs = {other: kept for other, kept in self._jobs.items() if kept is not job}

    def _why_late(self, job_id: str) -> str:
        seen = self._seen.get(job_id)
        if self._blind:
            return f"nothing is known of it: {self._blind}"
        if seen is None or seen.state is JobState.WAITING:
            why = f" ({seen.reason})" if seen and seen.reason else ""
            return f"still waiting after {self._plan.timeout_s:g} s{why}: raise nodes.timeout_s, or see the queue"
        return f"still running after {self._plan.timeout_s:g} s: raise nodes.timeout_s, or see what the node does"

    def _name(self, job_id: str) -> str:
        return f"{self._system.title} job {job_id}"

    def _discard(self, jobs: dict[str, Job]) -> None:
        try:
            if jobs:
                self._system.discard(jobs)
        except SiteError:
            # They end by themselves; what they still write may lie until the next start, which tries again.
            self._directory.keep = True


def _explain(reason: str, output: Output) -> str:
    """Give a reason, and the last thing the job itself complained of."""
    lines = [line for line in decode_output(output.stderr).splitlines() if line.strip()]
    return f"{reason} (it said: {clean_line(lines[-1])[:256]})" if lines else reason


@cache
def load_source() -> str:
    """Give the text of the payload's code."""
    return Path(node_run.__file__).read_text("utf-8")
