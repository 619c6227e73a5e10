"""ARC: ``arcsub``, ``arcstat``, ``arcget``, ``arckill``, ``arcclean``. Source: their manual pages, ARC 6.17.

Each job has a job list of its own (``jobs.db`` in its directory), so that no other user of the account is
touched. ARC tells a job's state up to a minute late. It does not say on which node a job runs: the document does.
A job that waits when nobody is interested any more starts and does nothing (the payload's ``not_after``).
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
from pps_agent.probes.executors.work import PAYLOAD, read_output

_INTERFACE: Final = "org.nordugrid.arcrest"
_ID: Final = re.compile(r"jobid:\s*(\S{1,512})")
_LIST: Final = "jobs.db"
_UNLISTED: Final = "not found in job list"
_STDERR_BYTES: Final = 64 * 1024
_ENDED: Final = frozenset({"Finished", "Failed", "Killed", "Deleted"})
_WAITING: Final = frozenset({"Accepted", "Preparing", "Submitting", "Queuing", "Undefined"})


class Arc:
    """One computing element, as the account's proxy may use it."""

    title = "ARC"
    can_exclude = False
    settle_s = 0.0

    def __init__(self, commands: Commands, endpoint: str, queue: str = "", options: tuple[str, ...] = ()) -> None:
        self._commands, self._endpoint, self._queue, self._options = commands, endpoint, queue, options

    def submit(self, job: Job) -> str:
        """Submit one job. Raises: SiteError."""
        file = Path(job.directory, "job.xrsl")
        try:
            file.write_text(render_description(job, self._queue, self._options))
        except OSError as exc:
            raise SiteError(f"{file}: {exc.strerror}: free space there, or set nodes.work") from exc
        where = ["-C", self._endpoint, "-Q", _INTERFACE, "-T", _INTERFACE]
        answer = self._commands.must(["arcsub", *where, "-j", _LIST, "-f", file.name], job.directory)
        found = _ID.search(answer)
        if found is None:
            raise SiteError(f"arcsub gave no job id but {answer[:80]!r}: try it by hand with -d VERBOSE")
        return found[1]

    def look(self, jobs: Mapping[str, Job]) -> Mapping[str, JobSeen]:
        """Give how these jobs stand. Raises: SiteError when the computing element cannot be asked."""
        return {job_id: self._look(job_id, job) for job_id, job in jobs.items()}

    def collect(self, job_id: str, job: Job) -> Output:
        """Fetch what the job wrote; the computing element keeps it until it is discarded. Raises: SiteError."""
        got = f"{job.directory}/got"
        done = self._commands.run(["arcget", "-j", _LIST, "--keep", "-f", "-J", "-D", got, job_id], job.directory)
        out = read_output(f"{got}/{job.name}/out", MAX_OUTPUT_BYTES + 1)
        if not out and done.code != 0:
            raise SiteError(f"arcget: {done.complaint}")
        return Output(out, read_output(f"{got}/{job.name}/err", _STDERR_BYTES))

    def discard(self, jobs: Mapping[str, Job]) -> None:
        """Have them ended and forgotten. Raises: SiteError."""
        for job_id, job in jobs.items():
            self._discard(job_id, job.directory)

    def discard_leftovers(self, names: tuple[str, ...], directory: str) -> None:
        """Have jobs ended and forgotten by the lists in their directories. Raises: SiteError."""
        for name in names:
            if Path(directory, name, _LIST).exists():
                self._discard("-a", f"{directory}/{name}")

    def _discard(self, which: str, directory: str) -> None:
        # Kill passes over a job that has ended, clean over one that has not: that one goes in its own time.
        self._commands.run(["arckill", "-j", _LIST, which], directory)
        done = self._commands.run(["arcclean", "-j", _LIST, "--force", which], directory)
        if done.code != 0 and _UNLISTED not in done.stdout + done.stderr:
            raise SiteError(f"arcclean: {done.complaint}")

    def _look(self, job_id: str, job: Job) -> JobSeen:
        done = self._commands.run(["arcstat", "-j", _LIST, "-J", job_id], job.directory)
        if _UNLISTED in done.stdout + done.stderr:
            return JobSeen(JobState.GONE)
        records = parse_listing(done.stdout)
        if not records:
            raise SiteError(f"arcstat: {done.complaint}")
        return read_job(records[0])


class _Listing(msgspec.Struct):
    """What ``arcstat -J`` prints."""

    jobs: list[dict[str, Any]] = []


def render_description(job: Job, queue: str, options: tuple[str, ...]) -> str:
    """Give the job description in xRSL."""
    parts = [
        f'(executable="{PAYLOAD}")',
        f'(inputFiles=("{PAYLOAD}" "{job.payload}"))',
        '(stdout="out")',
        '(stderr="err")',
        f'(jobName="{job.name}")',
        f'(wallTime="{math.ceil(job.run_limit_s / 60)} minutes")',
        *([f'(queue="{queue}")'] if queue else []),
        *options,
    ]
    return "&" + "\n ".join(parts) + "\n"


def parse_listing(text: str) -> list[dict[str, Any]]:
    """Read what ``arcstat -J`` prints; nothing where it is no list of jobs. ARC 6.17 forgets the outer braces."""
    start = text.find('"jobs"')
    if start < 0:
        return []
    body = text[start:].rstrip().removesuffix("}").rstrip() if text[:start].strip() else text[start:]
    try:
        return msgspec.json.decode("{" + body + "}", type=_Listing).jobs
    except msgspec.MsgspecError:
        return []


def read_job(record: Mapping[str, Any]) -> JobSeen:
    """Read one job of ``arcstat -J``."""
    state, code = str(record.get("state", "Undefined")), record.get("exitCode")
    if state == "Finished" and code in (0, None):
        return JobSeen(JobState.ENDED)
    if state in _ENDED or state == "Hold":
        errors = record.get("jobError") or record.get("error") or ""
        told = [f"ARC says {state}"]
        told += [f"exit code {code}"] if code is not None else []
        told += [f"{errors}"] if errors else []
        return JobSeen(JobState.FAILED, ", ".join(told))
    return JobSeen(JobState.WAITING if state in _WAITING else JobState.RUNNING, f"ARC says {state}")
