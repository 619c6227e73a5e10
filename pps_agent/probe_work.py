"""The daemon's probes: one prober for as long as all is well, fed with what rounds and settings say."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from pps_agent.errors import AgentError
from pps_agent.gather import gather
from pps_agent.log import Log
from pps_agent.probes.agenda import Agenda, Watched
from pps_agent.probes.exporter import Exporter
from pps_agent.probes.metrics_port import MetricsPort
from pps_agent.probes.prober import Prober
from pps_agent.round import Round
from pps_agent.site import Site
from pps_agent.state import ReleaseSet
from pps_wire.names import Subcluster, Tag

LONGEST_PAUSE_S: Final = 60.0
"""After a pause of the machine nothing is due later than this."""


class ProbeWork:
    """Whose methods the daemon's jobs call. ``on_change``: a release's hard state has become another one."""

    def __init__(self, log: Log, on_change: Callable[[], None]) -> None:
        self._log, self._on_change = log, on_change
        self._lock = threading.Lock()
        self._exporter = Exporter()
        self._metrics = MetricsPort(self._exporter.render, log)
        self._agenda: Agenda | None = None
        self._prober: Prober | None = None
        self._watched: tuple[Watched, ...] = ()
        self._ended_at: datetime | None = None
        self._expires_at: datetime | None = None
        self._listed: Mapping[Subcluster, tuple[Tag, ...]] | None = None

    @property
    def has_news(self) -> bool:
        """Whether an agenda waits to be taken over."""
        prober = self._prober
        return (prober is None and self._agenda is not None) or (prober is not None and prober.has_news)

    def note_round(self, seen: Round, at: datetime) -> None:
        """Take what a round found: which releases are probed from now on."""
        self._watched, self._ended_at, self._listed = seen.watched, at, seen.listed
        if isinstance(seen.offered, ReleaseSet):
            self._expires_at = seen.offered.expires_at

    def gather(self, site: Site) -> None:
        """Look up what is to be run, by this site's settings, and have it taken over. Raises: AgentError."""
        previous = self._agenda.catalogues.get(None) if self._agenda is not None else None
        agenda = gather(site, self._watched, previous)
        agenda = replace(agenda, round_ended_at=self._ended_at, expires_at=self._expires_at, listed=self._listed)
        with self._lock:
            self._agenda = agenda
            if self._prober is not None:
                self._prober.hand_over(agenda)
            self._metrics.move_to(site.settings.probes.metrics_port)

    def run(self) -> float:
        """Run what is due and give the seconds until something is. What cannot be done now is tried later."""
        with self._lock:
            if self._agenda is None:
                return LONGEST_PAUSE_S
            if self._prober is None:
                self._prober = Prober(self._agenda, self._log, self._on_change, self._exporter)
            prober = self._prober
        try:
            wait_s = prober.run()
        except AgentError as exc:
            self._log.error("probes.failed", error=str(exc))
            self.close()
            return LONGEST_PAUSE_S
        return LONGEST_PAUSE_S if wait_s is None else min(wait_s, LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Have all runs ended, and answer nobody any more."""
        self._metrics.close()
        if self._prober is not None:
            self._prober.stop()

    def close(self) -> None:
        """Close what is open; the next ``run`` begins anew. Not while another thread is in ``run``."""
        with self._lock:
            prober, self._prober = self._prober, None
        if prober is not None:
            with contextlib.suppress(AgentError):
                prober.close()
