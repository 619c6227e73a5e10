"""What the agent remembers between rounds, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pps_agent.policy import Resolve, add_wait, find_spurned
from pps_agent.state import ProbeSeen
from pps_wire.names import Component, ProbeName, ReleaseId, Subcluster, Vo


@dataclass(frozen=True, slots=True)
class Offered:
    """Since when a release is on offer, when it was last seen there, and the time counted until then."""

    first_seen_at: datetime
    seen_at: datetime
    waited_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The site's will and what cannot be observed again; ``production`` are the versions last known."""

    resolve: Resolve
    verdicts: Mapping[tuple[ReleaseId, ProbeName], ProbeSeen]
    drains: Mapping[ReleaseId, datetime]
    offers: Mapping[ReleaseId, Offered]
    served: frozenset[tuple[Subcluster, Vo]]
    production: Mapping[Component, str]

    def spurned(self) -> frozenset[ReleaseId]:
        """Give the releases that no rollback may go back to."""
        return find_spurned(self.resolve, self.drains)

    def waited_s(self, now: datetime) -> dict[ReleaseId, float]:
        """Give how long each release has been on offer."""
        return {release: add_wait(seen.waited_s, seen.seen_at, now) for release, seen in self.offers.items()}
