"""The runner's loop: agents' sockets, probes' pipes, ended programs and deadlines in one selector.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import collections
import contextlib
import functools
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pps_agent.probes import contain, protocol
from pps_agent.probes.protocol import Greeting, LineBuffer, RunRequest, RunResponse
from pps_agent.probes.runs import Run, find_strays, kill_strays
from pps_agent.probes.spawn import Gate, Spawned, Spawner, Spawners
from pps_wire.errors import WireError

MAX_RUNNING: Final = 8
MAX_WAITING: Final = 256
MAX_CONNECTIONS: Final = 16
_MAX_UNSENT_BYTES: Final = 16 * 1024**2
_TICK_S: Final = 1.0
_SHUTDOWN_S: Final = 15.0


@dataclass(eq=False, slots=True)
class Connection:
    """One agent: its socket, what it has not read yet, its runs that wait for a place."""

    socket: socket.socket
    lines: LineBuffer = field(default_factory=LineBuffer)
    unsent: bytearray = field(default_factory=bytearray)
    open: bool = True


@dataclass(frozen=True, slots=True)
class _Job:
    """A request and whose it is."""

    connection: Connection
    request: RunRequest


class Service:
    """The loop: sockets, pipes, ended programs and deadlines in one selector."""

    def __init__(self, base: str, owner: str, allowed_uids: frozenset[int]) -> None:
        key = contain.process_key(os.getpid())
        if key is None:
            raise FileNotFoundError("/proc is not mounted: mount it, probes cannot be contained without")
        self._gate = Gate()
        self._allowed_uids = allowed_uids
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._spawners = Spawners(Spawner(base, owner, key, self._gate), self._wake)
        self._connections: set[Connection] = set()
        self._waiting: collections.deque[_Job] = collections.deque()
        self._starting: dict[str, Connection] = {}
        self._runs: dict[str, tuple[Connection, Run]] = {}
        self._removing = 0
        self._listening = False
        self._stopping_since: float | None = None
        self._tick_at = 0.0
        self._strays_left = False
        self._watch(self._wake_in, self._on_wake)

    def add_connection(self, connected: socket.socket) -> None:
        """Serve one agent and greet it."""
        connected.setblocking(False)
        connection = Connection(connected)
        self._connections.add(connection)
        self._watch(connected, functools.partial(self._on_socket, connection))
        self._send(connection, protocol.render_greeting(Greeting(os.getpid(), os.geteuid())))

    def listen(self, listener: socket.socket) -> None:
        """Accept agents of the allowed users for as long as the process lives."""
        self._listening = True
        listener.setblocking(False)
        self._watch(listener, functools.partial(self._on_accept, listener))

    def stop(self) -> None:
        """End all runs, then the loop. Safe in a signal handler."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
        self._wake()

    def serve(self) -> None:
        """Run until stopped, or until the only agent has gone; no process of any run is left then."""
        while not self._is_over():
            for key, mask in self._selector.select(self._patience_s()):
                key.data(mask)
            now = time.monotonic()
            if self._stopping_since is not None:
                for connection in tuple(self._connections):
                    self._drop(connection)
            self._start_waiting()
            self._step_runs(now)
            self._tick(now)
        self._end_everything()

    def _is_over(self) -> bool:
        if self._stopping_since is None:
            return False
        overdue = time.monotonic() - self._stopping_since > _SHUTDOWN_S
        return overdue or not (self._runs or self._starting or self._removing)

    def _patience_s(self) -> float | None:
        deadlines = [run.deadline for _, run in self._runs.values()]
        if self._runs or self._strays_left or self._stopping_since is not None:
            deadlines.append(self._tick_at)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    # --- agents

    def _on_accept(self, listener: socket.socket, _mask: int) -> None:
        connected, _ = listener.accept()
        _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in self._allowed_uids and len(self._connections) < MAX_CONNECTIONS:
            self.add_connection(connected)
        else:
            connected.close()

    def _on_socket(self, connection: Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush(connection)
            if mask & selectors.EVENT_READ and connection.open:
                chunk = connection.socket.recv(64 * 1024)
                if not chunk:
                    self._drop(connection)
                for line in connection.lines.feed(chunk):
                    self._accept_request(connection, protocol.parse_request(line))
        except BlockingIOError:
            return
        except (OSError, WireError) as exc:
            sys.stderr.write(f"probe runner: connection dropped: {exc}\n")
            self._drop(connection)

    def _accept_request(self, connection: Connection, request: RunRequest) -> None:
        waiting = [job.request.run for job in self._waiting]
        if request.run in self._runs or request.run in self._starting or request.run in waiting:
            raise WireError("runner", f"run {request.run} is already under way")
        if len(waiting) >= MAX_WAITING:
            raise WireError("runner", f"more than {MAX_WAITING} runs wait")
        self._waiting.append(_Job(connection, request))

    def _drop(self, connection: Connection) -> None:
        """Forget an agent and end what it asked for."""
        if not connection.open:
            return
        connection.open = False
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._waiting = collections.deque(job for job in self._waiting if job.connection is not connection)
        for owner, run in self._runs.values():
            if owner is connection:
                run.on_abandoned(time.monotonic())
        if not self._connections and not self._listening:
            self.stop()

    def _send(self, connection: Connection, line: bytes) -> None:
        if connection.open:
            connection.unsent += line
            try:
                self._flush(connection)
            except OSError:
                self._drop(connection)

    def _flush(self, connection: Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            while connection.unsent:
                del connection.unsent[: connection.socket.send(connection.unsent)]
        if len(connection.unsent) > _MAX_UNSENT_BYTES:
            raise ConnectionAbortedError("the agent does not read its answers")
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        key = self._selector.get_key(connection.socket)
        if key.events != wanted:
            self._selector.modify(connection.socket, wanted, key.data)

    # --- runs

    def _start_waiting(self) -> None:
        while self._waiting and len(self._runs) + len(self._starting) < MAX_RUNNING:
            job = self._waiting.popleft()
            self._starting[job.request.run] = job.connection
            self._spawners.spawn(job.request, functools.partial(self._on_spawned, job))

    def _on_spawned(self, job: _Job, result: Spawned | OSError) -> None:
        del self._starting[job.request.run]
        if isinstance(result, OSError):
            reason = f"could not be started: {result.strerror or result}"
            self._send(job.connection, protocol.render_response(RunResponse(run=job.request.run, failure=reason)))
            return
        run = Run(job.request, result, self._gate)
        self._runs[job.request.run] = job.connection, run
        for pipe in (result.stdout, result.stderr):
            self._watch(pipe, functools.partial(self._on_output, run, pipe))
        self._watch(result.pidfd, functools.partial(self._on_exit, run))
        if not job.connection.open:
            run.on_abandoned(time.monotonic())

    def _on_output(self, run: Run, pipe: int, _mask: int) -> None:
        if not run.read(pipe):
            self._selector.unregister(pipe)
            os.close(pipe)
            run.open_pipes.discard(pipe)
            run.on_pipe_end(time.monotonic())

    def _on_exit(self, run: Run, _mask: int) -> None:
        self._selector.unregister(run.spawned.pidfd)
        run.on_exit(time.monotonic())

    def _step_runs(self, now: float) -> None:
        running = self._sessions()
        for connection, run in list(self._runs.values()):
            if now >= run.deadline and (response := run.on_deadline(now, running)) is not None:
                del self._runs[run.request.run]
                for descriptor in run.close():
                    with contextlib.suppress(KeyError):
                        self._selector.unregister(descriptor)
                self._removing += 1
                self._spawners.remove(run.spawned.scratch, functools.partial(self._on_removed, connection, response))

    def _sessions(self) -> dict[str, int]:
        return {name: run.spawned.pid for name, (_, run) in self._runs.items()}

    def _on_removed(self, connection: Connection, response: RunResponse) -> None:
        self._removing -= 1
        self._send(connection, protocol.render_response(response))

    # --- the rest

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_out, b"\0")

    def _on_wake(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_in, 4096)
        while self._spawners.done:
            self._spawners.done.popleft()()

    def _tick(self, now: float) -> None:
        """Now and then, wait for dead strays and end those that belong to no run."""
        if now >= self._tick_at:
            self._tick_at = now + _TICK_S
            strays = find_strays(self._gate, self._sessions())
            kill_strays(strays)
            self._strays_left = bool(strays)

    def _watch(self, watched: int | socket.socket, then: Callable[[int], None]) -> None:
        self._selector.register(watched, selectors.EVENT_READ, then)

    def _end_everything(self) -> None:
        deadline = time.monotonic() + 2.0
        while (strays := find_strays(self._gate, {})) and time.monotonic() < deadline:
            kill_strays(strays)
