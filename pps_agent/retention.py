"""Which wanted releases are too old to be kept. Pure.

One rule for rounds and for ``release gc``: what it names is unwanted, so it is untagged, drained and
removed by the ordinary plan, and no round installs it again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from pps_agent.state import Desired, Observed, Stance, Unknown, Wish
from pps_wire.names import Component, ReleaseId, version_key


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept whatever its age: current releases, those to roll back to, and pinned ones."""

    current: Mapping[Component, ReleaseId] = field(default_factory=dict)
    previous: Mapping[Component, ReleaseId] = field(default_factory=dict)
    pins: frozenset[ReleaseId] = frozenset()

    def __contains__(self, release: ReleaseId) -> bool:
        return release in self.pins or release in self.current.values() or release in self.previous.values()


def find_kept(observed: Observed) -> Kept | Unknown:
    """Give what must be kept. Unknown when store or pins could not be looked at: then nothing is too old."""
    if isinstance(observed.installed, Unknown):
        return observed.installed
    if isinstance(observed.pins, Unknown):
        return observed.pins
    return Kept(observed.current, observed.previous, frozenset(observed.pins))


def find_superseded(wishes: Iterable[Wish], keep: int, kept: Kept | Unknown) -> dict[ReleaseId, str]:
    """Give the wanted releases that are not among the newest ``keep`` of their component, each with the reason.

    Releases in ``kept`` are never named; held ones neither count nor are named. ``keep`` is at least 1.
    """
    if isinstance(kept, Unknown):
        return {}
    wanted: dict[Component, list[Wish]] = {}
    for wish in wishes:
        if wish.stance is Stance.WANTED:
            wanted.setdefault(wish.component, []).append(wish)
    found = {}
    for rivals in wanted.values():
        newest_first = sorted(rivals, key=lambda wish: (version_key(wish.version), wish.release), reverse=True)
        for wish in newest_first[keep:]:
            if wish.release not in kept:
                found[wish.release] = (
                    f"superseded: {keep} newer ones are wanted (store.keep);"
                    f" to keep it: pps-agent release pin {wish.release}"
                )
    return found


def explain_stay(desired: Desired, observed: Observed) -> dict[ReleaseId, str]:
    """Say of each installed release why its tree stays for now."""
    kept = find_kept(observed)
    if isinstance(kept, Unknown):
        return {}
    return {
        wish.release: "; ".join(_reasons_to_stay(wish, desired, observed, kept))
        for wish in desired.wishes
        if not isinstance(observed.installed, Unknown) and wish.release in observed.installed
    }


def _reasons_to_stay(wish: Wish, desired: Desired, observed: Observed, kept: Kept) -> Iterator[str]:
    if wish.release in kept.current.values():
        yield "current"
    if wish.release in kept.previous.values():
        yield "a rollback would go back to it"
    if wish.release in kept.pins:
        yield "pinned"
    if not isinstance(observed.in_use, Unknown) and wish.release in observed.in_use:
        yield "in use by a process of this machine"
    since = observed.draining.get(wish.release)
    if wish.stance is not Stance.UNWANTED:
        yield f"{wish.stance.value}: {wish.reason}"
    elif since is not None:
        until = since + timedelta(seconds=desired.drain_s)
        yield f"drains until {until:%Y-%m-%dT%H:%MZ}: {wish.reason}"
    else:
        yield wish.reason
