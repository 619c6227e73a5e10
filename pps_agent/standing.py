"""Where each release stands at the site, and why: one pure view for reports, status and lists."""

from dataclasses import dataclass
from datetime import datetime

from pps_agent.plan import is_broken, is_passing, listed_tags
from pps_agent.state import Desired, Installed, Observed, ProbeSeen, Stance, Unknown, Wish
from pps_wire.names import ProbeName, ReleaseId, Subcluster, Tag, Vo
from pps_wire.report import AWAITING_CONFIG, HANDED_OVER, ReleaseState, Status, TagState


@dataclass(frozen=True, slots=True)
class TagStanding:
    """One tag of a release on one subcluster."""

    subcluster: Subcluster
    vo: Vo
    tag: Tag
    state: TagState


@dataclass(frozen=True, slots=True)
class Standing:
    """One release at this site: state, the reason in words, newest verdicts, tags."""

    release: ReleaseId
    component: str
    version: str
    state: ReleaseState
    reason: str
    current: bool
    stage: str
    """A finer word for the state, or nothing; see ``pps_wire.report.ReleaseBody``."""
    open_steps: tuple[str, ...]
    probes: tuple[tuple[ProbeName, ProbeSeen], ...]
    tags: tuple[TagStanding, ...]

    @property
    def word(self) -> str:
        """The state in one word, as fine as it is known."""
        return self.stage or self.state.value


def find_standings(desired: Desired, observed: Observed, now: datetime) -> tuple[Standing, ...]:
    """Give every release's standing, in the order of the wishes."""
    return tuple(_find_standing(wish, desired, observed, now) for wish in desired.wishes)


def _find_standing(wish: Wish, desired: Desired, observed: Observed, now: datetime) -> Standing:
    verdicts = tuple((name, seen) for name in wish.probes if (seen := observed.probes.get((wish.release, name))))
    state, reason = _judge(wish, desired, observed, now)
    return Standing(
        release=wish.release,
        component=wish.component,
        version=wish.version,
        state=state,
        reason=reason,
        current=observed.current.get(wish.component) == wish.release,
        stage=_find_stage(wish, state),
        open_steps=wish.open_steps,
        probes=verdicts,
        tags=tuple(_find_tags(wish, desired, observed)),
    )


def _find_stage(wish: Wish, state: ReleaseState) -> str:
    if wish.handed_over:
        return HANDED_OVER
    if wish.open_steps and state in (ReleaseState.INSTALLED, ReleaseState.VERIFIED):
        return AWAITING_CONFIG
    return ""


def _judge(wish: Wish, desired: Desired, observed: Observed, now: datetime) -> tuple[ReleaseState, str]:
    installed = None if isinstance(observed.installed, Unknown) else observed.installed.get(wish.release)
    if installed is None:
        if wish.stance is Stance.UNWANTED:
            return ReleaseState.REFUSED, wish.reason
        if isinstance(observed.installed, Unknown):
            return ReleaseState.OFFERED, f"the store could not be read: {observed.installed.reason}"
        return ReleaseState.OFFERED, wish.reason
    if wish.stance is Stance.UNWANTED:
        pinned = not isinstance(observed.pins, Unknown) and wish.release in observed.pins
        return ReleaseState.DRAINING, wish.reason + ("; pinned: its tree stays" if pinned else "")
    if installed.fault:
        return ReleaseState.BROKEN, installed.fault
    if is_broken(wish, observed):
        return ReleaseState.BROKEN, _describe_failures(wish, installed, observed)
    if any(listed_tags(wish, observed, subcluster) for subcluster in desired.subclusters):
        return ReleaseState.TAGGED, wish.reason
    if is_passing(wish, observed, desired.probe_max_age_s, now):
        return ReleaseState.VERIFIED, wish.reason
    return ReleaseState.INSTALLED, _describe_failures(wish, installed, observed) or wish.reason


def _describe_failures(wish: Wish, installed: Installed, observed: Observed) -> str:
    verdicts = ((name, observed.probes.get((wish.release, name))) for name in wish.probes)
    return ", ".join(
        f"{name} {seen.status.name}"
        for name, seen in verdicts
        if seen is not None and seen.status is not Status.OK and seen.profile == installed.profile
    )


def _find_tags(wish: Wish, desired: Desired, observed: Observed) -> list[TagStanding]:
    """Give the tags that stand somewhere; one that is neither listed nor published is not named."""
    standings = []
    for subcluster in desired.subclusters:
        listed = dict(listed_tags(wish, observed, subcluster))
        looked = observed.published is not None and not isinstance(observed.published, Unknown)
        published = observed.published.get(subcluster, frozenset()) if looked else frozenset()  # type: ignore[union-attr]
        for vo, tag in sorted(wish.tags.items()):
            if tag in published:
                state = TagState.PUBLISHED
            elif vo in listed:
                state = TagState.MISSING if looked else TagState.LISTED
            else:
                continue
            standings.append(TagStanding(subcluster, vo, tag, state))
    return standings
