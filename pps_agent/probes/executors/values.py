"""What is asked of nodes, and what they answer. Values, and what every way to the nodes has in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId

GRACE_S: Final = 5.0
"""Between TERM and KILL."""
PER_PROBE_S: Final = 20.0
"""Patience beyond a probe's own time limit: grace, drain, sweep, removal of its directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTask:
    """Probes of one release to run on nodes, each with the content of its executable, within ``time_limit_s``.

    ``env`` is the composed environment, ``more`` what single probes have over it; what is a secret does not belong
    there, for it travels through the batch system. No probe runs longer than ``max_timeout_s``.
    """

    release: ReleaseId | None
    definitions: tuple[ProbeDefinition, ...]
    files: Mapping[ProbeName, bytes]
    env: Mapping[str, str]
    max_timeout_s: int
    more: Mapping[ProbeName, Mapping[str, str]] = field(default_factory=dict)

    @property
    def time_limit_s(self) -> float:
        """What all probes may take, one after the other, and what ending each may cost."""
        return sum(min(definition.timeout_s, self.max_timeout_s) + PER_PROBE_S for definition in self.definitions)


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What came of one job: where it ran, and the result of each probe that ran to its end there.

    Results of further metrics stand among them. ``lost`` says of each other probe why it did not. ``node`` is empty
    where nothing is known of it; ``job`` names the job for people.
    """

    node: str
    results: tuple[ProbeResult, ...] = ()
    lost: Mapping[ProbeName, str] = field(default_factory=dict)
    job: str = ""

    @property
    def place(self) -> str:
        """The node's name, or the job's where no node is known."""
        return self.node or self.job or "a job"


class Executor(Protocol):
    """A way to have probes run on nodes. One value may serve several threads."""

    def run(self, task: NodeTask) -> tuple[NodeAnswer, ...]:
        """Run a task on as many nodes as the settings want and give what came of each job.

        Comes back within the settings' time limit, with nothing left behind. Whatever goes wrong on the way
        makes probes lost. Each answer speaks of all probes of the task; no two are of one node. Raises:
        SiteError when this machine cannot even begin.
        """


class JobState(Enum):
    """How a job stands, as far as the batch system tells."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    """By itself, with exit code 0."""
    FAILED = "failed"
    """Otherwise: killed, cancelled, at a limit, with another exit code, held; it will not go on."""
    GONE = "gone"
    """The batch system knows it no more."""


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One look at a job. ``reason`` is what the batch system says of it, ``node`` where it runs or ran."""

    state: JobState
    reason: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One payload to submit. ``name`` is unique and carries the agent's id: a later start finds it by that.

    ``directory`` is the job's own, ``payload`` in it. ``run_limit_s`` bounds the run, ``not_after`` the wait.
    ``exclude`` are nodes, as the batch system names them, that answered already.
    """

    name: str
    nonce: str
    directory: str
    payload: str
    run_limit_s: int
    not_after: datetime
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Output:
    """What is there of a job's standard output and error; cut to size."""

    stdout: bytes = b""
    stderr: bytes = b""


class BatchSystem(Protocol):
    """What differs between batch systems. Every method raises SiteError when the site's command fails.

    Ids are what ``submit`` gave. All methods are called from one thread at a time for one directory.
    """

    title: str
    """For people, e.g. ``Slurm``."""
    can_exclude: bool
    """Whether a job can be kept from nodes."""
    settle_s: float
    """How long the output of a job that has ended may take to show here."""

    def submit(self, job: Job) -> str:
        """Hand in one job and give its id. Raises: SiteError with the batch system's own words."""

    def look(self, jobs: Mapping[str, Job]) -> Mapping[str, JobSeen]:
        """Give how these jobs stand, by id."""

    def collect(self, job_id: str, job: Job) -> Output:
        """Give the output of a job that has ended."""

    def discard(self, jobs: Mapping[str, Job]) -> None:
        """End these jobs where they still wait or run, and have the batch system forget them."""

    def discard_leftovers(self, names: tuple[str, ...], directory: str) -> None:
        """End jobs of a former process, by their names; those that ended already are no error."""
