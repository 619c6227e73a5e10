"""The collector's requests: fetched by long polling, each carried out at most once, its outcome told.

An id is recorded, durably, before anything is done; what was begun and never ended is told as lost and not tried
again. So a request is carried out once or never, whatever is killed or answered twice.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pps_agent.errors import FetchError
from pps_agent.identity import Identity
from pps_agent.outbox import Outbox
from pps_agent.requests import KEPT_FOR, find_objection
from pps_agent.settings import Settings
from pps_wire.errors import WireError
from pps_wire.report import Body, RequestBody, RequestState
from pps_wire.request import Inbox, Request, open_request, parse_inbox

WAIT_S: Final = 30
"""How long the collector may hold an answer back until there is something to tell."""
MAX_ANSWER_BYTES: Final = 4 * 1024**2
_BEGUN: Final = "begun"

Keys = Mapping[str, Ed25519PublicKey]
Perform = Callable[[Request], tuple[RequestState, str, tuple[Body, ...]]]
"""Carries out one accepted request: what became of it, why, and further records."""


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of one envelope; ``request`` is None where it could not even be opened."""

    request: Request | None
    state: RequestState
    reason: str


class Requests:
    """What is remembered of requests in state.db."""

    def __init__(self, connection: sqlite3.Connection, settings: Settings) -> None:
        self._db = connection
        self._settings = settings
        self._outbox = Outbox(connection, "", settings.site.name)

    def settle_lost(self, now: datetime) -> int:
        """Tell as lost what was begun by an agent that is no more; give how many those were."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            begun = [row["id"] for row in self._db.execute("SELECT id FROM request WHERE outcome = ?", (_BEGUN,))]
        for request in begun:
            self._end(request, RequestState.LOST, "the agent ended while it carried this out", (), now)
        return len(begun)

    def handle(self, envelope: bytes, keys: Keys, perform: Perform, now: datetime) -> Handled:
        """Open one envelope, judge it, and carry it out or say why not; the outcome is on its way to the collector.

        An envelope that no listed key signed is told to nobody: whoever wrote it is not the collector.
        """
        try:
            request = open_request(envelope, keys)
        except WireError as exc:
            return Handled(None, RequestState.REFUSED, exc.problem)
        allowed = self._settings.probes.requests
        known = self._is_known(request.id)
        objection = find_objection(request, self._settings.site.name, allowed, known=known, now=now)
        if known:
            return Handled(request, RequestState.REFUSED, objection)
        if objection:
            self._note(request, RequestState.REFUSED.value, now)
            self._end(request.id, RequestState.REFUSED, objection, (), now)
            return Handled(request, RequestState.REFUSED, objection)
        if not self._note(request, _BEGUN, now):
            return Handled(request, RequestState.REFUSED, "another process of this agent has it already")
        state, reason, records = perform(request)
        self._end(request.id, state, reason, records, datetime.now(UTC))
        return Handled(request, state, reason)

    def forget_old(self, now: datetime) -> None:
        """Drop ids whose deadline is so long past that they are refused for that alone."""
        self._db.execute("DELETE FROM request WHERE deadline < ? AND outcome <> ?", (_text(now - KEPT_FOR), _BEGUN))

    def _is_known(self, request: str) -> bool:
        return self._db.execute("SELECT 1 FROM request WHERE id = ?", (request,)).fetchone() is not None

    def _note(self, request: Request, outcome: str, now: datetime) -> bool:
        """Record an id; False when it is there already."""
        row = (request.id, request.kind.value, _text(now), _text(request.deadline), outcome)
        return self._db.execute("INSERT OR IGNORE INTO request VALUES (?, ?, ?, ?, ?)", row).rowcount == 1

    def _end(self, request: str, state: RequestState, reason: str, records: tuple[Body, ...], now: datetime) -> None:
        told = RequestBody(request=request, state=state, reason=reason[:1024], group=self._settings.group.name)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._outbox.add((*records, told), now)
            self._db.execute("UPDATE request SET outcome = ? WHERE id = ?", (state.value, request))


def fetch_requests(identity: Identity, settings: Settings, cursor: str, wait_s: int = WAIT_S) -> Inbox:
    """Ask the collector what it wants, waiting up to ``wait_s`` for something new after ``cursor``.

    Raises: FetchError when it does not answer or answers something else.
    """
    collector = settings.collector
    url = f"{collector.url.rstrip('/')}/v1/requests"
    try:
        with requests.get(
            url,
            params={"wait_s": str(wait_s), "cursor": cursor},
            cert=(str(identity.certificate), str(identity.key)),
            verify=str(collector.ca or identity.ca),
            timeout=(collector.timeout_s, wait_s + collector.timeout_s),
            allow_redirects=False,
            stream=True,
        ) as answer:
            body = _read_bounded(answer, time.monotonic() + wait_s + 2 * collector.timeout_s)
    except (requests.RequestException, OSError) as exc:
        raise FetchError(f"{url}: {exc}; requests of the collector wait") from exc
    if answer.status_code != requests.codes.ok:
        permanent = 400 <= answer.status_code < 500 and answer.status_code not in (408, 429)
        raise FetchError(f"{url} answered HTTP {answer.status_code}; requests wait", permanent=permanent)
    try:
        return parse_inbox(body)
    except WireError as exc:
        raise FetchError(f"{url}: {exc}; ask the collector's operator") from exc


def _read_bounded(answer: requests.Response, deadline: float) -> bytes:
    body = bytearray()
    for chunk in answer.iter_content(64 * 1024):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise FetchError(f"{answer.url}: more than {MAX_ANSWER_BYTES} bytes; ask the collector's operator")
        if time.monotonic() > deadline:
            raise FetchError(f"{answer.url}: the answer drips; requests wait")
    return bytes(body)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
