"""Where Prometheus finds results, as the settings want it: a port that may move, and a file for node_exporter."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pps_agent.disk import site_error
from pps_agent.errors import SiteError
from pps_agent.log import Log


def save_textfile(path: Path, text: str) -> None:
    """Replace the file for node_exporter's textfile collector; it never sees half of it. Raises: SiteError.

    Nothing is flushed: it is made anew all the time.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # the collector reads *.prom
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o644), "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(text.encode())
        temporary.replace(path)
    except OSError as exc:
        raise site_error(exc, path, ", writing probes.textfile") from exc


class MetricsPort:
    """The port as the settings want it, whatever they are changed to; what goes wrong is told, and stops nothing.

    For any thread. Its end is for good: who still reads settings then must not open it again.
    """

    def __init__(self, render: Callable[[], str], log: Log) -> None:
        self._render, self._log = render, log
        self._lock = threading.Lock()
        self._port, self._is_over = 0, False
        self._open = contextlib.ExitStack()

    def move_to(self, port: int) -> None:
        """Serve at this port from now on; 0: nowhere."""
        with self._lock:
            if self._is_over or port == self._port:
                return
            self._open.close()
            self._port = 0
            if port:
                # Loaded for who asks only: a server's libraries stay in the daemon's memory.
                from pps_agent.probes.metrics_server import serve_metrics

                try:
                    self._open.enter_context(serve_metrics(port, self._render))
                    self._port = port
                except SiteError as exc:
                    self._log.error("metrics.unserved", error=str(exc))

    def close(self) -> None:
        """Serve no more."""
        with self._lock:
            self._is_over = True
            self._open.close()
