"""One probe on production and on each preview, side by side: what is different. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pps_agent.probes.slots import Key
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Status


class Seen(Protocol):
    """What is known of a metric: a result, in whatever form."""

    @property
    def status(self) -> Status:
        """Its status."""

    @property
    def summary(self) -> str:
        """Its one line."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric: production's newest status (None: it never ran) and each preview's, with their words."""

    metric: ProbeName
    production: Status | None
    production_summary: str
    previews: tuple[tuple[ReleaseId, Status, str], ...]

    @property
    def differing(self) -> tuple[ReleaseId, ...]:
        """The previews whose status is another one than production's; none where production is not known."""
        if self.production is None:
            return ()
        return tuple(release for release, status, _ in self.previews if status is not self.production)

    def describe(self) -> str:
        """Give it as one line, e.g. ``production OK; grid-clients-6.1.0-x86_64-glibc2.36 CRITICAL (differs)``."""
        words = [f"production {self.production.name if self.production is not None else 'never ran'}"]
        for release, status, _ in self.previews:
            words.append(f"{release} {status.name}{' (differs)' if release in self.differing else ''}")
        return "; ".join(words)


def compare(results: Mapping[Key, Seen], metrics: Iterable[ProbeName]) -> tuple[Comparison, ...]:
    """Compare these metrics wherever a preview has a result of them; in the order of their names."""
    wanted = set(metrics)
    previews: dict[ProbeName, list[tuple[ReleaseId, Status, str]]] = {}
    for (metric, release), seen in results.items():
        if release is not None and metric in wanted:
            previews.setdefault(metric, []).append((release, seen.status, seen.summary))
    found = []
    for metric in sorted(previews):
        production = results.get(Key(metric, None))
        status, summary = (None, "") if production is None else (production.status, production.summary)
        found.append(Comparison(metric, status, summary, tuple(sorted(previews[metric]))))
    return tuple(found)
