"""The plan's promises, over every small world; and that a fault planted in the plan is caught."""

# ruff: noqa: E501 (a planted fault is quoted as one line)

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from random import Random, randrange
from types import ModuleType

import pytest

import pps_agent.plan
from pps_agent.state import (
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
)
from pps_agent.tags.life import LISTED
from pps_wire.names import version_key
from pps_wire.report import Status
from tests.support.worlds import (
    DRAIN_S,
    GIVEN_UP,
    MAX_AGE_S,
    NOW,
    PROBES,
    PROFILE,
    RELEASES,
    SUBCLUSTERS,
    act,
    draw_desired,
    draw_observed,
    make_desired,
    make_observed,
    make_wish,
)

Check = Callable[[ModuleType, Desired, Observed], None]


def _wish(desired: Desired, release: str):
    return next(wish for wish in desired.wishes if wish.release == release)


def check_tags_are_added_only_for_a_wanted_intact_freshly_passing_release(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, AddTags):
            wish = _wish(desired, action.release)
            installed = observed.installed[action.release]
            assert wish.stance is Stance.WANTED
            assert wish.announce
            assert not wish.open_steps
            assert not desired.paused
            assert not desired.quiet
            assert not any((action.subcluster, vo) in desired.former for vo, _ in action.tags)
            assert not installed.fault
            assert installed.profile
            assert isinstance(observed.profile, Unknown) or installed.profile == observed.profile
            assert wish.probes
            assert action.release not in observed.draining
            for probe in wish.probes:
                seen = observed.probes[action.release, probe]
                assert seen.status is Status.OK
                assert abs(NOW - seen.at) < timedelta(seconds=MAX_AGE_S)
                assert seen.profile == installed.profile


def check_every_tag_that_may_be_added_is_added_once_its_component_is_switched(plan, desired, observed):
    actions = plan.plan(desired, observed, NOW)
    switching = {action.component for action in actions if isinstance(action, Switch)}
    added = {(a.release, a.subcluster, tag) for a in actions if isinstance(a, AddTags) for tag in a.tags}
    if desired.paused or desired.quiet or desired.observing:
        assert not added
        return
    for wish in desired.wishes:
        ready = plan.is_ready(wish, observed, desired.probe_max_age_s, NOW)
        welcome = wish.stance is Stance.WANTED and wish.announce and wish.release not in observed.draining
        for subcluster in desired.subclusters:
            for pair in wish.tags.items():
                there = observed.listed((subcluster, pair[0]))
                absent = not isinstance(there, Unknown) and pair[1] not in there
                allowed = observed.will((subcluster, pair[0]), pair[1]) in ("", LISTED)
                expected = ready and welcome and absent and allowed and wish.component not in switching
                assert ((wish.release, subcluster, pair) in added) == expected


def check_nothing_is_removed_because_of_something_unknown(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, Remove):
            assert not isinstance(observed.published, Unknown)
            assert not isinstance(observed.in_use, Unknown)
            assert not isinstance(observed.installed, Unknown)
            for (_, vo), there in (*observed.tags.items(), *observed.former_tags.items()):
                assert not isinstance(there, Unknown) or vo not in _wish(desired, action.release).tags
        if isinstance(action, RemoveTags) and isinstance(observed.installed, Unknown):
            wish = _wish(desired, action.release)
            assert wish.stance is Stance.UNWANTED or not wish.announce or _is_former(desired, action)


def check_an_unknown_soft_or_stale_verdict_never_untags(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, RemoveTags):
            wish = _wish(desired, action.release)
            if wish.stance is not Stance.UNWANTED and wish.announce and not _is_former(desired, action):
                installed = observed.installed.get(action.release)
                critical = installed is not None and any(
                    (seen := observed.probes.get((wish.release, probe))) is not None
                    and seen.status is Status.CRITICAL
                    and seen.hard
                    and seen.profile == installed.profile
                    for probe in wish.probes
                )
                assert installed is None or installed.fault or critical


def _known(lists):
    return {where: there for where, there in lists.items() if not isinstance(there, Unknown)}


def _is_former(desired, action) -> bool:
    return all((action.subcluster, vo) in desired.former for vo, _ in action.tags)


def check_lists_that_are_served_no_more_lose_our_tags_whatever_else_holds(plan, desired, observed):
    removed = {
        (action.subcluster, tag)
        for action in plan.plan(desired, observed, NOW)
        if isinstance(action, RemoveTags)
        for _, tag in action.tags
    }
    for wish in desired.wishes:
        for subcluster, vo in desired.former:
            lists = observed.former_tags if subcluster == GIVEN_UP else observed.tags
            listed = wish.known_tags[vo] in _known(lists).get((subcluster, vo), ())
            assert not listed or desired.observing or (subcluster, wish.known_tags[vo]) in removed


def check_a_site_that_observes_does_nothing(plan, desired, observed):
    assert not desired.observing or plan.plan(desired, observed, NOW) == ()


def check_quiet_hours_allow_untagging_probes_and_notes_only(plan, desired, observed):
    if desired.quiet:
        loud = replace(desired, quiet="")
        allowed = tuple(a for a in plan.plan(loud, observed, NOW) if isinstance(a, RemoveTags | Probe | Drain))
        assert plan.plan(desired, observed, NOW) == allowed


def check_a_release_with_open_steps_is_neither_made_current_nor_tagged(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, AddTags) or (isinstance(action, Switch) and action.release is not None):
            assert not _wish(desired, action.release).open_steps


def check_tags_that_must_not_stand_are_removed_at_once_even_when_paused(plan, desired, observed):
    if desired.observing:
        return
    removed = {
        (action.subcluster, tag)
        for action in plan.plan(desired, observed, NOW)
        if isinstance(action, RemoveTags)
        for _, tag in action.tags
    }
    for wish in desired.wishes:
        if wish.stance is Stance.UNWANTED or not wish.announce:
            for (subcluster, vo), there in _known(observed.tags).items():
                tag = wish.tags.get(vo)
                assert tag not in there or (subcluster, tag) in removed


def check_a_damaged_or_failing_release_is_untagged(plan, desired, observed):
    if isinstance(observed.installed, Unknown) or desired.observing:
        return
    removed = {tag for a in plan.plan(desired, observed, NOW) if isinstance(a, RemoveTags) for _, tag in a.tags}
    for wish in desired.wishes:
        installed = observed.installed.get(wish.release)
        failing = installed is not None and any(
            (seen := observed.probes.get((wish.release, probe))) is not None
            and seen.status is Status.CRITICAL
            and seen.hard
            and seen.profile == installed.profile
            for probe in wish.probes
        )
        if installed is None or installed.fault or failing:
            forgiven = wish.stance is not Stance.UNWANTED and wish.announce and installed and not installed.fault
            listed = {
                wish.tags[vo]
                for (subcluster, vo), there in _known(observed.tags).items()
                if wish.tags.get(vo) in there
                and not (forgiven and observed.will((subcluster, vo), wish.tags[vo]) == LISTED)
            }
            assert listed <= removed


def check_what_a_person_decided_of_a_tag_holds_against_the_probes(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, AddTags):
            for vo, tag in action.tags:
                assert observed.will((action.subcluster, vo), tag) in ("", LISTED)
        if isinstance(action, RemoveTags) and action.reason == "a probe failed":
            assert not any(observed.will((action.subcluster, vo), tag) == LISTED for vo, tag in action.tags)


def check_a_tree_goes_only_when_untagged_drained_unused_and_not_current(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, Remove):
            wish = _wish(desired, action.release)
            assert wish.stance is Stance.UNWANTED
            assert not desired.paused
            for lists in (observed.tags, observed.former_tags):
                assert not any(wish.tags.get(vo) in there for (_, vo), there in _known(lists).items())
            assert not desired.quiet
            published = observed.published or {}
            assert not any(tag in there for there in published.values() for tag in wish.tags.values())
            assert NOW - observed.draining[action.release] >= timedelta(seconds=DRAIN_S)
            assert action.release not in observed.in_use
            assert not isinstance(observed.pins, Unknown)
            assert action.release not in observed.pins
            assert observed.current.get(wish.component) != action.release


def check_only_a_ready_release_becomes_current_and_an_older_one_only_for_a_fault(plan, desired, observed):
    by_id = {release.id: release for release in RELEASES}
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, Switch):
            sitting = observed.current.get(action.component)
            if action.release is not None:
                wish = _wish(desired, action.release)
                assert wish.stance is Stance.WANTED
                assert plan.is_ready(wish, observed, MAX_AGE_S, NOW)
                if sitting is not None and version_key(by_id[action.release].version) < version_key(
                    by_id[sitting].version
                ):
                    assert _at_fault(desired, observed, sitting)
            if action.release is None:
                assert _at_fault(desired, observed, sitting)


def check_a_current_release_at_fault_is_switched_away(plan, desired, observed):
    if desired.paused or desired.quiet or desired.observing or isinstance(observed.installed, Unknown):
        return
    switched = {action.component for action in plan.plan(desired, observed, NOW) if isinstance(action, Switch)}
    for component, release in observed.current.items():
        if any(wish.component == component for wish in desired.wishes):
            assert component in switched or not _at_fault(desired, observed, release)


def _at_fault(desired, observed, release) -> bool:
    wish = next((wish for wish in desired.wishes if wish.release == release), None)
    installed = observed.installed.get(release)
    return (
        wish is None
        or wish.stance is Stance.UNWANTED
        or installed is None
        or bool(installed.fault)
        or pps_agent.plan.is_broken(wish, observed)
    )


def check_a_paused_site_only_untags(plan, desired, observed):
    if desired.paused:
        assert all(isinstance(action, RemoveTags) for action in plan.plan(desired, observed, NOW))


def check_a_held_release_is_not_touched_but_for_untagging(plan, desired, observed):
    for action in plan.plan(desired, observed, NOW):
        if isinstance(action, Install | Compose | Probe | AddTags | Drain | Undrain | Remove):
            assert _wish(desired, action.release).stance is not Stance.HELD


def check_one_release_is_prepared_whatever_happens_to_another_component(plan, desired, observed):
    alone = replace(desired, wishes=tuple(w for w in desired.wishes if w.component == "gfal"))
    together = plan.plan(desired, observed, NOW)
    gfal = {wish.release for wish in alone.wishes}
    kept = [a for a in together if getattr(a, "component", None) == "gfal" or getattr(a, "release", None) in gfal]
    if gfal:
        assert list(plan.plan(alone, observed, NOW)) == kept


def check_acting_reaches_a_fixpoint_within_the_longest_chain(plan, desired, observed):
    for verdict in (Status.OK, Status.CRITICAL, Status.UNKNOWN):
        world = observed
        for _ in range(plan.LONGEST_CHAIN + 4):
            actions = plan.plan(desired, world, NOW)
            if not actions:
                break
            for action in actions:
                world = act(world, action, NOW, lambda _, verdict=verdict: verdict)
        assert plan.plan(desired, world, NOW) == ()


def check_a_wanted_release_that_passes_ends_up_current_and_tagged(plan, desired, observed):
    world = observed
    if desired.paused or desired.quiet or desired.observing or isinstance(observed.profile, Unknown):
        return
    if isinstance(observed.installed, Unknown):
        return
    for _ in range(plan.LONGEST_CHAIN + 4):
        for action in plan.plan(desired, world, NOW + timedelta(days=60)):
            world = act(world, action, NOW + timedelta(days=60), lambda _: Status.OK)
    for wish in desired.wishes:
        if wish.stance is Stance.WANTED and wish.probes and not wish.open_steps:
            assert wish.component in world.current
            for (subcluster, vo), there in _known(world.tags).items():
                tag = wish.tags.get(vo)
                wanted = tag is not None and observed.will((subcluster, vo), tag) in ("", LISTED)
                assert not wanted or tag in there or not wish.announce


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]


def _run(check: Check, plan: ModuleType, seed: int, worlds: int) -> None:
    for number, (desired, observed) in enumerate(_draw_worlds(seed, worlds)):
        try:
            check(plan, desired, observed)
        except AssertionError:
            print(f"seed {seed}, world {number}:\n{desired}\n{observed}")
            raise


@lru_cache(maxsize=1)
def _draw_worlds(seed: int, count: int) -> list[tuple[Desired, Observed]]:
    rng = Random(seed)
    return [(draw_desired(rng), draw_observed(rng)) for _ in range(count)]


SEED = randrange(2**32)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_plan_keeps_its_promise_that(check: Check) -> None:
    _run(check, pps_agent.plan, SEED, worlds=2500)


PLANTED = [
    ("wish.stance is Stance.UNWANTED or not wish.announce:\n        return wish.reason", "wish.stance is Stance.UNWANTED:\n        return wish.reason"),
    ('    if installed is None:\n        return "its tree is not installed"\n', ""),
    ("    if isinstance(observed.installed, Unknown):\n        return \"\"\n    installed = observed.installed.get(wish.release)\n    if installed is None:\n", "    installed = None if isinstance(observed.installed, Unknown) else observed.installed.get(wish.release)\n    if installed is None:\n"),
    ("    if is_broken(wish, observed):\n        return _FAILED\n", ""),
    ("seen.status is Status.CRITICAL and seen.hard", "seen.status is not Status.OK and seen.hard"),
    ("seen.status is Status.CRITICAL and seen.hard", "seen.status is Status.CRITICAL"),
    ("    if desired.paused:\n        return tuple(untagging)\n", ""),
    ("if desired.paused:\n        return tuple(untagging)", "if desired.paused:\n        return ()"),
    ("if wish.component not in unsettled:", "if True:"),
    ("        elif wish.stance is Stance.WANTED:\n            yield from _prepare", "        else:\n            yield from _prepare"),
    ("installed is not None\n        and not installed.fault\n", "installed is not None\n"),
    ("        and _is_composed(installed, observed)\n        and is_passing", "        and is_passing"),
    ("if installed is None or not wish.probes:\n        return False\n    return all(", "if installed is None:\n        return False\n    return all("),
    ("return all(_is_fresh_ok", "return any(_is_fresh_ok"),
    ("abs(now - seen.at) < timedelta(seconds=max_age_s)", "abs(now - seen.at) < timedelta(days=max_age_s)"),
    ("seen is not None and seen.status is Status.OK and abs", "seen is not None and abs"),
    ("seen if seen is not None and seen.profile == installed.profile else None", "seen"),
    ("    if wish.release in observed.draining:\n        yield Undrain(wish.release)\n", ""),
    ("if installed is None or installed.fault:\n        yield Install", "if installed is None:\n        yield Install"),
    ("for lists in (observed.tags, observed.former_tags)\n", "for lists in (observed.former_tags,)\n"),
    ("    if observed.current.get(wish.component) == wish.release:\n        return\n    since", "    since"),
    ("and _is_drained(wish, observed)\n        and now - since", "and now - since"),
    ("not _is_pinned(wish, observed)\n        and ", ""),
    ("isinstance(observed.pins, Unknown) or wish.release in observed.pins", "not isinstance(observed.pins, Unknown) and wish.release in observed.pins"),
    ("isinstance(observed.published, Unknown) or isinstance(observed.in_use, Unknown)", "isinstance(observed.in_use, Unknown)"),
    ("    shown = frozenset[Tag]().union(*(observed.published or {}).values())\n", "    shown = frozenset[Tag]()\n"),
    ("return shown.isdisjoint(wish.tags.values()) and wish.release not in observed.in_use", "return shown.isdisjoint(wish.tags.values())"),
    ("now - since >= timedelta(seconds=desired.drain_s)", "now - since >= timedelta(seconds=0)"),
    ("if wish.stance is Stance.WANTED\n        and not wish.open_steps\n", "if not wish.open_steps\n"),
    ("        and not wish.open_steps\n", ""),
    ("    if desired.observing:\n        return ()\n", ""),
    ("return not desired.quiet or isinstance(action, Probe | Drain)", "return not desired.quiet or isinstance(action, Probe | Drain | Remove)"),
    ("return not desired.quiet or isinstance(action, Probe | Drain)", "return not desired.quiet or isinstance(action, Probe | Drain | AddTags)"),
    ("return not desired.quiet or isinstance(action, Probe | Drain)", "return not desired.quiet or isinstance(action, Drain)"),
    ("return not desired.quiet or isinstance(action, Probe | Drain)", "return True"),
    ("    if desired.paused:\n        return tuple(untagging)\n", "    if desired.paused or desired.quiet:\n        return ()\n"),
    ("if (subcluster, vo) in desired.former\n", "if wish.stance is Stance.UNWANTED and (subcluster, vo) in desired.former\n"),
    ("if (subcluster, vo) in desired.former\n", "if True\n"),
    ("for lists in (observed.tags, observed.former_tags)\n", "for lists in (observed.tags,)\n"),
    ("(isinstance(there, Unknown) or wish.tags[vo] in there)", "not isinstance(there, Unknown) and wish.tags[vo] in there"),
    ("return not isinstance(there, Unknown) and tag in there", "return isinstance(there, Unknown) or tag in there"),
    ("not isinstance(there := observed.listed((subcluster, vo)), Unknown)\n            and tag not in there", "(isinstance(there := observed.listed((subcluster, vo)), Unknown) or tag not in there)"),
    ("seen = {**observed.former_tags, **observed.tags}", "seen = observed.tags"),
    ("wish.release == current and not _is_at_fault(wish, observed)", "wish.release == current"),
    ("    if sitting is not None:\n        ready.append(sitting)\n", ""),
    ("return max(ready, key", "return min(ready, key"),
    ("if wish.stance is not Stance.WANTED or not wish.announce:\n        return\n", "if wish.stance is not Stance.WANTED:\n        return\n"),
    ("if wish.release in observed.draining or not is_ready", "if not is_ready"),
    ("if wish.release in observed.draining or not is_ready(wish, observed, desired.probe_max_age_s, now):", "if wish.release in observed.draining:"),
    ("in listed_tags(wish, observed, subcluster)\n", "in listed_tags(wish, observed, subcluster)[:1]\n"),
    ("            and observed.will((subcluster, vo), tag) in (\"\", LISTED)\n", ""),
    ("observed.will((subcluster, vo), tag) in (\"\", LISTED)", "observed.will((subcluster, vo), tag) != \"unlisted\""),
    ("losing[wish.release] == _FAILED and observed.will", "observed.will"),
    ("losing[wish.release] == _FAILED and observed.will((subcluster, vo), tag) == LISTED", "False"),
    ("limit = desired.probe_max_age_s / 2 if", "limit = 0 if"),
    ("return tuple(dict.fromkeys((*desired.subclusters, *sorted(subcluster for subcluster, _ in observed.tags))))", "return desired.subclusters[:1]"),
]  # fmt: skip


@contextmanager
def _planted(old: str, new: str) -> Iterator[ModuleType]:
    source = Path(pps_agent.plan.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"the planted fault no longer fits the source: {old!r}"
    module = ModuleType("planted_plan")
    sys.modules[module.__name__] = module
    exec(compile(source.replace(old, new), "planted_plan", "exec"), module.__dict__)
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize(("old", "new"), PLANTED, ids=range(len(PLANTED)))
def test_a_fault_planted_in_the_plan_is_caught(old: str, new: str) -> None:
    with _planted(old, new) as plan:
        caught = next((check.__name__ for check in CHECKS if _fails(check, plan)), "")
    assert caught, f"no check notices {new!r} in place of {old!r}"


def _fails(check: Check, plan: ModuleType) -> bool:
    try:
        _run(check, plan, seed=1, worlds=9000)
    except (AssertionError, KeyError, AttributeError, TypeError):
        return True
    return False


def test_a_tag_shared_with_a_release_that_stays_is_not_removed() -> None:
    old, new = RELEASES[0], RELEASES[1]
    tags = dict(new.tags())
    desired = make_desired(make_wish(old, Stance.UNWANTED, tags=tags), make_wish(new))
    world = make_observed(tags={(SUBCLUSTERS[0], vo): frozenset({tag}) for vo, tag in tags.items()})
    for _ in range(4):
        for action in pps_agent.plan.plan(make_desired(make_wish(new)), world, NOW):
            world = act(world, action, NOW, lambda _: Status.OK)
    assert not any(isinstance(a, RemoveTags) for a in pps_agent.plan.plan(desired, world, NOW))


def test_the_first_round_of_an_empty_site_installs_composes_probes_switches_and_tags_in_that_order() -> None:
    desired = make_desired(make_wish(RELEASES[2]))
    world, seen = make_observed(), []
    while actions := pps_agent.plan.plan(desired, world, NOW):
        seen.append([type(action) for action in actions])
        for action in actions:
            world = act(world, action, NOW, lambda _: Status.OK)
    assert seen == [[Install], [Compose], [Probe], [Switch], [AddTags, AddTags]]
    assert world.installed[RELEASES[2].id].profile == PROFILE
    assert {probe for _, probe in world.probes} == set(PROBES)


def test_a_verdict_from_a_clock_that_was_ahead_is_asked_again_and_proves_nothing() -> None:
    release = RELEASES[2]
    ahead = ProbeSeen(Status.OK, NOW + timedelta(days=30), "fine", PROFILE)
    world = make_observed(
        installed={release.id: Installed(release, PROFILE)},
        probes={(release.id, probe): ahead for probe in PROBES},
    )
    desired = make_desired(make_wish(release))
    assert pps_agent.plan.plan(desired, world, NOW) == (Probe(release.id, PROBES),)
