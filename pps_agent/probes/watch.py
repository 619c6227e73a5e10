"""The watch over the size of runs' directories.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import functools
import time
from collections.abc import Iterable

from pps_agent.probes.reactor import Reactor
from pps_agent.probes.runs import Run
from pps_agent.probes.usage import measure_held, measure_tree


class DirectoryWatch:
    """Measures one directory at a time, aside from the loop, the one that waited longest first."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._is_measuring = False

    def look(self, runs: Iterable[Run], now: float) -> None:
        """Have a directory measured, if one is due and none is being measured."""
        due = [run for run in runs if "directory_bytes" in run.base.limits and now >= run.measure_at]
        if due and not self._is_measuring:
            self._is_measuring = True
            run = min(due, key=lambda run: run.measure_at)
            self._reactor.run_aside(functools.partial(_measure, run), functools.partial(self._on_measured, run, now))

    def _on_measured(self, run: Run, began: float, result: int | OSError) -> None:
        self._is_measuring = False
        now = time.monotonic()
        # A directory that is not where it was made was taken away by its run, which is as bad.
        used = run.base.limits["directory_bytes"] + 1 if isinstance(result, OSError) else result
        run.on_measured(used, now, now - began)


def _measure(run: Run) -> int:
    """Give what a run keeps on disk, counting no further than past its limit. Raises: OSError."""
    limit, scratch = run.base.limits["directory_bytes"], run.spawned.scratch
    return measure_tree(scratch, limit) + measure_held(run.processes(), scratch)
