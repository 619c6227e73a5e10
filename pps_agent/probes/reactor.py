"""Descriptors and threads that call back into one loop.

Standard library only: the runner imports this module under ``python -I -S``.
"""

import _thread
import collections
import contextlib
import functools
import os
import select
from collections.abc import Callable
from typing import Final, TypeVar

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
_Result = TypeVar("_Result")


class Reactor:
    """Calls back what watches a descriptor, or waits for a thread, from ``step`` and from nowhere else."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Callable[[], None]] = {}
        self._events: dict[int, int] = {}
        self._done: collections.deque[Callable[[], None]] = collections.deque()
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._is_woken = False
        self.watch(self._wake_in, self._on_wake)

    def watch(self, descriptor: int, then: Callable[[], None]) -> None:
        """Call ``then`` whenever a descriptor can be read or was closed at its other end."""
        self._epoll.register(descriptor, READ)
        self._watchers[descriptor], self._events[descriptor] = then, READ

    def expect(self, descriptor: int, events: int) -> None:
        """Change what a watched descriptor is watched for."""
        if self._events[descriptor] != events:
            self._epoll.modify(descriptor, events)
            self._events[descriptor] = events

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, which is then the caller's to close."""
        self._epoll.unregister(descriptor)
        del self._watchers[descriptor], self._events[descriptor]

    def wake(self) -> None:
        """Make ``step`` return soon. Safe in threads and signal handlers."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_out, b"\0")

    def run_aside(self, task: Callable[[], _Result], then: Callable[[_Result | OSError], None]) -> None:
        """Do what may block in a thread of its own; ``then`` gets what came of it, by the loop."""

        def work() -> None:
            try:
                result: _Result | OSError = task()
            except OSError as exc:
                result = exc
            self._done.append(functools.partial(then, result))
            self.wake()

        try:
            _thread.start_new_thread(work, ())
        except RuntimeError as exc:
            self._done.append(functools.partial(then, OSError(f"{exc}: too many processes or no memory")))
            self.wake()

    def step(self, patience_s: float | None) -> None:
        """Wait for something to happen, at most so long, and call back all it concerns."""
        for descriptor, _ in self._epoll.poll(patience_s):
            # An earlier one of this round may have taken this one back.
            if (then := self._watchers.get(descriptor)) is not None:
                then()

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_in, 4096)
        self._is_woken = False
        while self._done:
            self._done.popleft()()
