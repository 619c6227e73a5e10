"""Slurm: ``sbatch``, ``scontrol show job``, ``scancel``. Source: their manual pages, Slurm 22.05.

A job writes its output into its own directory, which nodes and head must both see (``nodes.work``). The job
has ``--no-requeue``: started twice it would print two documents. ``--deadline`` ends one that still waits when
nobody is interested any more, should this agent be gone by then.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.executors.command import Commands
from pps_agent.probes.executors.payload import MAX_OUTPUT_BYTES
from pps_agent.probes.executors.values import Job, JobSeen, JobState, Output
from pps_agent.probes.executors.work import read_output

SETTLE_S: Final = 70.0
"""Network file systems show a new file after as long as a minute (acdirmax of nfs(5))."""

_RUNNING: Final = frozenset({"CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED"})
_WAITING: Final = frozenset({"PENDING", "REQUEUED", "RESV_DEL_HOLD", "RESIZING"})
_NEVER: Final = re.compile(
    r"JobHeld\w*|\w*_held|BadConstraints|PartitionTimeLimit|AccountNotAllowed|InvalidAccount|InvalidQOS"
)
"""Reasons to wait that no passing of time mends."""
_ID: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_STDERR_BYTES: Final = 64 * 1024


class Slurm:
    """One Slurm cluster, as its commands show it to one account."""

    title = "Slurm"
    can_exclude = True

    def __init__(
        self,
        commands: Commands,
        queue: str = "",
        options: tuple[str, ...] = (),
        settle_s: float = SETTLE_S,
    ) -> None:
        self.settle_s = settle_s
        self._commands, self._queue, self._options = commands, queue, options

    def submit(self, job: Job) -> str:
        """Submit one job for one node. Raises: SiteError."""
        wait_s = max(1, int((job.not_after - datetime.now(UTC)).total_seconds()))
        argv = [
            "sbatch",
            "--parsable",
            "--nodes=1",
            "--ntasks=1",
            *([f"--partition={self._queue}"] if self._queue else []),
            *self._options,
            "--no-requeue",
            f"--job-name={job.name}",
            f"--chdir={job.directory}",
            f"--output={job.directory}/out",
            f"--error={job.directory}/err",
            f"--time={math.ceil(job.run_limit_s / 60)}",
            f"--deadline=now+{wait_s + 60 * math.ceil(job.run_limit_s / 60)}",
            *([f"--exclude={','.join(sorted(job.exclude))}"] if job.exclude else []),
            job.payload,
        ]
        answer = self._commands.must(argv, job.directory)
        job_id = answer.strip().partition(";")[0]  # a cluster's name may follow
        if _ID.fullmatch(job_id) is None:
            raise SiteError(f"sbatch gave no job id but {answer[:80]!r}: try it by hand")
        return job_id

    def look(self, jobs: Mapping[str, Job]) -> Mapping[str, JobSeen]:
        """Give how these jobs stand. Raises: SiteError when the controller cannot be asked."""
        return {job_id: self._look(job_id, job) for job_id, job in jobs.items()}

    def collect(self, job_id: str, job: Job) -> Output:  # noqa: ARG002 - the protocol's
        """Give what the job wrote so far."""
        out = read_output(f"{job.directory}/out", MAX_OUTPUT_BYTES + 1)
        return Output(out, read_output(f"{job.directory}/err", _STDERR_BYTES))

    def discard(self, jobs: Mapping[str, Job]) -> None:
        """Cancel those that have not ended. Raises: SiteError."""
        self._commands.must(["scancel", "--quiet", *jobs], "/")

    def discard_leftovers(self, names: tuple[str, ...], directory: str) -> None:  # noqa: ARG002 - the protocol's
        """Cancel jobs by name. Raises: SiteError."""
        for name in names:
            self._commands.must(["scancel", "--quiet", f"--name={name}"], "/")

    def _look(self, job_id: str, job: Job) -> JobSeen:
        done = self._commands.run(["scontrol", "--oneliner", "show", "job", job_id], job.directory)
        if done.code != 0:
            if "Invalid job id" in done.stderr:
                return JobSeen(JobState.GONE)
            raise SiteError(f"scontrol: {done.complaint}")
        return read_job(done.stdout)


def read_job(text: str) -> JobSeen:
    """Read what ``scontrol --oneliner show job`` says of one job."""
    fields = dict(re.findall(r"(?:^|\s)(JobState|Reason|ExitCode|NodeList|BatchHost)=(\S*)", text))
    state, reason = fields.get("JobState", ""), fields.get("Reason", "")
    node = fields.get("BatchHost") or fields.get("NodeList", "")
    node = "" if node == "(null)" else node
    if state == "COMPLETED" and fields.get("ExitCode", "0:0") == "0:0":
        return JobSeen(JobState.ENDED, node=node)
    if state in _RUNNING:
        return JobSeen(JobState.RUNNING, node=node)
    if state in _WAITING and _NEVER.fullmatch(reason) is None:
        return JobSeen(JobState.WAITING, reason if reason != "None" else "", node)
    if state in _WAITING:
        return JobSeen(JobState.FAILED, f"it would wait for ever: {reason}; see nodes.options and nodes.queue")
    told = [f"Slurm says {state or 'nothing'}"]
    told += [f"reason {reason}"] if reason not in ("", "None") else []
    told += [f"exit code {fields['ExitCode']}"] if fields.get("ExitCode", "0:0") != "0:0" else []
    return JobSeen(JobState.FAILED, ", ".join(told), node)
