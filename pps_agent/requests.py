"""May this site do what a signed request asks? Pure.

A request that got here carries a signature of a key that the role ``fleet`` lists. Everything else is judged
here: whose it is, when it may be carried out, what the site's policy allows, and that it was never seen before.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from pps_wire.names import Site
from pps_wire.request import Request, RequestKind

MAX_LIFE: Final = timedelta(days=1)
"""Longest time from ``not_before`` to ``deadline``: ids are remembered as long, so none can be played again later."""
KEPT_FOR: Final = 2 * MAX_LIFE
"""How long an id is remembered after its deadline, so that a clock set back revives nothing."""
CARRIED_OUT: Final = frozenset({RequestKind.RUN_PROBE})
"""What this agent knows how to do; the site's policy may allow less, never more."""


def find_objection(request: Request, site: Site, allowed: Collection[str], *, known: bool, now: datetime) -> str:
    """Say why a request is refused, with what could be done about it; empty when it is to be carried out.

    ``known``: its id was seen before. ``allowed`` are the kinds of ``probes.requests``.
    """
    if known:
        return "this request was seen before: each is carried out once; make a new one"
    if request.site != site:
        return f"it is for site {request.site}, this one is {site}"
    if request.kind not in CARRIED_OUT:
        return f"this agent does not carry out {request.kind.value} requests"
    if request.kind.value not in allowed:
        return (
            f"this site's policy does not allow {request.kind.value}: its administrator may add it to probes.requests"
        )
    if request.deadline <= request.not_before or request.deadline - request.not_before > MAX_LIFE:
        return f"its deadline must be at most {MAX_LIFE.days} day after the time from which it holds"
    if now < request.not_before:
        return f"it holds from {request.not_before.isoformat()} on: check the clocks of both sides"
    if now >= request.deadline:
        return f"its deadline {request.deadline.isoformat()} has passed"
    if request.probe is None:
        return "it names no probe"
    return ""
