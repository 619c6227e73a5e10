"""The spool as the prober sees it: when to look next, what is new, and each problem told once."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from pps_agent.log import Log
from pps_agent.probes.agenda import Agenda
from pps_agent.probes.slots import Instant
from pps_agent.probes.spool import Spool
from pps_agent.probes.spool_file import Spooled
from pps_agent.probes.untested import moment
from pps_agent.results import Results
from pps_wire.names import ProbeName

LOOK_EVERY_S: Final = 10.0


class SpoolWatch:
    """Looks at the directory of the settings, every LOOK_EVERY_S; never where none is set."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._agenda: Agenda | None = None
        self._spool: Spool | None = None
        self._installed: Collection[str] = ()
        self._due_s = float("-inf")
        self._problems: frozenset[str] = frozenset()

    def take_over(self, agenda: Agenda, results: Results) -> None:
        """Go on by this agenda; what was seen of the directory stays known while it is the same."""

        def newest(metric: ProbeName) -> datetime | None:
            seen = results.newest(metric, None)
            return None if seen is None else seen.result.started_at

        directory = agenda.settings.probes.spool
        if self._agenda is None or self._agenda.settings.probes.spool != directory:
            self._spool = None if directory is None else Spool(directory, newest)
            self._due_s = float("-inf")
        self._agenda, self._installed = agenda, _names_of(agenda)

    def due_s(self) -> float | None:
        """Give when to look, on the steady clock; None when there is nothing to look at."""
        return None if self._spool is None else self._due_s

    def look(self, now: Instant) -> tuple[Spooled, ...]:
        """Give what is new, if it is time to look."""
        if self._spool is None or now.steady_s < self._due_s:
            return ()
        self._due_s = now.steady_s + LOOK_EVERY_S
        found = self._spool.look(moment(now.wall_s), self._installed)
        for problem in found.problems:
            if problem not in self._problems:
                self._log.warning("spool.refused", problem=problem)
        self._problems = frozenset(found.problems)
        return found.news


def _names_of(agenda: Agenda) -> frozenset[str]:
    """Give all names for which probes speak."""
    known = {job.definition.name: job.definition for job in agenda.jobs.values()}
    definitions = [*known.values(), *(d for catalogue in agenda.catalogues.values() for d in catalogue.definitions)]
    return frozenset(name for d in definitions for name in (d.name, *d.aliases, *d.metrics))
