"""An agent as the runner sees it: what it asked for and what it has not been told yet.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import collections
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pps_agent.probes import contain, protocol
from pps_agent.probes.fields import LineBuffer, refuse
from pps_agent.probes.launch import Texts, variables
from pps_agent.probes.protocol import MAX_BASES, Base, RunRequest

MAX_WAITING: Final = 10_000
_MAX_WAITING_BYTES: Final = 64 * 1024**2
_BACKLOG_BYTES: Final = 1024**2
_CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ReadyBase:
    """A base made ready for many starts."""

    variables: Texts[str]
    limits: Mapping[str, int]
    resources: contain.ResourceLimits


@dataclass(frozen=True, slots=True)
class Job:
    """A request, the base it names, and whose it is."""

    peer: "Peer"
    request: RunRequest
    base: ReadyBase
    size_bytes: int


class Peer:
    """One agent: its socket, its runs that wait for a place, its answers that wait to be sent."""

    __slots__ = ("_bases", "_lines", "_unsent", "_waiting_bytes", "is_open", "open_runs", "socket", "told_at",
                 "waiting")  # fmt: skip

    def __init__(self, connected: socket.socket, now: float) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.is_open = True
        self.waiting: collections.deque[Job] = collections.deque()
        self.open_runs: set[str] = set()
        self.told_at = now
        self._lines = LineBuffer()
        self._bases = {"": _ready(Base("", {}))}
        self._unsent = bytearray()
        self._waiting_bytes = 0

    def receive(self) -> bool:
        """Take what has arrived; False when the agent has gone. Raises: OSError, WireError."""
        with contextlib.suppress(BlockingIOError):
            chunk = self.socket.recv(_CHUNK_BYTES)
            for line in self._lines.feed(chunk):
                self._accept(line)
            return bool(chunk)
        return True

    def _accept(self, line: bytes) -> None:
        message = protocol.parse_agent_line(line)
        if not isinstance(message, RunRequest):
            if message.name not in self._bases and len(self._bases) > MAX_BASES:
                refuse(f"more than {MAX_BASES} bases")
            self._bases[message.name] = _ready(message)
            return
        if message.run in self.open_runs:
            refuse(f"run {message.run} is already under way")
        if (base := self._bases.get(message.base)) is None:
            refuse(f"run {message.run} names a base that was not sent")
        self._waiting_bytes += len(line)
        if len(self.waiting) >= MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES:
            refuse(f"more than {MAX_WAITING} runs, or {_MAX_WAITING_BYTES} bytes of them, wait")
        self.open_runs.add(message.run)
        self.waiting.append(Job(self, message, base, len(line)))

    @property
    def is_ready(self) -> bool:
        """Whether a run of it may start: one waits, and it reads its answers."""
        return bool(self.waiting) and len(self._unsent) < _BACKLOG_BYTES

    def next_job(self) -> Job:
        """Give the run that waited longest. Raises: IndexError when none waits."""
        job = self.waiting.popleft()
        self._waiting_bytes -= job.size_bytes
        return job

    def tell(self, line: bytes) -> None:
        """Note what the agent shall be told; ``flush`` sends it."""
        if self.is_open:
            self._unsent += line

    @property
    def is_told(self) -> bool:
        """Whether all that was to be told is sent."""
        return not self._unsent

    def flush(self, now: float) -> bool:
        """Send what the socket takes; True when that was all. Raises: OSError."""
        self.told_at = now
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]
        return not self._unsent

    def close(self) -> None:
        """Forget what it asked for; its runs under way are not the peer's to end."""
        self.is_open = False
        self.waiting.clear()
        self._unsent.clear()
        self._bases.clear()
        self.socket.close()


def _ready(base: Base) -> ReadyBase:
    return ReadyBase(variables(base.env), base.limits, contain.resource_limits(base.limits))
