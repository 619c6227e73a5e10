"""One look at the site and what the site wants in view of it; what to do follows from it alone."""

from dataclasses import dataclass, replace
from datetime import datetime

from pps_agent.environment.values import Captured
from pps_agent.errors import SiteError
from pps_agent.memory import Memory
from pps_agent.observe import Production, Published
from pps_agent.plan import plan
from pps_agent.standing import Standing, find_standings
from pps_agent.state import Action, Desired, Observed, ReleaseSet, Unknown
from pps_wire.names import ReleaseId


@dataclass(frozen=True, slots=True)
class Look:
    """The costly looks, made once a round: at repository, profile files, information system, production clients."""

    offered: ReleaseSet | Unknown
    captured: Captured | Unknown
    published: Published
    production: Production

    def offered_ids(self) -> list[ReleaseId]:
        """Give the releases on offer; none when that is unknown."""
        return [] if isinstance(self.offered, Unknown) else [offer.release.id for offer in self.offered.offers]


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything one look gave, and what the site wants in view of it."""

    offered: ReleaseSet | Unknown
    desired: Desired
    observed: Observed
    memory: Memory | Unknown
    at: datetime

    def plan(self) -> tuple[Action, ...]:
        """Give the actions to do now."""
        return plan(self.desired, self.observed, self.at)

    def withheld(self) -> tuple[Action, ...]:
        """Give the actions that only observing or quiet hours keep from being done now."""
        now = set(self.plan())
        free = replace(self.desired, observing=False, quiet="")
        return tuple(action for action in plan(free, self.observed, self.at) if action not in now)

    def reason_withheld(self) -> str:
        """Say why actions are withheld; empty when nothing would withhold any."""
        return 'policy.mode is "observe"' if self.desired.observing else self.desired.quiet

    def standings(self) -> tuple[Standing, ...]:
        """Give where each release stands."""
        return find_standings(self.desired, self.observed, self.at)

    def blind_spots(self) -> tuple[SiteError, ...]:
        """Give what of this machine could not be looked at: nothing was removed for it, but somebody must know."""
        seen = self.observed
        looks = [
            ("the store", seen.installed),
            ("the site's profile", seen.profile),
            *(("the tag files", there) for there in (*seen.tags.values(), *seen.lives.values())),
            *(("the tag files of former subclusters", there) for there in seen.former_tags.values()),
        ]
        told = (f"{what}: {there.reason}" for what, there in looks if isinstance(there, Unknown))
        return tuple(SiteError(text) for text in dict.fromkeys(told))  # one fault may hide many lists

    def describe_trust(self) -> str:
        """Say in one line how far the metadata may be relied on."""
        if isinstance(self.offered, Unknown):
            return f"unknown: {self.offered.reason}"
        return self.offered.problem or f"verified until {self.offered.expires_at:%Y-%m-%dT%H:%MZ}"
