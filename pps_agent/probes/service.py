"""The runner's loop: agents' sockets, probes' pipes, ended programs and deadlines.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import collections
import functools
import os
import socket
import struct
import sys
import time
from typing import Final

from pps_agent.probes import protocol, reactor
from pps_agent.probes.cgroup import Leaf, Leaves
from pps_agent.probes.peer import Peer
from pps_agent.probes.protocol import Greeting, RunResponse
from pps_agent.probes.reactor import Reactor
from pps_agent.probes.runs import Run
from pps_agent.probes.scratch import remove_tree
from pps_agent.probes.spawn import Spawned, Spawner, Start
from pps_agent.probes.strays import Children, find_strays, kill_strays
from pps_agent.probes.watch import DirectoryWatch
from pps_wire.errors import WireError

MAX_RUNNING: Final = 8
MAX_CONNECTIONS: Final = 16
_STARTING: Final = 4
"""Starts at once: more would only wait for one another's processor."""
_TICK_S: Final = 1.0
_SHUTDOWN_S: Final = 15.0


class Service:
    """All agents, their runs, and the loop that attends to them."""

    def __init__(
        self, spawner: Spawner, children: Children, allowed_uids: frozenset[int], leaves: Leaves, running: int
    ) -> None:
        self._allowed_uids, self._leaves, self._max_running = allowed_uids, leaves, running
        self._spawner, self._children = spawner, children
        self._reactor = Reactor()
        self._directories = DirectoryWatch(self._reactor)
        self._peers: collections.deque[Peer] = collections.deque()
        self._starts: set[Start] = set()
        self._runs: dict[str, Run] = {}
        self._removing = 0
        self._is_listening = False
        self._stopping_since: float | None = None
        self._tick_at = 0.0
        self._strays_left = False

    def add_peer(self, connected: socket.socket) -> None:
        """Serve one agent and greet it."""
        peer = Peer(connected, time.monotonic())
        self._peers.append(peer)
        self._reactor.watch(connected.fileno(), functools.partial(self._on_socket, peer))
        greeting = Greeting(os.getpid(), os.geteuid(), self._spawner.confinement.version, self._leaves.exist)
        peer.tell(protocol.render_greeting(greeting))

    def listen(self, listener: socket.socket) -> None:
        """Accept agents of the allowed users for as long as the process lives."""
        self._is_listening = True
        listener.setblocking(False)
        self._reactor.watch(listener.fileno(), functools.partial(self._on_accept, listener))

    def stop(self) -> None:
        """End all runs, then the loop. Safe in a signal handler."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
        self._reactor.wake()

    def serve(self) -> None:
        """Run until stopped, or until the only agent has gone; no process of any run is left then."""
        while not self._is_over():
            now = time.monotonic()
            for peer in tuple(self._peers):
                self._tell(peer, now)
            self._reactor.step(self._patience_s(now))
            now = time.monotonic()
            if self._stopping_since is not None:
                for peer in tuple(self._peers):
                    self._drop(peer)
            self._step_runs(now)
            self._start_waiting()
            self._tick(now)
        self._end_everything()

    def _is_over(self) -> bool:
        if self._stopping_since is None:
            return False
        overdue = time.monotonic() - self._stopping_since > _SHUTDOWN_S
        return overdue or not (self._runs or self._starts or self._removing)

    def _patience_s(self, now: float) -> float | None:
        deadlines = [run.settle_at or run.deadline for run in self._runs.values()]
        deadlines += [start.deadline if start.slow_at <= now else start.slow_at for start in self._starts]
        deadlines += [peer.told_at + protocol.BEAT_S for peer in self._peers if peer.open_runs]
        if self._runs or self._strays_left or self._stopping_since is not None:
            deadlines.append(self._tick_at)
        return max(0.0, min(deadlines) - now) if deadlines else None

    # --- agents

    def _on_accept(self, listener: socket.socket) -> None:
        try:
            connected, _ = listener.accept()
        except OSError:  # it has gone already, or there are too many open files: the next one may fare better
            return
        _, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in self._allowed_uids and len(self._peers) < MAX_CONNECTIONS:
            self.add_peer(connected)
        else:
            connected.close()

    def _on_socket(self, peer: Peer) -> None:
        try:
            if not peer.receive():
                self._drop(peer)
        except (OSError, WireError) as exc:
            sys.stderr.write(f"probe runner: connection dropped: {exc}\n")
            self._drop(peer)

    def _tell(self, peer: Peer, now: float) -> None:
        """Send an agent its answers; where it waits for one that takes long, that we are alive."""
        if peer.open_runs and now - peer.told_at >= protocol.BEAT_S:
            peer.tell(protocol.render_beat())
        if peer.is_told:
            return
        try:
            wanted = reactor.READ | (0 if peer.flush(now) else reactor.WRITE)
        except OSError:
            self._drop(peer)
            return
        self._reactor.expect(peer.socket.fileno(), wanted)

    def _drop(self, peer: Peer) -> None:
        """Forget an agent and end what it asked for."""
        if not peer.is_open:
            return
        self._peers.remove(peer)
        self._reactor.forget(peer.socket.fileno())
        peer.close()
        now = time.monotonic()
        for run in self._runs.values():
            if run.peer is peer:
                run.on_abandoned(now)
        for start in self._starts:
            if start.job.peer is peer:
                start.deadline = now
        if not self._peers and not self._is_listening:
            self.stop()

    def _answer(self, peer: Peer, response: RunResponse) -> None:
        peer.open_runs.discard(response.run)
        peer.tell(protocol.render_response(response))

    # --- runs

    def _start_waiting(self) -> None:
        """Start runs while there is room, of each agent in turn, so that none holds up the others."""
        while self._under_way() < self._max_running and self._may_start():
            peer = next((peer for peer in self._peers if peer.is_ready), None)
            if peer is None:
                return
            self._peers.remove(peer)
            self._peers.append(peer)
            job = peer.next_job()
            start = Start(job, self._leaves.take(job.base.limits))
            self._starts.add(start)
            self._reactor.run_aside(
                functools.partial(self._spawner.spawn, start), functools.partial(self._on_spawned, start)
            )

    def _may_start(self) -> bool:
        """Tell whether few enough starts are under way; one that hangs must not hold up the others."""
        if len(self._starts) < _STARTING:
            return True
        now = time.monotonic()
        return sum(now < start.slow_at for start in self._starts) < _STARTING

    def _under_way(self) -> int:
        return len(self._runs) + len(self._starts) + self._removing

    def _on_spawned(self, start: Start, result: Spawned | OSError) -> None:
        self._starts.discard(start)
        job = start.job
        if isinstance(result, OSError):
            reason = f"could not be started: {result.strerror or result}"
            self._end(job.peer, RunResponse(run=job.request.run, failure=reason), start.scratch, start.leaf)
            return
        run = Run(job, result, self._children, timed_out=start.is_overdue)
        self._runs[job.request.run] = run
        self._reactor.watch(result.pidfd, functools.partial(self._on_exit, run))
        if not job.peer.is_open:
            run.on_abandoned(time.monotonic())

    def _settle(self, run: Run) -> None:
        """Watch the output of a run that is not over at once."""
        for pipe in run.settle():
            self._reactor.watch(pipe, functools.partial(self._on_output, run, pipe))

    def _on_output(self, run: Run, pipe: int) -> None:
        try:
            goes_on = run.read(pipe)
        except BlockingIOError:
            return
        if not goes_on:
            self._reactor.forget(pipe)
            run.on_pipe_end(pipe, time.monotonic())

    def _on_exit(self, run: Run) -> None:
        self._reactor.forget(run.spawned.pidfd)
        run.on_exit(time.monotonic())
        if run.settle_at is not None and run.open_descriptors:
            self._settle(run)

    def _step_runs(self, now: float) -> None:
        for start in self._starts:
            if now >= start.deadline:
                start.kill(now)
        for run in tuple(self._runs.values()):
            if run.settle_at is not None and now >= run.settle_at:
                self._settle(run)
            if now >= run.deadline and (response := run.on_deadline(now, self._sessions)) is not None:
                del self._runs[run.request.run]
                for descriptor in run.open_descriptors:
                    self._reactor.forget(descriptor)
                run.close()
                self._end(run.peer, response, run.spawned.scratch, run.spawned.leaf)

    def _sessions(self) -> dict[str, int]:
        return {name: run.spawned.pid for name, run in self._runs.items()}

    def _end(self, peer: Peer, response: RunResponse, scratch: str, leaf: Leaf | None) -> None:
        """Answer once nothing is left of a run: it may ask for its directory to be seen gone."""
        if leaf is not None:
            self._leaves.give_back(leaf)
        try:
            if scratch:
                os.rmdir(scratch)  # noqa: PTH106 - on the path of every run
        except OSError:
            self._removing += 1
            self._reactor.run_aside(
                functools.partial(remove_tree, scratch), functools.partial(self._on_removed, peer, response)
            )
            return
        self._answer(peer, response)

    def _on_removed(self, peer: Peer, response: RunResponse, result: OSError | None) -> None:
        self._removing -= 1
        if result is not None:
            sys.stderr.write(f"probe runner: a run's directory could not be removed: {result}\n")
        self._answer(peer, response)

    # --- the rest

    def _tick(self, now: float) -> None:
        """Now and then, wait for dead strays, end those that belong to no run, and measure a run's directory."""
        if now < self._tick_at:
            return
        self._tick_at = now + _TICK_S
        strays = find_strays(self._children, self._sessions)
        kill_strays(strays)
        self._strays_left = bool(strays)
        self._directories.look(self._runs.values(), now)

    def _end_everything(self) -> None:
        deadline = time.monotonic() + 2.0
        while (strays := find_strays(self._children, dict)) and time.monotonic() < deadline:
            kill_strays(strays)
