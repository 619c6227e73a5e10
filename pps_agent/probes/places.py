"""Who may run next: two classes of weight, a number of places, one order. Pure.

The run that waits longest comes first, whatever its class. Heavy runs may take ``heavy`` places and, where there
are two or more, never the last one; so neither class can keep the other waiting for ever.
"""

import collections
import itertools
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


class Places(Generic[_Key]):
    """The places, and the runs that wait for one."""

    def __init__(self, *, running: int, heavy: int) -> None:
        self._queues: tuple[collections.deque[tuple[int, _Key]], ...] = (collections.deque(), collections.deque())
        self._tickets: dict[_Key, int] = {}
        self._numbers = itertools.count()
        self._taken = [0, 0]
        self.limit(running=running, heavy=heavy)

    def limit(self, *, running: int, heavy: int) -> None:
        """Set how many runs may be under way at a time, and how many heavy ones of them."""
        self._running, self._heavy = running, max(1, min(heavy, running - 1))

    @property
    def taken(self) -> int:
        """How many runs are under way."""
        return sum(self._taken)

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        return len(self._tickets)

    def queue(self, key: _Key, *, heavy: bool) -> None:
        """Let a run wait behind those that wait."""
        self._tickets[key] = next(self._numbers)
        self._queues[heavy].append((self._tickets[key], key))

    def withdraw(self, key: _Key) -> None:
        """Let a run wait no more."""
        self._tickets.pop(key, None)

    def has_next(self) -> bool:
        """Tell whether a run that waits may start."""
        return self._choose() is not None

    def take_next(self) -> _Key | None:
        """Give a place to the run that waits longest of those that may start; None when none may."""
        heavy = self._choose()
        if heavy is None:
            return None
        _, key = self._queues[heavy].popleft()
        del self._tickets[key]
        self._taken[heavy] += 1
        return key

    def free(self, *, heavy: bool) -> None:
        """Note that a run has ended."""
        self._taken[heavy] -= 1

    def reweigh(self, *, heavy: bool) -> None:
        """Note that a run under way is of this class now."""
        self._taken[heavy] += 1
        self._taken[not heavy] -= 1

    def _choose(self) -> bool | None:
        if self.taken >= self._running:
            return None
        heads = []
        for heavy, queue in enumerate(self._queues):
            while queue and self._tickets.get(queue[0][1]) != queue[0][0]:
                queue.popleft()
            if queue and not (heavy and self._taken[True] >= self._heavy):
                heads.append((queue[0][0], bool(heavy)))
        return min(heads)[1] if heads else None
