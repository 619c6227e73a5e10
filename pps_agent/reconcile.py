"""One round: look, wish, plan, act, look again, until nothing is left to do; then report.

Time stands still within a round: what comes due while it runs (a probe slower than its retry time)
waits for the next one, so that a fixpoint exists.
"""

import contextlib
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pps_agent import __version__
from pps_agent.database import open_database
from pps_agent.environment.capture import capture
from pps_agent.environment.values import Captured
from pps_agent.errors import AgentError, SiteError, exit_code_of, worst_exit_code
from pps_agent.execute import Executor
from pps_agent.files import hold_lock
from pps_agent.history import History
from pps_agent.identity import load_identity
from pps_agent.jobs import Expected, Jobs
from pps_agent.log import Log
from pps_agent.node import observe_node
from pps_agent.observe import Published, observe
from pps_agent.outbox import Outbox
from pps_agent.plan import LONGEST_CHAIN, listed_tags, plan
from pps_agent.policy import desire
from pps_agent.records import describe_round
from pps_agent.report import Sent, send_outbox
from pps_agent.settings import Settings
from pps_agent.standing import Standing, find_standings
from pps_agent.state import (
    Action,
    AddTags,
    Desired,
    Observed,
    Outcome,
    ReleaseSet,
    RemoveTags,
    Unknown,
)
from pps_agent.store import Store
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId
from pps_wire.report import Body, RoundBody


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything one look gave, and what the site wants in view of it."""

    offered: ReleaseSet | Unknown
    desired: Desired
    observed: Observed
    at: datetime

    def plan(self) -> tuple[Action, ...]:
        """Give the actions to do now."""
        return plan(self.desired, self.observed, self.at)

    def standings(self) -> tuple[Standing, ...]:
        """Give where each release stands."""
        return find_standings(self.desired, self.observed, self.at)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. Errors that are no action's are told apart: of trust, of this site, of reporting."""

    id: str
    outcomes: tuple[Outcome, ...]
    standings: tuple[Standing, ...]
    trust: str
    trust_error: AgentError | WireError | None
    site_errors: tuple[SiteError, ...]
    report_error: AgentError | None
    sent: Sent
    waiting: int
    infosys_wait_s: float
    took_s: float
    single_user: bool

    def exit_code(self) -> int:
        """Give the round's one exit code: the first of 78, 4, 6, 7, 69, 75, 1 that occurred, else 0."""
        codes = [outcome.exit_code for outcome in self.outcomes]
        return worst_exit_code(codes + [exit_code_of(error) for error in self.errors()])

    def errors(self) -> list[AgentError | WireError]:
        """Give the errors that are no action's."""
        return [error for error in (self.trust_error, *self.site_errors, self.report_error) if error is not None]


class Site:
    """The site as one settings file describes it: opens its parts and runs rounds over them."""

    def __init__(self, settings: Settings, config: Path) -> None:
        self.settings = settings
        self.store = Store(settings.paths.store)
        self.tags = TagStore(settings.paths.tags, settings.site.subclusters)
        self.jobs = Jobs(config)
        self.database = open_database(settings.paths.state / "state.db")
        self.history = History(self.database)

    def close(self) -> None:
        """Close state.db."""
        self.database.close()

    def look(self, *, offline: bool) -> Sight:
        """Look at everything once and change nothing (but the kept metadata, when not ``offline``)."""
        offered, _ = self.jobs.refresh(offline=offline)
        captured = capture(self.settings.environment.profile, self.settings.environment.timeout_s)
        published = self._look_published(Expected())
        return self._see(offered, captured, published, datetime.now(UTC))

    def run_round(self, log: Log) -> Round:
        """Run one round to its fixpoint and report it; one round at a time per state directory.

        Raises: SiteError when another round is under way, or store or state.db cannot be used.
        """
        started = time.monotonic()
        number = uuid.uuid4().hex[:12]
        log = log.bind(round=number)
        self.store.ensure()
        with hold_lock(self.settings.paths.state / "round.lock", "is running a round"):
            offered, trust_error = self.jobs.refresh()
            if trust_error is not None:
                log.warning("metadata.kept", error=str(trust_error))
            self.store.sweep(keep=_offered_ids(offered))
            captured = capture(self.settings.environment.profile, self.settings.environment.timeout_s)
            for problem in () if isinstance(captured, Unknown) else captured.problems:
                log.warning("profile.skipped", problem=problem)
            published = self._look_published(Expected())
            executor = Executor(self.settings, self.store, self.tags, self.history, self.jobs, captured, offered)
            with contextlib.closing(executor):
                outcomes, site_errors = self._converge(executor, offered, captured, published, log)
            before = self._see(offered, captured, published, datetime.now(UTC))
            published = self._look_published(_expect(before, outcomes, self.settings.infosys.wait_s))
            waited_s = _since_last_tag(outcomes)
            sight = self._see(offered, captured, published, datetime.now(UTC))
            site_errors += _find_blind_spots(sight.observed)
            for error in site_errors:
                log.error("site.unfit", error=str(error))
            return self._conclude(
                sight, outcomes, trust_error, site_errors, waited_s, started, executor.single_user, number, log
            )

    def _converge(
        self,
        executor: Executor,
        offered: ReleaseSet | Unknown,
        captured: Captured | Unknown,
        published: Published,
        log: Log,
    ) -> tuple[tuple[Outcome, ...], tuple[SiteError, ...]]:
        """Act until the plan is empty. A failed action is not tried twice in a round."""
        outcomes: list[Outcome] = []
        failed: set[Action] = set()
        at = datetime.now(UTC)
        for _ in range(_bound(offered)):
            actions = [action for action in self._see(offered, captured, published, at).plan() if action not in failed]
            if not actions:
                return tuple(outcomes), ()
            for action in actions:
                outcome = executor.execute(action)
                outcomes.append(outcome)
                _log_outcome(log, outcome)
                if outcome.error:
                    failed.add(action)
        unsettled = f"no fixpoint after {_bound(offered)} steps; please report this with `pps-agent plan`"
        return tuple(outcomes), (SiteError(unsettled),)

    def _see(
        self, offered: ReleaseSet | Unknown, captured: Captured | Unknown, published: Published, at: datetime
    ) -> Sight:
        profile = captured if isinstance(captured, Unknown) else captured.fingerprint
        observed = observe(self.store, self.tags, self.history, profile, published)
        desired = desire(offered, observed.installed, self.settings, self.history.resolve(), observe_node(), at)
        return Sight(offered, desired, observed, at)

    def _look_published(self, expected: Expected) -> Published:
        return self.jobs.published(expected) if self.settings.infosys.url else None

    def _conclude(
        self,
        sight: Sight,
        outcomes: tuple[Outcome, ...],
        trust_error: AgentError | WireError | None,
        site_errors: tuple[SiteError, ...],
        waited_s: float,
        started: float,
        single_user: bool,
        number: str,
        log: Log,
    ) -> Round:
        trust = describe_trust(sight.offered)
        standings = sight.standings()
        took_s = time.monotonic() - started
        failed = sum(1 for outcome in outcomes if outcome.error)
        summary = RoundBody(
            round=number,
            trust=trust[:1024],
            done=len(outcomes) - failed,
            failed=failed,
            took_s=took_s,
            agent_version=__version__,
            single_user=single_user,
            paused=sight.desired.paused,
        )
        sent, waiting, report_error = self._report(
            describe_round(summary, outcomes, standings, socket.gethostname()), sight.at
        )
        if report_error is not None:
            log.warning("report.delayed", error=str(report_error), waiting=waiting)
        log.info("round.ended", done=summary.done, failed=failed, trust=trust, took_s=round(took_s, 2), waiting=waiting)
        return Round(
            id=summary.round,
            outcomes=outcomes,
            standings=standings,
            trust=trust,
            trust_error=trust_error,
            site_errors=site_errors,
            report_error=report_error,
            sent=sent,
            waiting=waiting,
            infosys_wait_s=waited_s,
            took_s=took_s,
            single_user=single_user,
        )

    def _report(self, bodies: Iterable[Body], at: datetime) -> tuple[Sent, int, AgentError | None]:
        outbox = Outbox(self.database, "", self.settings.site.name)
        outbox.put(tuple(bodies), at)  # before anything that may fail: a round done is a round told
        try:
            identity = load_identity(self.settings)
            if identity is None or not self.settings.collector.url:
                return Sent(), outbox.waiting(), None
            outbox = Outbox(self.database, identity.agent, identity.site)
            sent = send_outbox(outbox, identity, self.settings.collector, at)
        except AgentError as exc:
            return Sent(), outbox.waiting(), exc
        return sent, outbox.waiting(), None


def _find_blind_spots(observed: Observed) -> tuple[SiteError, ...]:
    """Give what of this machine could not be looked at: nothing was removed for it, but somebody must know."""
    looks = (
        ("the store", observed.installed),
        ("the tag files", observed.tags),
        ("the site's profile", observed.profile),
    )
    return tuple(SiteError(f"{what}: {seen.reason}") for what, seen in looks if isinstance(seen, Unknown))


def _offered_ids(offered: ReleaseSet | Unknown) -> list[ReleaseId]:
    """Staged work of these may be taken up again; everything else in staging is dead."""
    return [] if isinstance(offered, Unknown) else [offer.release.id for offer in offered.offers]


def _bound(offered: ReleaseSet | Unknown) -> int:
    """Give the most planning steps a round may take: the longest chain, untagging included, and slack.

    Releases go their ways in parallel, but a component's releases may become current one after another.
    """
    offers = 0 if isinstance(offered, Unknown) else len(offered.offers)
    return 2 * LONGEST_CHAIN + offers + 4


def _expect(sight: Sight, outcomes: tuple[Outcome, ...], wait_s: int) -> Expected:
    """Give what the information system should come to show after this round's changes."""
    done = [outcome.action for outcome in outcomes if not outcome.error]
    removed = [action for action in done if isinstance(action, RemoveTags)]
    if not removed and not any(isinstance(action, AddTags) for action in done):
        return Expected()
    present: dict[str, list[str]] = {}
    for wish in sight.desired.wishes:
        for subcluster in sight.desired.subclusters:
            listed = [tag for _, tag in listed_tags(wish, sight.observed, subcluster)]
            present.setdefault(subcluster, []).extend(listed)
    absent: dict[str, list[str]] = {}
    for action in removed:
        gone = [tag for _, tag in action.tags if tag not in present.get(action.subcluster, [])]
        absent.setdefault(action.subcluster, []).extend(gone)
    return Expected(present=present, absent=absent, wait_s=wait_s)


def _since_last_tag(outcomes: tuple[Outcome, ...]) -> float:
    """Give the seconds since a tag was last changed in this round; 0 when none was."""
    changed = [outcome.at for outcome in outcomes if isinstance(outcome.action, AddTags | RemoveTags)]
    return (datetime.now(UTC) - max(changed)).total_seconds() if changed else 0.0


def describe_trust(offered: ReleaseSet | Unknown) -> str:
    """Say in one line how far the metadata may be relied on."""
    if isinstance(offered, Unknown):
        return f"unknown: {offered.reason}"
    return offered.problem or f"verified until {offered.expires_at:%Y-%m-%dT%H:%MZ}"


def _log_outcome(log: Log, outcome: Outcome) -> None:
    action = outcome.action
    target = getattr(action, "release", None) or getattr(action, "component", "")
    name = type(action).__name__.lower()
    if outcome.error:
        log.error("action.failed", action=name, target=target, error=outcome.error)
    else:
        log.info("action.done", action=name, target=target, took_s=round(outcome.took_s, 3), facts=dict(outcome.facts))
