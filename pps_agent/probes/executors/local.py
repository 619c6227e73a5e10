"""The head is the node: probes run through the contained runner."""

from collections.abc import Callable

from pps_agent.probes.client import RunnerClient
from pps_agent.probes.executors.values import NodeAnswer, NodeTask
from pps_agent.probes.preparation import Provision


class LocalExecutor:
    """An executor over a runner; ``open_runner`` gives one that is alive. For one thread, as the runner is.

    A task's files are not used: the runner starts the probes where they lie, with what ``provision`` has for
    them. The answer names no node, since a result without one is the head's.
    """

    def __init__(self, open_runner: Callable[[], RunnerClient], provision: Provision | None = None) -> None:
        self._open_runner, self._provision = open_runner, provision or Provision()

    def run(self, task: NodeTask) -> tuple[NodeAnswer, ...]:
        """Run a task here, its probes side by side. Raises: SiteError when no runner is to be had."""
        runner = self._open_runner()
        results = runner.run_all(task.definitions, task.env, task.release, provision=self._provision)
        return (NodeAnswer("", results),)
