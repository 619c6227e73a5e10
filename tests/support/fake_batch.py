"""A batch system of this test alone: runs real payloads as children, and goes wrong where it is told to."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pps_agent.errors import SiteError
from pps_agent.probes.executors.values import Job, JobSeen, JobState, Output
from pps_agent.probes.executors.work import read_output

FORGED_NONCE = "f" * 32


class FakeBatch:
    """``faults`` are what goes wrong with each submission in turn, ``""`` nothing; ``nodes`` where each runs.

    refuse · hold · wait · gone · fail · silent · twice · forged · foreign-probe · cut · late-output
    """

    title = "Fake"
    settle_s = 0.0

    def __init__(self, faults: tuple[str, ...] = (), nodes: tuple[str, ...] = (), *, can_exclude: bool = False) -> None:
        self.can_exclude = can_exclude
        self.submitted: list[Job] = []
        self.discarded: set[str] = set()
        self.leftovers: list[str] = []
        self.blind = False
        self.stuck = False
        self._faults, self._nodes = faults, nodes
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._looked: dict[str, int] = {}

    def submit(self, job: Job) -> str:
        """Start a payload."""
        fault, number = self._fault(len(self.submitted)), str(len(self.submitted))
        node = self._node(number)
        if fault == "refuse" or node in job.exclude:
            raise SiteError("fake-submit: no such queue")
        self.submitted.append(job)
        if fault not in ("hold", "wait"):
            with Path(job.directory, "out").open("wb") as out, Path(job.directory, "err").open("wb") as err:
                self._running[number] = subprocess.Popen(
                    [job.payload], stdout=out, stderr=err, cwd=job.directory, env={}
                )
        return number

    def look(self, jobs: Mapping[str, Job]) -> Mapping[str, JobSeen]:
        """Give how the children do, or what the fault says."""
        if self.blind:
            raise SiteError("fake-look: the server does not answer")
        return {number: self._look(number) for number in jobs}

    def collect(self, job_id: str, job: Job) -> Output:
        """Give what the child printed, spoiled where the fault says so."""
        out, err = (read_output(f"{job.directory}/{name}", 2**25) for name in ("out", "err"))
        return Output(self._spoil(job_id, job, out), err)

    def end(self) -> None:
        """End what is left, whatever the faults."""
        for process in self._running.values():
            process.kill()
            process.wait()

    def discard(self, jobs: Mapping[str, Job]) -> None:
        """Kill the children."""
        if self.stuck:
            raise SiteError("fake-cancel: the server does not answer")
        for number in jobs:
            self.discarded.add(number)
            if process := self._running.get(number):
                process.kill()
                process.wait()

    def discard_leftovers(self, names: tuple[str, ...], directory: str) -> None:
        """Note whose jobs were to be ended."""
        if self.stuck:
            raise SiteError("fake-cancel: the server does not answer")
        self.leftovers.extend(names)

    def _fault(self, number: int) -> str:
        return self._faults[number] if number < len(self._faults) else ""

    def _node(self, number: str) -> str:
        return self._nodes[int(number)] if int(number) < len(self._nodes) else f"wn{number}"

    def _look(self, number: str) -> JobSeen:
        fault, node = self._fault(int(number)), self._node(number)
        if fault == "hold":
            return JobSeen(JobState.FAILED, "held: the credential has expired")
        if fault == "wait":
            return JobSeen(JobState.WAITING, "Priority")
        if self._running[number].poll() is None:
            return JobSeen(JobState.RUNNING, node=node)
        if fault in ("gone", "gone-silent"):
            return JobSeen(JobState.GONE)
        if fault == "fail":
            return JobSeen(JobState.FAILED, "killed by the node", node)
        return JobSeen(JobState.ENDED, node=node)

    def _spoil(self, number: str, job: Job, out: bytes) -> bytes:
        match self._fault(int(number)):
            case "silent" | "gone-silent":
                return b""
            case "twice":
                return out + out
            case "forged":
                return out.replace(job.nonce.encode(), FORGED_NONCE.encode())
            case "foreign-probe":
                return out.replace(b'"probe":"org.test.ok"', b'"probe":"org.test.other"')
            case "other-file":
                return re.sub(rb'"digest":"[0-9a-f]{64}"', b'"digest":"' + b"0" * 64 + b'"', out, count=1)
            case "doubled-run":
                return re.sub(rb'"runs":\[(\{.*?\})', rb'"runs":[\1,\1', out, count=1)
            case "partial":
                return re.sub(rb'"runs":\[\{.*?\},', b'"runs":[', out, count=1)
            case "cut":
                return out[: len(out) // 2]
            case "late-output":
                self._looked[number] = self._looked.get(number, 0) + 1
                return out if self._looked[number] > 2 else b""
            case _:
                return out
