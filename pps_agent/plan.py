"""What to do next: ``plan(desired, observed, now)``. Pure; the heart of the program.

One call gives every action that may be done now. The loop executes them, looks again and calls
again until nothing is left (a fixpoint). The order falls out of the preconditions:

    install -> environment -> probes pass -> switch -> tag       and back:  untag -> drain -> remove

Rules that tests/property/test_plan.py holds against every planted fault:

* A tag is added only for a wanted release that is intact and whose probes all passed freshly.
* What could not be looked at (Unknown) never causes a removal; nor does a CRITICAL that more attempts may undo.
* A tree is removed only when no tag names it, in files or in the information system, nobody uses
  it, nobody pinned it, and the drain period is over.
* In quiet hours nothing is installed, composed, switched, tagged or removed; a site that observes does nothing.
* A list that the site serves no more loses the tags it was given.
* A release with configuration steps still open is neither current nor tagged.
* A tag that a person removed is not added, one set against the probes not removed for them.
* A release's actions depend on no other release, but for the choice of a component's current one.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta

from pps_agent.state import (
    Action,
    AddTags,
    Compose,
    Desired,
    Drain,
    Install,
    Installed,
    Observed,
    Probe,
    ProbeSeen,
    Remove,
    RemoveTags,
    Stance,
    Switch,
    Undrain,
    Unknown,
    VoList,
    Wish,
)
from pps_agent.tags.life import LISTED
from pps_wire.names import Component, ProbeName, ReleaseId, Subcluster, Tag, Vo, version_key
from pps_wire.report import Status

_FAILED = "a probe failed"
LONGEST_CHAIN = 6
"""Most actions one release can need in a row: Undrain, Install, Compose, Probe, Switch, AddTags."""


def plan(desired: Desired, observed: Observed, now: datetime) -> tuple[Action, ...]:
    """Give the actions to do now, untagging first. Empty means converged."""
    if desired.observing:
        return ()
    untagging = list(_untag(desired, observed))
    untagging += _untag_former(desired, observed, {(a.subcluster, pair) for a in untagging for pair in a.tags})
    if desired.paused:
        return tuple(untagging)
    return (*untagging, *(action for action in _advance(desired, observed, now) if _may_now(action, desired)))


def _may_now(action: Action, desired: Desired) -> bool:
    """Tell whether quiet hours allow an action: they allow what users cannot notice."""
    return not desired.quiet or isinstance(action, Probe | Drain)


def _advance(desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    """Give all that is due beside untagging."""
    for wish in desired.wishes:
        if wish.stance is Stance.UNWANTED:
            yield from _retire(wish, desired, observed, now)
        elif wish.stance is Stance.WANTED:
            yield from _prepare(wish, desired, observed, now)
    switches = tuple(_switch(desired, observed, now))
    yield from switches
    unsettled = {switch.component for switch in switches}
    for wish in desired.wishes:
        if wish.component not in unsettled:
            yield from _tag(wish, desired, observed, now)


def is_passing(wish: Wish, observed: Observed, max_age_s: int, now: datetime) -> bool:
    """Tell whether every probe of the release has a fresh OK in its present environment."""
    installed = _find(observed.installed, wish.release)
    if installed is None or not wish.probes:
        return False
    return all(_is_fresh_ok(_verdict(wish, probe, installed, observed), max_age_s, now) for probe in wish.probes)


def is_broken(wish: Wish, observed: Observed) -> bool:
    """Tell whether some probe's newest verdict on the present environment is CRITICAL, for good (hard)."""
    installed = _find(observed.installed, wish.release)
    if installed is None:
        return False
    verdicts = (_verdict(wish, probe, installed, observed) for probe in wish.probes)
    return any(seen is not None and seen.status is Status.CRITICAL and seen.hard for seen in verdicts)


def is_ready(wish: Wish, observed: Observed, max_age_s: int, now: datetime) -> bool:
    """Tell whether users may be sent to the release: intact, environment composed, freshly passing."""
    installed = _find(observed.installed, wish.release)
    return (
        installed is not None
        and not installed.fault
        and _is_composed(installed, observed)
        and is_passing(wish, observed, max_age_s, now)
    )


def listed_tags(wish: Wish, observed: Observed, subcluster: Subcluster) -> tuple[tuple[Vo, Tag], ...]:
    """Give those of the release's tags that are seen to stand in the subcluster's files."""
    return tuple((vo, tag) for vo, tag in sorted(wish.tags.items()) if _stands(tag, observed.listed((subcluster, vo))))


def _untag(desired: Desired, observed: Observed) -> Iterator[RemoveTags]:
    """Give the removals of tags that must not stand, sparing those another release still needs."""
    losing = {wish.release: reason for wish in desired.wishes if (reason := _reason_to_untag(wish, observed))}
    shared = {
        tag
        for wish in desired.wishes
        if wish.release not in losing and _find(observed.installed, wish.release) is not None
        for tag in wish.tags.values()
    }
    for wish in desired.wishes:
        if wish.release not in losing:
            continue
        for subcluster in _subclusters(desired, observed):
            doomed = tuple(
                (vo, tag)
                for vo, tag in listed_tags(wish, observed, subcluster)
                if tag not in shared
                and not (losing[wish.release] == _FAILED and observed.will((subcluster, vo), tag) == LISTED)
            )
            if doomed:
                yield RemoveTags(wish.release, subcluster, doomed, losing[wish.release])


def _untag_former(
    desired: Desired, observed: Observed, doomed: Collection[tuple[Subcluster, tuple[Vo, Tag]]]
) -> Iterator[RemoveTags]:
    """Give the removals, beside the ``doomed``, of tags from lists the site serves no more."""
    seen = {**observed.former_tags, **observed.tags}
    for wish in desired.wishes:
        for subcluster in sorted({subcluster for subcluster, _ in desired.former}):
            stray = tuple(
                (vo, tag)
                for vo, tag in sorted(wish.known_tags.items())
                if (subcluster, vo) in desired.former
                and _stands(tag, seen.get((subcluster, vo), frozenset()))
                and (subcluster, (vo, tag)) not in doomed
            )
            if stray:
                yield RemoveTags(wish.release, subcluster, stray, "the site's settings no longer name this list")


def _reason_to_untag(wish: Wish, observed: Observed) -> str:
    if wish.stance is Stance.UNWANTED or not wish.announce:
        return wish.reason
    if isinstance(observed.installed, Unknown):
        return ""
    installed = observed.installed.get(wish.release)
    if installed is None:
        return "its tree is not installed"
    if installed.fault:
        return f"its tree is damaged: {installed.fault}"
    if is_broken(wish, observed):
        return _FAILED
    return ""


def _subclusters(desired: Desired, observed: Observed) -> tuple[Subcluster, ...]:
    """All subclusters to clear: the configured ones and any other whose files were seen."""
    return tuple(dict.fromkeys((*desired.subclusters, *sorted(subcluster for subcluster, _ in observed.tags))))


def _prepare(wish: Wish, desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    if isinstance(observed.installed, Unknown):
        return
    if wish.release in observed.draining:
        yield Undrain(wish.release)
    installed = observed.installed.get(wish.release)
    if installed is None or installed.fault:
        yield Install(wish.release)
    elif not _is_composed(installed, observed):
        if not isinstance(observed.profile, Unknown):
            yield Compose(wish.release)
    elif due := _due_probes(wish, installed, desired, observed, now):
        yield Probe(wish.release, due)


def _due_probes(
    wish: Wish, installed: Installed, desired: Desired, observed: Observed, now: datetime
) -> tuple[ProbeName, ...]:
    def is_due(seen: ProbeSeen | None) -> bool:
        if seen is None:
            return True
        # Half the age, so that a pass is renewed before it grows stale.
        limit = desired.probe_max_age_s / 2 if seen.status is Status.OK else desired.probe_retry_s
        # Within a round time stands still, so a verdict may be a little ahead of it; one from a clock
        # that was far ahead must not count for ever.
        age = now - seen.at
        return age >= timedelta(seconds=limit) or age <= -timedelta(seconds=desired.probe_max_age_s)

    return tuple(probe for probe in wish.probes if is_due(_verdict(wish, probe, installed, observed)))


def _retire(wish: Wish, desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    if isinstance(observed.installed, Unknown) or wish.release not in observed.installed:
        return
    if any(
        _may_stand(wish, where, there)
        for lists in (observed.tags, observed.former_tags)
        for where, there in lists.items()
    ):
        return
    if observed.current.get(wish.component) == wish.release:
        return
    since = observed.draining.get(wish.release)
    if since is None:
        yield Drain(wish.release)
    elif (
        not _is_pinned(wish, observed)
        and _is_drained(wish, observed)
        and now - since >= timedelta(seconds=desired.drain_s)
    ):
        yield Remove(wish.release, wish.reason)


def _is_drained(wish: Wish, observed: Observed) -> bool:
    if isinstance(observed.published, Unknown) or isinstance(observed.in_use, Unknown):
        return False
    shown = frozenset[Tag]().union(*(observed.published or {}).values())
    return shown.isdisjoint(wish.tags.values()) and wish.release not in observed.in_use


def _is_pinned(wish: Wish, observed: Observed) -> bool:
    return isinstance(observed.pins, Unknown) or wish.release in observed.pins


def _stands(tag: Tag, there: frozenset[Tag] | Unknown) -> bool:
    return not isinstance(there, Unknown) and tag in there


def _may_stand(wish: Wish, where: VoList, there: frozenset[Tag] | Unknown) -> bool:
    """Tell whether a list names the release, or could: it is of a VO whose tag announces it and cannot be read."""
    _, vo = where
    return vo in wish.tags and (isinstance(there, Unknown) or wish.tags[vo] in there)


def _switch(desired: Desired, observed: Observed, now: datetime) -> Iterator[Switch]:
    if isinstance(observed.installed, Unknown):
        return
    wishes: dict[Component, list[Wish]] = {}
    for wish in desired.wishes:
        wishes.setdefault(wish.component, []).append(wish)
    for component, rivals in sorted(wishes.items()):
        current = observed.current.get(component)
        chosen = _choose(rivals, current, desired, observed, now)
        if chosen != current:
            yield Switch(component, chosen)


def _choose(
    rivals: list[Wish], current: ReleaseId | None, desired: Desired, observed: Observed, now: datetime
) -> ReleaseId | None:
    """Give the newest release users may be sent to; the present one stays unless it is at fault."""
    ready = [
        wish
        for wish in rivals
        if wish.stance is Stance.WANTED
        and not wish.open_steps
        and is_ready(wish, observed, desired.probe_max_age_s, now)
    ]
    sitting = next((wish for wish in rivals if wish.release == current and not _is_at_fault(wish, observed)), None)
    if sitting is not None:
        ready.append(sitting)
    if not ready:
        return None
    # Equal versions (another platform): the sitting one stays, else the smaller id, so that it settles.
    return max(ready, key=lambda wish: (version_key(wish.version), wish is sitting, wish.release)).release


def _is_at_fault(wish: Wish, observed: Observed) -> bool:
    installed = _find(observed.installed, wish.release)
    return wish.stance is Stance.UNWANTED or installed is None or bool(installed.fault) or is_broken(wish, observed)


def _tag(wish: Wish, desired: Desired, observed: Observed, now: datetime) -> Iterator[AddTags]:
    if wish.stance is not Stance.WANTED or not wish.announce:
        return
    if wish.release in observed.draining or not is_ready(wish, observed, desired.probe_max_age_s, now):
        return
    for subcluster in desired.subclusters:
        missing = tuple(
            (vo, tag)
            for vo, tag in sorted(wish.tags.items())
            if not isinstance(there := observed.listed((subcluster, vo)), Unknown)
            and tag not in there
            and observed.will((subcluster, vo), tag) in ("", LISTED)
        )
        if missing:
            yield AddTags(wish.release, subcluster, missing)


def _find(installed: Mapping[ReleaseId, Installed] | Unknown, release: ReleaseId) -> Installed | None:
    return None if isinstance(installed, Unknown) else installed.get(release)


def _is_composed(installed: Installed, observed: Observed) -> bool:
    """An environment composed earlier serves on while the site's settings cannot be read."""
    if isinstance(observed.profile, Unknown):
        return bool(installed.profile)
    return installed.profile == observed.profile


def _verdict(wish: Wish, probe: ProbeName, installed: Installed, observed: Observed) -> ProbeSeen | None:
    seen = observed.probes.get((wish.release, probe))
    return seen if seen is not None and seen.profile == installed.profile else None


def _is_fresh_ok(seen: ProbeSeen | None, max_age_s: int, now: datetime) -> bool:
    return seen is not None and seen.status is Status.OK and abs(now - seen.at) < timedelta(seconds=max_age_s)
