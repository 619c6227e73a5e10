"""The one writer of a process: takes all waiting batches into one transaction (group commit).

A flush to disk costs the same for one batch as for fifty, so what waits together commits together.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from pps_collector.clock import Clock
from pps_collector.errors import StoreError
from pps_collector.ingest.ledger import store_batches
from pps_collector.store.database import writing
from pps_wire.report import Ack, Batch, Problem

_MAX_GROUP: Final = 64
_STORE_AWAY = "the database does not take records; they stay in the outbox and go with the next try"

log = structlog.get_logger()


class QueueFullError(Exception):
    """No room for another batch; the agent should come back later."""


@dataclass(slots=True, eq=False)
class _Waiting:
    batch: Batch
    size_bytes: int
    answer: "Future[Ack | Problem]" = field(default_factory=Future)


class Writer:
    """A bounded queue of batches and the thread that commits them."""

    def __init__(self, engine: Engine, clock: Clock, max_bytes: int) -> None:
        self._engine = writing(engine)
        self._clock = clock
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether batches that are submitted will be written."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def submit(self, batch: Batch, size_bytes: int) -> "Future[Ack | Problem]":
        """Queue a batch of this size in memory; its future ends after the commit, or with StoreError.

        Raises: QueueFullError when too much waits already, or the writer is stopping.
        """
        waiting = _Waiting(batch, size_bytes)
        with self._changed:
            # An empty queue takes any batch: one larger than the queue would else be refused for ever.
            is_full = bool(self._waiting) and self._waiting_bytes + size_bytes > self._max_bytes
            if self._stopping or is_full:
                raise QueueFullError
            self._waiting.append(waiting)
            self._waiting_bytes += size_bytes
            self._changed.notify()
        return waiting.answer

    def stop(self) -> None:
        """Take nothing more, write what waits, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Waiting]:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_GROUP))]
            self._waiting_bytes -= sum(one.size_bytes for one in group)
        for one in group:
            one.answer.set_running_or_notify_cancel()  # from here on nobody can cancel it under us
        return group

    def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            with self._engine.begin() as connection:
                answers = store_batches(connection, [one.batch for one in group], self._clock())
        except (OperationalError, InterfaceError) as exc:
            log.warning("store.failed", error=str(exc).splitlines()[0], batches=len(group))
            _fail(group, exc)
        except Exception as exc:  # noqa: BLE001  # the edge of the loop: one batch must not stop all others
            self._commit_singly(group, exc)
        else:
            for one, answer in zip(group, answers, strict=True):
                one.answer.set_result(answer)
            _log_group(group, answers)

    def _commit_singly(self, group: Sequence[_Waiting], exc: Exception) -> None:
        # One batch that the database refuses must not hold up the others that came with it.
        if len(group) > 1:
            for one in group:
                self._commit([one])
            return
        batch = group[0].batch
        log.error("batch.failed", site=batch.site, agent=batch.agent, first_seq=batch.first_seq, exc_info=exc)
        _fail(group, exc)


def _fail(group: Sequence[_Waiting], cause: Exception) -> None:
    for one in group:
        error = StoreError(_STORE_AWAY)
        error.__cause__ = cause
        one.answer.set_exception(error)


def _log_group(group: Sequence[_Waiting], answers: Sequence[Ack | Problem]) -> None:
    for one, answer in zip(group, answers, strict=True):
        facts = {"site": one.batch.site, "agent": one.batch.agent, "lane": one.batch.lane.value}
        match answer:
            case Ack():
                log.info("batch.stored", **facts, ack=answer.ack, quarantined=answer.quarantined)
            case Problem():
                log.warning("batch.refused", **facts, code=answer.code.value, detail=answer.detail)
