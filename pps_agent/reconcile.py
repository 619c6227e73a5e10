"""Rounds: look, wish, plan, act, look again, until nothing is left to do; then report.

Time stands still within a round: what comes due while it runs (a probe slower than its retry time)
waits for the next one, so that a fixpoint exists. Whatever of this machine is broken, tags that must
not stand are removed: that needs metadata and tag lists only.
"""

import contextlib
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pps_agent import __version__
from pps_agent.announcement import find_changes
from pps_agent.errors import AgentError, BusyError, SiteError
from pps_agent.execute import untag
from pps_agent.files import hold_lock
from pps_agent.identity import load_identity
from pps_agent.jobs import Sent
from pps_agent.log import Log
from pps_agent.news import log_outcome, untag_news
from pps_agent.outbox import Outbox
from pps_agent.ownership import ROUND_LOCK, OwnedError, hold_site
from pps_agent.plan import listed_tags
from pps_agent.probes.agenda import find_watched
from pps_agent.records import describe_round
from pps_agent.round import EVERYTHING, Round, Scope, expect_published, find_listed, limit_steps, since_last_tag
from pps_agent.sight import Look, Sight
from pps_agent.site import Site
from pps_agent.state import Action, Outcome, ReleaseSet, RemoveTags, Unknown
from pps_agent.tags.areas import PREPRODUCTION, PRODUCTION, find_areas
from pps_agent.tags.change import Request
from pps_agent.tags.errors import TagError
from pps_wire.errors import WireError
from pps_wire.names import Vo
from pps_wire.report import Body, LogHead, RoundBody


def run_round(site: Site, log: Log, scope: Scope = EVERYTHING, *, take_over: bool = False) -> Round:
    """Run one round to its fixpoint and report it; one round at a time per state directory and per store.

    ``scope`` leaves out actions a person did not ask for, or everything that needs the repository and
    the collector: then the metadata of the last round is taken and the report waits in the outbox.
    With ``take_over`` the store and tags of another agent become this one's. Raises: BusyError when another
    round is under way, OwnedError when another agent acts here.
    """
    started, number = time.monotonic(), uuid.uuid4().hex[:12]
    log = log.bind(round=number)
    with contextlib.ExitStack() as stack:
        try:
            faults = _hold(site, stack, take_over=take_over)
        except OwnedError as exc:
            if exc.is_self:  # a person has to say what was lost, but what is withdrawn cannot wait for it
                untag_news(site, None, log)
            raise
        look, trust_error = _look_out(site, log, offline=scope.offline)
        faults += _prepare(site, look)
        outcomes, unsettled, single_user = _act(site, look, log, scope)
        before = site.see(look, datetime.now(UTC))
        faults += (*_mark_tags(site, before), *_keep_ldif(site))
        expected = expect_published(before, outcomes, site.settings.infosys.wait_s if scope.waits else 0)
        published = site.look_published(expected)
        if published.delay_s is not None:
            faults += _note_propagation(site, published.delay_s)
        waited_s = since_last_tag(outcomes, datetime.now(UTC))
        sight = site.see(replace(look, published=published.tags), datetime.now(UTC))
        faults += (*unsettled, *sight.blind_spots())
        if isinstance(sight.memory, Unknown):
            faults += (SiteError(sight.memory.reason),)
        for error in faults:
            log.error("site.unfit", error=str(error))
        result = Round(
            id=number,
            offered=look.offered,
            outcomes=outcomes,
            standings=sight.standings(),
            withheld=sight.withheld(),
            reason_withheld=sight.reason_withheld(),
            trust=sight.describe_trust(),
            trust_error=trust_error,
            site_errors=faults,
            report_error=None,
            sent=Sent(),
            waiting=0,
            infosys_wait_s=waited_s,
            took_s=time.monotonic() - started,
            single_user=single_user,
            watched=find_watched(sight.desired, sight.observed),
            listed=find_listed(sight),
            expected=expected,
        )
        return _conclude(site, sight, result, log, send=not scope.offline)


def _hold(site: Site, stack: contextlib.ExitStack, *, take_over: bool) -> tuple[SiteError, ...]:
    """Keep other rounds off. A store that cannot be marked is told and holds up nothing else.

    Raises: BusyError, OwnedError.
    """
    if site.fault is not None:
        return ()  # told by the sight
    faults: tuple[SiteError, ...] = ()
    if site.settings.policy.mode != "observe":
        try:
            site.store.ensure()
            stack.enter_context(hold_site(site.settings, site.database, take_over=take_over))
            return ()
        except (BusyError, OwnedError):
            raise
        except SiteError as exc:
            faults = (exc,)
    stack.enter_context(hold_lock(site.settings.paths.state / ROUND_LOCK, "is running a round"))
    return faults


def _look_out(site: Site, log: Log, *, offline: bool) -> tuple[Look, AgentError | WireError | None]:
    """Make the costly looks; give them, and the error that kept newer metadata away."""
    offered, error = site.jobs.refresh(offline=offline)
    if error is not None:
        log.warning("metadata.kept", error=str(error))
    look = site.look_out(offered)
    for problem in () if isinstance(look.captured, Unknown) else look.captured.problems:
        log.warning("profile.skipped", problem=problem)
    return look, error


def _prepare(site: Site, look: Look) -> tuple[SiteError, ...]:
    """Make the store ready and remember what was seen; what fails of it is told and holds up nothing else."""
    now = datetime.now(UTC)
    faults: list[SiteError] = []

    def attempt(step: Callable[[], object]) -> None:
        try:
            step()
        except SiteError as exc:
            faults.append(exc)

    if site.fault is not None:
        return ()  # told by the sight
    if isinstance(look.offered, ReleaseSet) and now < look.offered.expires_at:
        offers = look.offered.offers
        attempt(lambda: site.history.note_offers(offers, now))
    versions = {key: seen for key, seen in look.production.items() if not isinstance(seen, Unknown)}
    if versions:
        attempt(lambda: site.history.note_production(versions, now))
    attempt(site.history.recorded.sweep)
    if site.settings.policy.mode != "observe":
        attempt(lambda: site.store.sweep(keep=look.offered_ids()))
    return tuple(faults)


def _note_served(site: Site, sight: Sight) -> None:
    """Remember the lists that hold tags of ours, also those written before this was remembered."""
    if isinstance(sight.memory, Unknown) or sight.desired.observing:
        return
    listed = {
        (subcluster, vo)
        for wish in sight.desired.wishes
        for subcluster in sight.desired.subclusters
        for vo, _ in listed_tags(wish, sight.observed, subcluster)
    }
    if listed - sight.memory.served:
        site.history.note_served(listed)


def _mark_tags(site: Site, sight: Sight) -> tuple[SiteError, ...]:
    """Write down what is known of the releases' tags, for who publishes it; what is not known stays as it is."""
    if sight.desired.observing or site.fault is not None:
        return ()
    faults = []
    for vo, entries in find_changes(sight.desired, sight.observed, datetime.now(UTC)).items():
        try:
            site.tags.set_lives(vo, entries, request=Request(person=False))
        except TagError as exc:  # one VO's ledger holds up no other's
            faults.append(SiteError(str(exc)))
    return tuple(faults)


def _note_propagation(site: Site, delay_s: float) -> tuple[SiteError, ...]:
    try:
        site.history.note_propagation(delay_s, datetime.now(UTC))
    except SiteError as exc:
        return (exc,)
    return ()


def _find_propagation(site: Site) -> tuple[float, datetime] | tuple[None, None]:
    try:
        return site.history.propagation() or (None, None)
    except SiteError:
        return None, None  # told with everything else that state.db hides


def _keep_ldif(site: Site) -> tuple[SiteError, ...]:
    """Bring the files that BDIIs read by themselves up to date; what keeps newer tags from them is told."""
    if site.settings.policy.mode == "observe" or not any(area.ldif for area in find_areas(site.settings)):
        return ()
    try:
        return tuple(SiteError(problem) for problem in site.jobs.keep_ldif())
    except SiteError as exc:
        return (exc,)


def _act(site: Site, look: Look, log: Log, scope: Scope) -> tuple[tuple[Outcome, ...], tuple[SiteError, ...], bool]:
    """Act until the plan is empty; without state.db only untagging is possible, and planned."""
    if site.fault is not None:
        return (*_converge(site, look, lambda action: _untag_only(site, action), log, scope), False)
    tags = site.all_tags(site.recall())
    with contextlib.closing(site.executor(look.captured, look.offered, tags)) as executor:
        outcomes, unsettled = _converge(site, look, executor.execute, log, scope, executor.begin)
        for fault in executor.probe_faults():
            log.warning("probe.refused", reason=fault)
        return outcomes, unsettled, executor.single_user


def _untag_only(site: Site, action: Action) -> Outcome:
    if not isinstance(action, RemoveTags):
        raise AssertionError(f"planned without state.db: {action}")
    return untag(site.tags, action)


def _converge(
    site: Site,
    look: Look,
    act: Callable[[Action], Outcome],
    log: Log,
    scope: Scope,
    begin: Callable[[Sequence[Action]], None] = lambda _: None,
) -> tuple[tuple[Outcome, ...], tuple[SiteError, ...]]:
    """Act until the plan is empty. A failed action is not tried twice in a round.

    ``begin`` is told a step's actions before the first of them, so that what takes long can go side by side.
    """
    outcomes: list[Outcome] = []
    failed: set[Action] = set()
    at = datetime.now(UTC)
    for step in range(limit_steps(look)):
        sight = site.see(look, at)
        if step == 0:
            with contextlib.suppress(SiteError):  # noted again with each tag that is added
                _note_served(site, sight)
        actions = [action for action in sight.plan() if action not in failed and scope.includes(action)]
        if not actions:
            return tuple(outcomes), ()
        begin(actions)
        for action in actions:
            outcome = act(action)
            outcomes.append(outcome)
            log_outcome(log, outcome)
            if outcome.error:
                failed.add(action)
    unsettled = f"no fixpoint after {limit_steps(look)} steps; please report this with `pps-agent plan`"
    return tuple(outcomes), (SiteError(unsettled),)


def _conclude(site: Site, sight: Sight, result: Round, log: Log, *, send: bool) -> Round:
    """Report the round, and end it with its one line."""
    failed = sum(1 for outcome in result.outcomes if outcome.error)
    shown_after_s, shown_at = _find_propagation(site)
    summary = RoundBody(
        round=result.id,
        trust=result.trust[:1024],
        done=len(result.outcomes) - failed,
        failed=failed,
        took_s=result.took_s,
        agent_version=__version__,
        single_user=result.single_user,
        paused=sight.desired.paused,
        observing=sight.desired.observing,
        group=site.settings.group.name,
        tag_logs=_find_log_heads(site, PRODUCTION),
        preproduction_tag_logs=_find_log_heads(site, PREPRODUCTION),
        shown_after_s=shown_after_s,
        shown_at=shown_at,
    )
    withheld = result.withheld if sight.desired.observing else ()
    bodies = describe_round(summary, result.outcomes, result.standings, socket.gethostname(), withheld)
    sent, waiting, error = _report(site, tuple(bodies), sight.at, send=send)
    if error is not None:
        log.warning("report.delayed", error=str(error), waiting=waiting)
    log.info(
        "round.ended",
        done=summary.done,
        failed=failed,
        withheld=len(result.withheld),
        trust=result.trust,
        took_s=round(result.took_s, 2),
        waiting=waiting,
    )
    return replace(result, sent=sent, waiting=waiting, report_error=error)


def _find_log_heads(site: Site, name: str) -> dict[Vo, LogHead]:
    """Give the ends of an area's logs of tags, so that a rewritten one is noticed elsewhere; those that can be read."""
    heads: dict[Vo, LogHead] = {}
    for store in (area.open() for area in find_areas(site.settings) if area.name == name):
        with contextlib.suppress(TagError):
            for vo in store.known_vos():
                with contextlib.suppress(TagError):
                    head = store.ledger(vo).head()
                    heads[vo] = LogHead(lines=head.seq, digest=head.digest)
    return heads


def _report(site: Site, bodies: tuple[Body, ...], at: datetime, *, send: bool) -> tuple[Sent, int, AgentError | None]:
    try:
        outbox = Outbox(site.database, "", site.settings.site.name)
        outbox.put(bodies, at)  # before anything that may fail: a round done is a round told
    except SiteError as exc:
        return Sent(), 0, SiteError(f"{len(bodies)} results of this round could not be recorded and are lost: {exc}")
    try:
        identity = load_identity(site.settings)
        if not send or identity is None or not site.settings.collector.url:
            return Sent(), outbox.waiting(), None
        sent = site.jobs.report()
        return sent, outbox.waiting(), None
    except AgentError as exc:
        return Sent(), outbox.waiting(), exc
