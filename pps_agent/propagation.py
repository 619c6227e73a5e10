"""Follows the latest change of tags beside the daemon's rounds, until the information systems show it."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.errors import SiteError
from pps_agent.jobs import Expected, Jobs, PublishedReply
from pps_agent.log import Log

FOLLOW_S: Final = 3600
"""A change that is not shown after an hour never will be without somebody's help."""
_STOP_S: Final = 10.0


class PropagationWatch:
    """Waits in a child for what the latest change should come to show. ``note`` is told how long that took."""

    def __init__(self, config: Path, log: Log, note: Callable[[float], None]) -> None:
        self._jobs, self._log, self._note = Jobs(config), log, note
        self._following, self._lock = threading.Lock(), threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def follow(self, expected: Expected) -> None:
        """Follow this change, and no earlier one any more: what that wanted may be gone again."""
        with self._following:
            self._end()
            try:
                child = self._jobs.start_published(msgspec.structs.replace(expected, wait_s=FOLLOW_S))
            except SiteError as exc:
                self._log.warning("tags.unseen", reason=str(exc))
                return
            with self._lock:
                self._child = child
            self._thread = threading.Thread(target=self._wait, args=(child,), name="propagation")
            self._thread.start()

    def stop(self) -> None:
        """Follow nothing any more."""
        with self._following:
            self._end()

    def _end(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.terminate()
        if self._thread is not None:
            self._thread.join(_STOP_S)
            self._thread = None

    def _wait(self, child: "subprocess.Popen[bytes]") -> None:
        with child:
            said = child.stdout.read() if child.stdout is not None else b""
        with self._lock:
            if self._child is not child:
                return  # ended by us
            self._child = None
        try:
            reply = msgspec.json.decode(said, type=PublishedReply)
        except msgspec.MsgspecError:
            self._log.warning("tags.unseen", reason=f"pps-agent job published ended with {child.returncode}")
            return
        if reply.delay_s is None:
            reason = reply.unknown or f"not shown within {FOLLOW_S} s; see pps-agent tag reconcile"
            self._log.warning("tags.unseen", reason=reason)
            return
        self._log.info("tags.shown", delay_s=round(reply.delay_s, 1))
        self._note(reply.delay_s)
