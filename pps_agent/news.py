"""Untagging between rounds, and beside one that takes long: what must not be announced any more goes at once."""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime

from pps_agent.errors import SiteError
from pps_agent.execute import untag
from pps_agent.jobs import Expected
from pps_agent.log import Log
from pps_agent.outbox import Outbox
from pps_agent.ownership import OwnedError, check_owner
from pps_agent.plan import plan
from pps_agent.policy import find_news
from pps_agent.records import describe_untagging
from pps_agent.round import expect_gone
from pps_agent.sight import Look
from pps_agent.site import Site
from pps_agent.state import Outcome, ReleaseSet, RemoveTags, Stance, Unknown

News = frozenset[tuple[str, ...]]
"""What the last look at the repository said; see ``policy.find_news``."""


def untag_news(site: Site, known: News | None, log: Log) -> tuple[News | None, Expected]:
    """Look for news and untag at once what they say must not stand.

    Gives the news for the next call, and what information systems should show no more. ``known`` is what the last
    round or call saw. Raises: OwnedError when another agent acts here.
    """
    certain_only = _has_lost_its_mark(site)
    offered, error = site.jobs.refresh()
    if error is not None:
        log.warning("metadata.kept", error=str(error))
    news = find_news(offered, site.settings.repository.trust_grace_s, datetime.now(UTC))
    if news is None or news == known:
        return known, Expected()
    return news, _untag(site, offered, log, certain_only=certain_only)


def untag_condemned(site: Site, log: Log) -> Expected:
    """Untag what must not stand by the last good metadata and the verdicts of now. Asks no server.

    Gives what information systems should show no more. Raises: OwnedError when another agent acts here.
    """
    certain_only = _has_lost_its_mark(site)
    offered, _ = site.jobs.refresh(offline=True)
    return _untag(site, offered, log, certain_only=certain_only)


def _untag(site: Site, offered: ReleaseSet | Unknown, log: Log, *, certain_only: bool) -> Expected:
    """Untag what must not stand. An agent that lost its state.db untags only what is unwanted for all it can know."""
    now = datetime.now(UTC)
    aside = Unknown("not looked at between rounds")
    sight = site.see(Look(offered, aside, None, dict.fromkeys(site.settings.production, aside)), now)
    tags = site.all_tags(sight.memory)
    doomed = plan(replace(sight.desired, paused=True), sight.observed, now)
    unwanted = {wish.release for wish in sight.desired.wishes if wish.stance is Stance.UNWANTED}
    outcomes = tuple(
        untag(tags, action)
        for action in doomed
        if isinstance(action, RemoveTags) and (action.release in unwanted or not certain_only)
    )
    for outcome in outcomes:
        log_outcome(log, outcome)
    if outcomes:
        with contextlib.suppress(SiteError):  # the round that follows says what is wrong with state.db
            told = tuple(describe_untagging(outcomes, site.settings.group.name))
            Outbox(site.database, "", site.settings.site.name).put(told, now)
    return expect_gone(outcomes)


def log_outcome(log: Log, outcome: Outcome) -> None:
    """Tell what came of one action."""
    action = outcome.action
    target = getattr(action, "release", None) or getattr(action, "component", "")
    name = type(action).__name__.lower()
    if outcome.error:
        log.error("action.failed", action=name, target=target, error=outcome.error)
    else:
        log.info("action.done", action=name, target=target, took_s=round(outcome.took_s, 3), facts=dict(outcome.facts))


def _has_lost_its_mark(site: Site) -> bool:
    """Tell whether the marks here are this agent's own of a former state.db. Raises: OwnedError for another's."""
    if site.fault is not None:
        return False  # nothing is known of it, and untagging is all that is left
    try:
        check_owner(site.settings, site.database)
    except OwnedError as exc:
        if exc.is_self:
            return True
        raise
    return False
