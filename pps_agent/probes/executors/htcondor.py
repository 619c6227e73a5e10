"""HTCondor: ``condor_submit``, ``condor_q``, ``condor_rm``. Source: the manual of HTCondor 23.

Output comes back by HTCondor's own file transfer, so nodes need not see the head's directories for it. A
completed job stays in the queue until it was looked at (``leave_in_queue``), so that one command tells all. It leaves
by itself when nobody looks; a job that waits when nobody is interested any more, and one that is held then, too.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pps_agent.errors import SiteError
from pps_agent.probes.executors.command import Commands
from pps_agent.probes.executors.payload import MAX_OUTPUT_BYTES
from pps_agent.probes.executors.values import Job, JobSeen, JobState, Output
from pps_agent.probes.executors.work import read_output

_ATTRIBUTES: Final = (
    "ClusterId,ProcId,JobStatus,ExitCode,ExitBySignal,ExitSignal,HoldReason,RemoveReason,RemoteHost,LastRemoteHost"
)
_ID: Final = re.compile(r"([0-9]{1,12}\.[0-9]{1,6}) - \1", re.ASCII)
_KEPT_S: Final = 3600
_STDERR_BYTES: Final = 64 * 1024
_WAITING, _RUNNING, _REMOVED, _COMPLETED, _HELD, _TRANSFERRING, _SUSPENDED = range(1, 8)


class HTCondor:
    """One access point's queue, as its commands show it to one account."""

    title = "HTCondor"
    can_exclude = True
    settle_s = 0.0

    def __init__(self, commands: Commands, proxy: Path | None = None, options: tuple[str, ...] = ()) -> None:
        self._commands, self._proxy, self._options = commands, proxy, options

    def submit(self, job: Job) -> str:
        """Submit one job. Raises: SiteError."""
        file = Path(job.directory, "job.sub")
        try:
            file.write_text(render_submit_file(job, self._proxy, self._options))
        except OSError as exc:
            raise SiteError(f"{file}: {exc.strerror}: free space there, or set nodes.work") from exc
        answer = self._commands.must(["condor_submit", "-terse", str(file)], job.directory)
        found = _ID.search(answer)
        if found is None:
            raise SiteError(f"condor_submit gave no job id but {answer[:80]!r}: try it by hand")
        return found[1]

    def look(self, jobs: Mapping[str, Job]) -> Mapping[str, JobSeen]:
        """Give how these jobs stand. Raises: SiteError when the queue cannot be read."""
        answer = self._commands.must(["condor_q", *jobs, "-json", "-attributes", _ATTRIBUTES], "/")
        try:
            records = msgspec.json.decode(answer, type=list[dict[str, Any]]) if answer.strip() else []
        except msgspec.MsgspecError as exc:
            raise SiteError(f"condor_q: not the JSON that was asked for ({exc}): try it by hand") from exc
        seen = {f"{record.get('ClusterId')}.{record.get('ProcId')}": read_job(record) for record in records}
        return {job_id: seen.get(job_id, JobSeen(JobState.GONE)) for job_id in jobs}

    def collect(self, job_id: str, job: Job) -> Output:  # noqa: ARG002 - the protocol's
        """Give what came back."""
        out = read_output(f"{job.directory}/out", MAX_OUTPUT_BYTES + 1)
        return Output(out, read_output(f"{job.directory}/err", _STDERR_BYTES))

    def discard(self, jobs: Mapping[str, Job]) -> None:
        """Remove them from the queue, the completed ones too. Raises: SiteError."""
        self._remove([f'PpsJob == "{job.name}"' for job in jobs.values()])

    def discard_leftovers(self, names: tuple[str, ...], directory: str) -> None:  # noqa: ARG002 - the protocol's
        """Remove jobs by name. Raises: SiteError."""
        self._remove([f'PpsJob == "{name}"' for name in names])

    def _remove(self, constraints: list[str]) -> None:
        done = self._commands.run(["condor_rm", "-constraint", " || ".join(constraints)], "/")
        if done.code != 0 and "find/remove all jobs matching" not in done.stderr:  # none is left: as wanted
            raise SiteError(f"condor_rm: {done.complaint}")


def render_submit_file(job: Job, proxy: Path | None, options: tuple[str, ...]) -> str:
    """Give the submit file of one job; a ``requirements`` among the options and ours must both hold."""
    wanted = [text.partition("=")[2].strip() for text in options if _key(text) == "requirements"]
    wanted += [f'TARGET.Machine =!= "{node}"' for node in sorted(job.exclude)]
    last = math.ceil(job.not_after.timestamp())
    lines = [
        "universe = vanilla",
        *(text for text in options if _key(text) != "requirements"),
        *([f"requirements = {' && '.join(f'({part})' for part in wanted)}"] if wanted else []),
        *([f"x509userproxy = {proxy}"] if proxy else []),
        f"executable = {job.payload}",
        f"initialdir = {job.directory}",
        "output = out",
        "error = err",
        "log = log",
        "should_transfer_files = YES",
        "when_to_transfer_output = ON_EXIT",
        'transfer_output_files = ""',
        f"allowed_execute_duration = {job.run_limit_s}",
        f"periodic_remove = (JobStatus == {_WAITING} || JobStatus == {_HELD}) && time() > {last}",
        f"leave_in_queue = JobStatus == {_COMPLETED} && time() < {last + job.run_limit_s + _KEPT_S}",
        "notification = never",
        f'My.PpsJob = "{job.name}"',
        f"batch_name = {job.name}",
        "queue",
    ]
    return "\n".join(lines) + "\n"


def read_job(record: Mapping[str, Any]) -> JobSeen:
    """Read one record of ``condor_q``."""
    host = record.get("RemoteHost") or record.get("LastRemoteHost") or ""
    node = str(host).rpartition("@")[2]
    match record.get("JobStatus"):
        case 1:
            return JobSeen(JobState.WAITING, "idle: condor_q -better-analyze says why", node)
        case 2 | 6 | 7:
            return JobSeen(JobState.RUNNING, node=node)
        case 3:
            return JobSeen(JobState.FAILED, f"removed: {record.get('RemoveReason', 'no reason given')}", node)
        case 4 if record.get("ExitBySignal"):
            return JobSeen(JobState.FAILED, f"ended by signal {record.get('ExitSignal')}", node)
        case 4 if record.get("ExitCode") == 0:
            return JobSeen(JobState.ENDED, node=node)
        case 4:
            return JobSeen(JobState.FAILED, f"exit code {record.get('ExitCode')}", node)
        case 5:
            return JobSeen(JobState.FAILED, f"held: {record.get('HoldReason', 'no reason given')}", node)
        case status:
            return JobSeen(JobState.FAILED, f"JobStatus {status}", node)


def _key(line: str) -> str:
    return line.partition("=")[0].strip().lower()
