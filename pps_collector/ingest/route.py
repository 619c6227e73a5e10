"""``POST /v1/batches``, below the framework: raw ASGI and one decoder, since every record passes here."""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.status_codes import HTTP_405_METHOD_NOT_ALLOWED
from litestar.types import Receive, Scope, Send
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from pps_collector.clock import Clock
from pps_collector.errors import StoreError
from pps_collector.identity.enrolment import KnownAgent, find_agent
from pps_collector.identity.peer import STATE_KEY, Peer
from pps_collector.ingest.body import BodyCutError, BodyTooLargeError, answer, answer_early, header, read_body
from pps_collector.ingest.inflate import DamagedError, Encoding, TooLargeError, inflate
from pps_collector.ingest.writer import QueueFullError, Writer
from pps_wire.document import MAX_INTEGER
from pps_wire.errors import WireError
from pps_wire.report import MAX_BODY_BYTES, MAX_WIRE_BYTES, Ack, Batch, Problem, Refusal, parse_batch

_COMMIT_TIMEOUT_S: Final = 20
_RETRY_AFTER_S: Final = (5, 15)
_STATUS: Final = {
    Refusal.GAP: 409,
    Refusal.EPOCH_CONFLICT: 409,
    Refusal.WRONG_AGENT: 403,
    Refusal.UNREADABLE: 422,
    Refusal.TOO_LARGE: 413,
    Refusal.BUSY: 503,
    Refusal.NOT_ENROLLED: 401,
}

log = structlog.get_logger()


class RefusedError(Exception):
    """A request that gets a Problem instead of an acknowledgement."""

    def __init__(self, code: Refusal, detail: str, status: int | None = None, *, is_read: bool = False) -> None:
        super().__init__(detail)
        self.is_read = is_read
        self.problem = Problem(code=code, detail=detail[:1024])
        self.status = status or _STATUS[code]


@dataclass(frozen=True, slots=True)
class BatchRoute:
    """The handler with what it needs: the database to know agents by, the writer, the clock."""

    engine: Engine
    writer: Writer
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one batch and answer with Ack or Problem."""
        try:
            sender, encoding, wire = await self._receive(scope, receive)
        except BodyCutError:
            return
        except RefusedError as exc:
            if exc.is_read:
                await answer(send, *_render(exc))
            else:
                await answer_early(receive, send, *_render(exc))
            return
        try:
            result = await self._take(sender, encoding, wire)
        except RefusedError as exc:
            await answer(send, *_render(exc))
            return
        status = _STATUS[result.code] if isinstance(result, Problem) else 200
        await answer(send, status, msgspec.json.encode(result), {})

    async def _receive(self, scope: Scope, receive: Receive) -> tuple[KnownAgent, Encoding, bytes]:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
            raise RefusedError(Refusal.UNREADABLE, "this address takes POST only", 405)
        # First who, then what: nobody unknown makes us read or inflate anything.
        sender = await self._identify(scope)
        encoding = _read_encoding(header(scope, b"content-encoding"))
        try:
            return sender, encoding, await read_body(scope, receive, MAX_WIRE_BYTES)
        except BodyTooLargeError as exc:
            detail = f"more than {MAX_WIRE_BYTES} bytes; send smaller batches"
            raise RefusedError(Refusal.TOO_LARGE, detail, is_read=exc.is_read) from exc

    async def _take(self, sender: KnownAgent, encoding: Encoding, wire: bytes) -> Ack | Problem:
        batch, size_bytes = _read_batch(wire, encoding)
        if batch.agent != sender.id or batch.site != sender.site:
            detail = f"this certificate is of agent {sender.id} at {sender.site}, the batch of another"
            raise RefusedError(Refusal.WRONG_AGENT, detail)
        return await self._write(batch, size_bytes)

    async def _identify(self, scope: Scope) -> KnownAgent:
        peer = scope["state"].get(STATE_KEY)
        if not isinstance(peer, Peer):
            raise RefusedError(Refusal.NOT_ENROLLED, "no client certificate; enrol first (pps-agent enrol)")
        # The TLS layer looked when the connection began; a connection can outlive its certificate.
        if peer.expires_at <= self.clock():
            raise RefusedError(
                Refusal.NOT_ENROLLED, f"the client certificate expired on {peer.expires_at}; enrol again"
            )
        try:
            known = await asyncio.to_thread(find_agent, self.engine, peer)
        except SQLAlchemyError as exc:
            log.warning("store.failed", error=str(exc).splitlines()[0])
            raise RefusedError(Refusal.BUSY, "the database does not answer; try again later") from exc
        if known is None:
            raise RefusedError(Refusal.WRONG_AGENT, "no agent is enrolled with this certificate; enrol again")
        return known

    async def _write(self, batch: Batch, size_bytes: int) -> Ack | Problem:
        try:
            waiting = self.writer.submit(batch, size_bytes)
        except QueueFullError as exc:
            raise RefusedError(Refusal.BUSY, "too many batches wait to be written; try again later", 429) from exc
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                # Shielded: the commit goes on when we stop waiting, and a resend then gets its answer.
                return await asyncio.shield(asyncio.wrap_future(waiting))
        except TimeoutError as exc:
            detail = f"not written within {_COMMIT_TIMEOUT_S} s; send it again later"
            raise RefusedError(Refusal.BUSY, detail) from exc
        except StoreError as exc:
            raise RefusedError(Refusal.BUSY, str(exc)) from exc


def _read_encoding(text: str) -> Encoding:
    try:
        return Encoding(text.strip().lower() or "identity")
    except ValueError as exc:
        known = ", ".join(one.value for one in Encoding)
        raise RefusedError(Refusal.UNREADABLE, f"content-encoding {text[:40]!r}; use one of {known}", 415) from exc


def _read_batch(wire: bytes, encoding: Encoding) -> tuple[Batch, int]:
    try:
        plain = inflate(wire, encoding, MAX_BODY_BYTES)
        batch = parse_batch(plain)
    except TooLargeError as exc:
        raise RefusedError(Refusal.TOO_LARGE, f"{exc}; send smaller batches") from exc
    except (DamagedError, WireError) as exc:
        raise RefusedError(Refusal.UNREADABLE, str(exc)) from exc
    if batch.last_seq > MAX_INTEGER:
        raise RefusedError(Refusal.UNREADABLE, f"numbers beyond {MAX_INTEGER} are not taken; begin a new epoch")
    return batch, len(plain)


def _render(refused: RefusedError) -> tuple[int, bytes, dict[str, str]]:
    problem = refused.problem
    log.warning("batch.refused", code=problem.code.value, detail=problem.detail, status=refused.status)
    headers = {}
    if problem.code is Refusal.BUSY:
        # Spread out, or all agents come back in the same second.
        headers["retry-after"] = str(random.randint(*_RETRY_AFTER_S))  # noqa: S311  # spreading, not secrecy
    if refused.status == HTTP_405_METHOD_NOT_ALLOWED:
        headers["allow"] = "POST"
    return refused.status, msgspec.json.encode(problem), headers
