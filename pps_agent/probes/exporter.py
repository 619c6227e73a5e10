"""What Prometheus gets of a running daemon: the newest results and the agent's figures, as a file and at a port.

Noted by the thread that runs probes, read by those that answer ``/metrics``.
"""

import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from pps_agent.probes.exposition import AgentFigures, Newest, render_metrics
from pps_agent.probes.metrics_port import save_textfile
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId

SAVE_EVERY_S: Final = 10.0
"""Time between two files for node_exporter while probes run: it is asked a few times a minute."""

_Key = tuple[ProbeName, ReleaseId | None]


class Exporter:
    """Keeps the newest result of each metric and release, and gives them all as text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[_Key, Newest] = {}
        self._figures: AgentFigures | None = None
        self._is_unsaved, self._saved_s = False, float("-inf")

    def note(self, result: ProbeResult, fresh_s: int) -> None:
        """Take a result as the newest of its metric and release."""
        newest = Newest(result, result.started_at + timedelta(seconds=fresh_s))
        with self._lock:
            self._newest[result.probe, result.release] = newest

    def forget_others(self, keys: Iterable[_Key]) -> None:
        """Drop the results of all other metrics and releases."""
        wanted = set(keys)
        with self._lock:
            self._newest = {key: newest for key, newest in self._newest.items() if key in wanted}

    def note_figures(self, figures: AgentFigures) -> None:
        """Take the agent's figures as they are now."""
        with self._lock:
            self._figures = figures
        self._is_unsaved = True

    def is_due(self, now_s: float, *, is_idle: bool) -> bool:
        """Tell whether the file for node_exporter should be made: something is new, and it is time."""
        return self._is_unsaved and (is_idle or now_s - self._saved_s >= SAVE_EVERY_S)

    def save(self, textfile: Path, now_s: float) -> None:
        """Put the file for node_exporter in place. Raises: SiteError."""
        self._is_unsaved, self._saved_s = False, now_s
        save_textfile(textfile, self.render())

    def render(self) -> str:
        """Give everything as text. For any thread."""
        with self._lock:
            newest, figures = tuple(self._newest.values()), self._figures
        return render_metrics(newest, figures)
