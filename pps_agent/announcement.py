"""What is to be known of each tag of a release, by what was seen: verified, broken, on its way out. Pure.

GLUE 2 shows it beside the tag; the tag itself stands in a list only while the plan lets it (``plan.py``).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from pps_agent.plan import is_broken, is_ready
from pps_agent.state import Desired, Installed, Observed, Stance, Unknown, VoList, Wish
from pps_agent.tags.life import LISTED, UNLISTED, Life, TagState
from pps_wire.names import ReleaseId, Subcluster, Tag, Vo

EXPIRING: Final = timedelta(days=7)
"""How long before its end a release is shown as going."""
_RANK: Final = (TagState.VERIFIED, TagState.PENDING_REMOVAL, TagState.NOT_VERIFIED, TagState.BROKEN)
"""Where releases share a tag, the best of them speaks for it."""

Changes = dict[Vo, dict[Subcluster, dict[Tag, Life | None]]]


def find_changes(desired: Desired, observed: Observed, now: datetime) -> Changes:
    """Give the entries to change, None for those to drop; nothing where a list or the trees could not be looked at."""
    if isinstance(observed.installed, Unknown):
        return {}
    wanted: dict[tuple[Vo, Subcluster, Tag], Life] = {}
    for key, life in _find_lives(desired, observed, observed.installed, now):
        rival = wanted.get(key)
        if rival is None or _RANK.index(life.state) < _RANK.index(rival.state):
            wanted[key] = life
    changes: Changes = {}
    for vo, subcluster, tag in sorted({*wanted, *_release_tags(desired, observed)}):
        known = observed.lives.get((subcluster, vo), {})
        if isinstance(known, Unknown) or isinstance(observed.listed((subcluster, vo)), Unknown):
            continue
        before = known.get(tag)
        after = _with_will(wanted.get((vo, subcluster, tag)), before)
        if after != before:
            changes.setdefault(vo, {}).setdefault(subcluster, {})[tag] = after
    return changes


def _find_lives(
    desired: Desired, observed: Observed, installed: Mapping[ReleaseId, Installed], now: datetime
) -> Iterator[tuple[tuple[Vo, Subcluster, Tag], Life]]:
    for wish in sorted(desired.wishes, key=lambda wish: wish.release):
        there = installed.get(wish.release)
        if there is None:
            continue
        ready = is_ready(wish, observed, desired.probe_max_age_s, now)
        for subcluster in desired.subclusters:
            for vo, tag in wish.tags.items():
                state = _judge(wish, there, observed, (subcluster, vo), tag, ready=ready, now=now)
                yield (vo, subcluster, tag), Life(state, wish.release, _find_end(wish, there, desired, observed))


def _judge(
    wish: Wish, installed: Installed, observed: Observed, where: VoList, tag: Tag, *, ready: bool, now: datetime
) -> TagState:
    if wish.stance is Stance.UNWANTED:
        return TagState.PENDING_REMOVAL
    if installed.fault or is_broken(wish, observed):
        return TagState.BROKEN
    there = observed.listed(where)
    if not (ready or isinstance(there, Unknown) or tag in there):
        return TagState.NOT_VERIFIED
    expires_at = installed.release.expires_at
    return TagState.PENDING_REMOVAL if expires_at and expires_at - now <= EXPIRING else TagState.VERIFIED


def _find_end(wish: Wish, there: Installed, desired: Desired, observed: Observed) -> float | None:
    """Give when the tag's time is over: the release's own end, or when a tree that nobody wants is removed."""
    own = there.release.expires_at
    since = observed.draining.get(wish.release)
    drained = since + timedelta(seconds=desired.drain_s) if wish.stance is Stance.UNWANTED and since else None
    ends = [end.timestamp() for end in (own, drained) if end is not None]
    return min(ends) if ends else None


def _release_tags(desired: Desired, observed: Observed) -> Iterator[tuple[Vo, Subcluster, Tag]]:
    """Give the entries of releases; those set by hand are a person's."""
    for (subcluster, vo), known in observed.lives.items():
        if subcluster in desired.subclusters and not isinstance(known, Unknown):
            yield from ((vo, subcluster, tag) for tag, life in known.items() if life.release)


def _with_will(wanted: Life | None, before: Life | None) -> Life | None:
    """Keep what a person decided: removed until added again, or set until the probes agree."""
    if wanted is None or before is None:
        return wanted
    agree = wanted.state in (TagState.VERIFIED, TagState.PENDING_REMOVAL)
    forced = before.forced if before.forced == UNLISTED or (before.forced == LISTED and not agree) else ""
    return Life(wanted.state, wanted.release, wanted.expires_at, forced)
