"""``pps-agent job requests``: the collector's requests, one after the other, for as long as the agent lives.

A child of its own: it needs the TUF keys, TLS and a probe runner, none of which the daemon should hold.
"""

import random
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from pps_agent.errors import AgentError, SiteError
from pps_agent.identity import Identity, load_identity
from pps_agent.inbox import WAIT_S, Handled, Requests, fetch_requests
from pps_agent.probing import probe_now
from pps_agent.records import describe_results
from pps_agent.site import Site
from pps_agent.trust import Trust
from pps_wire.errors import WireError
from pps_wire.report import Body, RequestState
from pps_wire.request import Request

MIN_LOOK_S: Final = 1.0
"""Shortest time from one look to the next, whatever the collector answers at once."""


class RequestService:
    """Looks for requests, carries them out and tells ``say`` of each."""

    def __init__(self, site: Site, trust: Trust, say: Callable[[Handled], None]) -> None:
        self._site, self._trust, self._say = site, trust, say
        self._requests = Requests(site.database, site.settings)
        self._cursor = ""

    def serve(self, wait: Callable[[float], object] = time.sleep) -> None:
        """Look for ever. What keeps a look from its end is told on its way to the next one. Raises: SiteError."""
        self._requests.settle_lost(datetime.now(UTC))
        pauses_s = pause_lengths_s()
        while True:
            began = time.monotonic()
            try:
                self.look(WAIT_S)
                pauses_s = pause_lengths_s()
                wait(max(0.0, MIN_LOOK_S - (time.monotonic() - began)))
            except AgentError as exc:
                self._say(Handled(None, RequestState.FAILED, str(exc)))
                wait(random.uniform(0.5, 1.0) * next(pauses_s))  # noqa: S311 - spread, no secret

    def look(self, wait_s: int) -> None:
        """Look once and carry out what is there. Raises: AgentError when it cannot look."""
        inbox = fetch_requests(self._identity(), self._site.settings, self._cursor, wait_s)
        if inbox.requests:
            now = datetime.now(UTC)
            keys = self._trust.load_fleet_keys(now)
            for envelope in inbox.requests:
                self._say(self._requests.handle(bytes(envelope), keys, self._perform, datetime.now(UTC)))
            self._requests.forget_old(now)
        self._cursor = inbox.cursor

    def _identity(self) -> Identity:
        identity = load_identity(self._site.settings)
        if identity is None:
            raise SiteError("this site is not enrolled, so nobody can ask it: pps-agent enrol --token-file FILE")
        return identity

    def _perform(self, request: Request) -> tuple[RequestState, str, tuple[Body, ...]]:
        """Run the probe that was asked for; a fault of this machine or of the arguments is the outcome."""
        settings = self._site.settings
        try:
            left_s = int((request.deadline - datetime.now(UTC)).total_seconds())
            result = probe_now(self._site, request.probe or "", request.release, request.arguments, left_s)
        except (AgentError, WireError) as exc:
            return RequestState.FAILED, str(exc), ()
        bodies = tuple(describe_results((result,), socket.gethostname(), settings.group.name))
        return RequestState.DONE, f"{result.status.name}: {result.summary}", bodies


def pause_lengths_s(shortest_s: float = 5.0, longest_s: float = 300.0) -> Iterator[float]:
    """Give how long to wait, in seconds, after each failed look in a row."""
    pause_s = shortest_s
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, longest_s)
