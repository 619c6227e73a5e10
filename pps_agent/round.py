"""One round: what it did, and what of it can be told in advance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pps_agent.errors import AgentError, SiteError, exit_code_of, worst_exit_code
from pps_agent.jobs import Expected, Sent
from pps_agent.plan import LONGEST_CHAIN, listed_tags
from pps_agent.probes.agenda import Watched
from pps_agent.sight import Look, Sight
from pps_agent.standing import Standing
from pps_agent.state import Action, AddTags, Outcome, ReleaseSet, RemoveTags, Unknown
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. Errors that are no action's are told apart: of trust, of this site, of reporting.

    ``withheld`` are the actions that ``reason_withheld`` (quiet hours, observing) kept from being done.
    """

    id: str
    offered: ReleaseSet | Unknown
    outcomes: tuple[Outcome, ...]
    standings: tuple[Standing, ...]
    withheld: tuple[Action, ...]
    reason_withheld: str
    trust: str
    trust_error: AgentError | WireError | None
    site_errors: tuple[SiteError, ...]
    report_error: AgentError | None
    sent: Sent
    waiting: int
    infosys_wait_s: float
    took_s: float
    single_user: bool
    watched: tuple[Watched, ...] = ()
    """The releases whose probes run between rounds."""
    listed: Mapping[Subcluster, tuple[Tag, ...]] | None = None
    """The releases' tags that stood on the lists when the round ended; None when the lists could not be read."""
    expected: Expected | None = None
    """What the information systems should come to show after it."""

    def exit_code(self) -> int:
        """Give the round's one exit code: the first of 78, 4, 6, 7, 69, 75, 1 that occurred, else 0."""
        codes = [outcome.exit_code for outcome in self.outcomes]
        return worst_exit_code(codes + [exit_code_of(error) for error in self.errors()])

    def errors(self) -> list[AgentError | WireError]:
        """Give the errors that are no action's."""
        return [error for error in (self.trust_error, *self.site_errors, self.report_error) if error is not None]


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a round is carried out; ``offline`` asks neither the repository nor the collector.

    ``waits``: at its end it waits, if the settings say so, until the information systems show its changes.
    """

    includes: Callable[[Action], bool] = lambda _: True
    offline: bool = False
    waits: bool = True


EVERYTHING: Final = Scope()


def limit_steps(look: Look) -> int:
    """Give the most planning steps a round may take: the longest chain, untagging included, and slack.

    Releases go their ways in parallel, but a component's releases may become current one after another.
    """
    return 2 * LONGEST_CHAIN + len(look.offered_ids()) + 4


def expect_published(sight: Sight, outcomes: tuple[Outcome, ...], wait_s: int) -> Expected:
    """Give what the information system should come to show after this round's changes."""
    done = [outcome.action for outcome in outcomes if not outcome.error]
    changed_at = _last_change(outcomes)
    serving = set(sight.desired.subclusters)
    removed = [action for action in done if isinstance(action, RemoveTags) and action.subcluster in serving]
    if not removed and not any(isinstance(action, AddTags) for action in done):
        return Expected()
    listed = find_listed(sight) or {}
    present: dict[str, list[str]] = {subcluster: list(tags) for subcluster, tags in listed.items()}
    absent: dict[str, list[str]] = {}
    for action in removed:
        gone = [tag for _, tag in action.tags if tag not in present.get(action.subcluster, [])]
        absent.setdefault(action.subcluster, []).extend(gone)
    return Expected(present=present, absent=absent, wait_s=wait_s, changed_at=changed_at)


def expect_gone(outcomes: tuple[Outcome, ...]) -> Expected:
    """Give what information systems should show no more after these removals of tags."""
    absent: dict[str, list[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome.action, RemoveTags) and not outcome.error:
            absent.setdefault(outcome.action.subcluster, []).extend(tag for _, tag in outcome.action.tags)
    return Expected(absent=absent, changed_at=_last_change(outcomes))


def find_listed(sight: Sight) -> dict[Subcluster, tuple[Tag, ...]] | None:
    """Give the tags of all releases that stand on each subcluster's lists; None when these could not be read."""
    if any(isinstance(there, Unknown) for there in sight.observed.tags.values()):
        return None
    return {
        subcluster: tuple(
            tag for wish in sight.desired.wishes for _, tag in listed_tags(wish, sight.observed, subcluster)
        )
        for subcluster in sight.desired.subclusters
    }


def since_last_tag(outcomes: tuple[Outcome, ...], now: datetime) -> float:
    """Give the seconds since a tag was last changed in this round; 0 when none was."""
    changed_at = _last_change(outcomes)
    return now.timestamp() - changed_at if changed_at else 0.0


def _last_change(outcomes: tuple[Outcome, ...]) -> float:
    """Give when a tag was last changed, in seconds since 1970; 0 when none was."""
    changed = [outcome.at.timestamp() for outcome in outcomes if isinstance(outcome.action, AddTags | RemoveTags)]
    return max(changed, default=0.0)
