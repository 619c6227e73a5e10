"""Keeps ``pps-agent job requests`` running beside the daemon, and passes on what it says."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.errors import SiteError
from pps_agent.jobs import Jobs, RequestReply
from pps_agent.log import Log
from pps_agent.settings import Settings
from pps_wire.report import RequestState

_RESTART_S: Final = 60.0
_STOP_S: Final = 10.0


class RequestListener:
    """Listens while the settings name a collector and allow it anything. ``on_done`` is called after each request."""

    def __init__(self, config: Path, log: Log, on_done: Callable[[], None]) -> None:
        self._jobs, self._log, self._on_done = Jobs(config), log, on_done
        self._lock = threading.Lock()
        self._stopping: threading.Event | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._last = ""

    def follow(self, settings: Settings) -> None:
        """Listen, or stop listening, as these settings say; a child that runs is replaced by one that reads them."""
        self.stop()
        if not settings.collector.url or not settings.probes.requests:
            return
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(self._stopping,), name="requests")
        self._thread.start()

    def stop(self) -> None:
        """End the child and stop listening. What it was carrying out is told as lost by the next one."""
        if self._stopping is None or self._thread is None:
            return
        with self._lock:
            self._stopping.set()
            if self._child is not None:
                self._child.terminate()
        self._thread.join(_STOP_S)
        self._stopping = self._thread = None

    def _listen(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self._follow_child(stopping)
            except SiteError as exc:
                self._tell(RequestReply(request="", state=RequestState.FAILED, reason=str(exc)))
            stopping.wait(_RESTART_S)

    def _follow_child(self, stopping: threading.Event) -> None:
        """Start a child and pass on its lines until it ends. Raises: SiteError when it cannot be started."""
        with self._lock:
            if stopping.is_set():
                return
            child = self._child = self._jobs.start_requests()
        with child:
            for line in child.stdout or ():
                try:
                    self._tell(msgspec.json.decode(line, type=RequestReply))
                except msgspec.MsgspecError:
                    self._log.warning("requests.missed", error=f"unreadable line of {len(line)} bytes")
        self._child = None

    def _tell(self, reply: RequestReply) -> None:
        if reply.request:
            self._last = ""
            self._log.info("request.handled", request=reply.request, state=reply.state.value, reason=reply.reason)
        elif reply.reason != self._last:  # once, not every five minutes for a year
            self._last = reply.reason
            self._log.warning("requests.missed", error=reply.reason)
        if reply.state is RequestState.DONE:
            self._on_done()
