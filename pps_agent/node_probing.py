"""Probes where jobs run: tasks from definitions, handed in together, their answers combined by the quorum.

Waiting for a batch system happens in threads of its own: several releases' tasks go side by side, and what else a
round does goes on meanwhile. Nothing of the agent's state is touched there.
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.executors.batch import BatchExecutor
from pps_agent.probes.executors.choose import open_executor
from pps_agent.probes.executors.values import NodeAnswer, NodeTask
from pps_agent.probes.parse import cut_summary
from pps_agent.probes.preparation import choose_vo, provision_of
from pps_agent.probes.quorum import Combined, combine
from pps_agent.settings import Settings
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Cause, Status

_TASKS_AT_A_TIME: Final = 8
"""More releases than that wait: each task polls the batch system."""
_NOTICE_S: Final = 0.5
"""How soon a wait is given up when the program is told to end."""
_Key = tuple[ReleaseId | None, tuple[ProbeName, ...]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task, and the results of probes that cannot be sent."""

    task: NodeTask
    refused: tuple[ProbeResult, ...]


class NodeProbing:
    """The way to the nodes for one round; opened when first used. ``stopping``: the whole program is to end."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings, self._stopping = settings, stopping
        self._closing = threading.Event()
        self._begun: dict[_Key, Future[tuple[NodeAnswer, ...]]] = {}

    @property
    def is_local(self) -> bool:
        """Whether the head is the node, so that there is no way to go."""
        return self._settings.nodes.executor == "local"

    def begin(self, definitions: Sequence[ProbeDefinition], release: ReleaseId | None, env: Mapping[str, str]) -> None:
        """Hand in a task and go on; ``run`` with the same probes and release gives what came of it."""
        prepared = self.prepare(definitions, release, env)
        if prepared.task.definitions:
            self._begun[_key(prepared.task)] = self._pool.submit(self._executor.run, prepared.task)

    def run(
        self, definitions: Sequence[ProbeDefinition], release: ReleaseId | None, env: Mapping[str, str]
    ) -> Combined:
        """Give what the nodes say of these probes, in a task begun before or now.

        Raises: SiteError when this machine cannot even begin.
        """
        prepared = self.prepare(definitions, release, env)
        combined = Combined(())
        if prepared.task.definitions:
            future = self._begun.pop(_key(prepared.task), None) or self._pool.submit(self._executor.run, prepared.task)
            answers = future.result()
            quorum = self._settings.nodes.quorum
            combined = combine(prepared.task.definitions, release, answers, quorum, datetime.now(UTC))
        own = {result.probe: result for result in (*combined.own, *prepared.refused)}
        return replace(combined, own=tuple(own[definition.name] for definition in definitions))

    def close(self) -> None:
        """Give up what is under way and cancel its jobs."""
        self._closing.set()
        if "_pool" in vars(self):
            self._pool.shutdown(wait=True, cancel_futures=True)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_TASKS_AT_A_TIME, "nodes")

    @cached_property
    def _executor(self) -> BatchExecutor:
        executor = open_executor(self._settings, self._wait)
        if executor is None:
            raise AssertionError("the head is the node")
        # Where that fails the next start tries again, and the jobs end by themselves.
        with contextlib.suppress(SiteError):
            executor.clear_leftovers()
        return executor

    def _wait(self, wait_s: float) -> bool:
        """Wait; True when the round or the program is to end."""
        deadline = time.monotonic() + wait_s
        while not self._stopping.is_set() and (left_s := deadline - time.monotonic()) > 0:
            if self._closing.wait(min(left_s, _NOTICE_S)):
                return True
        return self._stopping.is_set()

    def prepare(
        self, definitions: Sequence[ProbeDefinition], release: ReleaseId | None, env: Mapping[str, str]
    ) -> "Prepared":
        """Give the task that these probes are, and the results of those that cannot be sent."""
        files: dict[ProbeName, bytes] = {}
        more: dict[ProbeName, Mapping[str, str]] = {}
        provision, refused = provision_of(self._settings), []
        for definition in definitions:
            missing: list[str] = []
            more[definition.name] = choose_vo(definition, provision, missing)
            if any(name in provision.secrets for name in definition.secrets):
                missing.append("its secrets never leave the head: have the node's own credential do, or where = head")
            try:
                files[definition.name] = definition.run.read_bytes()
            except OSError as exc:
                missing.append(f"{definition.run}: {exc.strerror}")
            if missing:
                refused.append(_lacking(definition, release, missing))
        sent = tuple(d for d in definitions if d.name not in {result.probe for result in refused})
        limit_s = self._settings.probes.timeout_s
        task = NodeTask(release=release, definitions=sent, files=files, env=env, max_timeout_s=limit_s, more=more)
        return Prepared(task, tuple(refused))


def _lacking(definition: ProbeDefinition, release: ReleaseId | None, missing: Sequence[str]) -> ProbeResult:
    return ProbeResult(
        probe=definition.name,
        release=release,
        status=Status.UNKNOWN,
        summary=cut_summary(f"missing requirement: {'; '.join(missing)}"),
        details="",
        started_at=datetime.now(UTC),
        duration_s=0.0,
        cause=Cause.REQUIREMENT,
        digest=definition.digest,
    )


def _key(task: NodeTask) -> _Key:
    return task.release, tuple(definition.name for definition in task.definitions)
