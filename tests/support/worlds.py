"""Small worlds for the plan's property tests: every combination of wishes and sights, and a model that acts."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

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
from pps_agent.tags.life import LISTED, UNLISTED, Life, TagState
from pps_wire.names import Component, Platform, ProbeName, ReleaseId, Subcluster, Tag, Version, Vo
from pps_wire.release import Artifact, Release, ReleaseClass, Requires
from pps_wire.report import Status

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MAX_AGE_S = 4 * 3600
RETRY_S = 600
DRAIN_S = 86_400
PROFILE = "profile-a"
PLATFORM = Platform("x86_64-glibc2.36")
PROBES = (ProbeName("org.pps.wn.env"), ProbeName("org.pps.se.xroot"))
SUBCLUSTERS = (Subcluster("ce1.example.org"), Subcluster("ce2.example.org"))
GIVEN_UP = Subcluster("ce0.example.org")
"""Not served any more, but its lists may still hold tags of ours."""


def make_release(component: str, version: str, vos: tuple[str, ...] = ("dteam", "ops"), **fields: object) -> Release:
    """Give a release description with harmless defaults."""
    values: dict[str, object] = {
        "component": Component(component),
        "version": Version(version),
        "platform": PLATFORM,
        "class_": ReleaseClass.CLIENT_BC,
        "vos": tuple(Vo(vo) for vo in vos),
        "tag_suffix": f"pps-{component}-{version}",
        "requires": Requires(arch="x86_64", glibc="2.17"),
        "artifact": Artifact(path="artifacts/a.tar.zst", length=1, sha256="0" * 64, installed_bytes=1, files=1),
        "probes": PROBES,
    }
    return Release(**(values | fields))  # type: ignore[arg-type]


RELEASES = tuple(make_release(c, v) for c, v in (("xroot", "1.0"), ("xroot", "1.1"), ("gfal", "2.0")))
GIVEN_UP_VO = Vo("cms")


def known_tags(release: Release) -> dict[Vo, Tag]:
    """Give a release's tags, one of a VO that the site gave up among them."""
    return {**release.tags(), GIVEN_UP_VO: Tag(f"VO-{GIVEN_UP_VO}-{release.tag_suffix}")}


ALL_TAGS = tuple(sorted(tag for release in RELEASES for tag in known_tags(release).values()))


def make_wish(release: Release, stance: Stance = Stance.WANTED, **fields: object) -> Wish:
    """Give the wish a policy would make of a release."""
    values: dict[str, object] = {
        "release": release.id,
        "component": release.component,
        "version": release.version,
        "stance": stance,
        "reason": "because",
        "tags": release.tags(),
        "known_tags": known_tags(release),
        "probes": release.probes,
    }
    return Wish(**(values | fields))  # type: ignore[arg-type]


def make_desired(*wishes: Wish, **fields: object) -> Desired:
    """Give a desired state with this module's limits."""
    values: dict[str, object] = {
        "wishes": wishes,
        "subclusters": SUBCLUSTERS,
        "probe_max_age_s": MAX_AGE_S,
        "probe_retry_s": RETRY_S,
        "drain_s": DRAIN_S,
    }
    return Desired(**(values | fields))  # type: ignore[arg-type]


def make_observed(**fields: object) -> Observed:
    """Give the sight of an empty site whose every part could be looked at."""
    values: dict[str, object] = {
        "installed": {},
        "current": {},
        "profile": PROFILE,
        "probes": {},
        "tags": {},
        "published": None,
        "draining": {},
        "in_use": frozenset(),
    }
    return Observed(**(values | fields))  # type: ignore[arg-type]


_UNKNOWN = Unknown("could not look")
_AGES_S = (-2 * MAX_AGE_S, 0, 60, RETRY_S, MAX_AGE_S // 2 + 1, MAX_AGE_S, MAX_AGE_S + 1, 30 * 86_400)
_DRAINS = (NOW, NOW - timedelta(seconds=DRAIN_S), NOW - timedelta(days=9))


def draw_desired(rng: Random) -> Desired:
    """Give any wish for any subset of the releases."""
    wishes = [
        make_wish(
            release,
            rng.choice([Stance.WANTED, *Stance]),
            announce=not steps and rng.random() < 0.85,
            open_steps=steps,
            probes=rng.choice([PROBES, PROBES, PROBES[:1], ()]),
        )
        for release in RELEASES
        if rng.random() < 0.75
        for steps in [rng.choice([(), (), (), ("open-port",)])]
    ]
    lists = [*((GIVEN_UP, vo) for vo in known_tags(RELEASES[0])), (SUBCLUSTERS[0], GIVEN_UP_VO)]
    former = {(subcluster, vo) for subcluster, vo in lists if rng.random() < 0.3}
    return make_desired(
        *wishes,
        paused=rng.random() < 0.15,
        quiet=rng.choice(["", "", "", "quiet hours until mon 18:00"]),
        observing=rng.random() < 0.1,
        former=frozenset(former),
    )


def draw_observed(rng: Random) -> Observed:
    """Give any sight of the site, each part of which may be unknown; half of the verdicts are fresh passes."""

    def or_unknown(value: Any, chance: float = 0.15) -> Any:
        return _UNKNOWN if rng.random() < chance else value

    def lists_or_unknown(lists: dict[VoList, Any]) -> dict[VoList, Any]:
        """Make none unknown, or some."""
        chance = rng.choice([0.0, 0.0, 0.0, 0.2])
        return {where: or_unknown(there, chance) for where, there in lists.items()}

    installed = {
        release.id: Installed(
            release,
            profile=rng.choice([PROFILE, PROFILE, PROFILE, "profile-old", ""]),
            fault=rng.choice(["", "", "", "", "bin/xrdcp: 3 bytes where the manifest says 4"]),
        )
        for release in RELEASES
        if rng.random() < 0.7
    }
    current = {
        component: rng.choice(there)
        for component in (Component("xroot"), Component("gfal"))
        if (there := [r.id for r in RELEASES if r.component == component and r.id in installed]) and rng.random() < 0.5
    }
    return Observed(
        installed=or_unknown(installed),
        current=current,
        profile=or_unknown(PROFILE),
        probes={
            (release.id, probe): _draw_verdict(rng, installed.get(release.id))
            for release in RELEASES
            for probe in PROBES
            if rng.random() < 0.85
        },
        tags=lists_or_unknown(_draw_tags(rng, SUBCLUSTERS)),
        published=or_unknown(rng.choice([None, _draw_published(rng)])),
        draining={release.id: rng.choice(_DRAINS) for release in RELEASES if rng.random() < 0.4},
        in_use=or_unknown(frozenset(release.id for release in RELEASES if rng.random() < 0.3)),
        pins=or_unknown({release.id: "keep" for release in RELEASES if rng.random() < 0.2}),
        lives=lists_or_unknown(_draw_lives(rng)),
        former_tags=lists_or_unknown(_draw_tags(rng, (GIVEN_UP,))),
    )


def _draw_verdict(rng: Random, installed: Installed | None) -> ProbeSeen:
    if rng.random() < 0.6:
        return ProbeSeen(Status.OK, NOW, "fine", PROFILE if installed is None else installed.profile)
    at = NOW - timedelta(seconds=rng.choice(_AGES_S))
    profile = rng.choice([PROFILE, PROFILE, "profile-old"])
    return ProbeSeen(rng.choice(list(Status)), at, "said so", profile, hard=rng.random() < 0.7)


def _draw_lives(rng: Random) -> dict[VoList, dict[Tag, Life]]:
    density = rng.choice([0.0, 0.0, 0.5])
    return {
        (subcluster, vo): {
            release.tags()[vo]: Life(rng.choice(list(TagState)), release.id, None, rng.choice(["", LISTED, UNLISTED]))
            for release in RELEASES
            if rng.random() < density
        }
        for vo in RELEASES[0].tags()
        for subcluster in SUBCLUSTERS
    }


def _draw_tags(rng: Random, subclusters: tuple[Subcluster, ...]) -> dict[VoList, frozenset[Tag]]:
    density = rng.choice([0.0, 0.0, 0.3, 0.7])
    return {
        (subcluster, vo): frozenset(
            tag for release in RELEASES for tag in [known_tags(release)[vo]] if rng.random() < density
        )
        for subcluster in subclusters
        for vo in known_tags(RELEASES[0])
    }


def _draw_published(rng: Random) -> dict[Subcluster, frozenset[Tag]]:
    density = rng.choice([0.0, 0.3, 0.7])
    return {subcluster: frozenset(tag for tag in ALL_TAGS if rng.random() < density) for subcluster in SUBCLUSTERS}


def act(observed: Observed, action: Action, now: datetime, verdict: Callable[[ReleaseId], Status]) -> Observed:
    """Give the world after one action that did what it says; probes answer by ``verdict``."""
    installed = {} if isinstance(observed.installed, Unknown) else dict(observed.installed)
    match action:
        case Install(release):
            description = next(known for known in RELEASES if known.id == release)
            verdicts = {key: seen for key, seen in observed.probes.items() if key[0] != release}
            return replace(observed, installed=installed | {release: Installed(description)}, probes=verdicts)
        case Compose(release):
            assert isinstance(observed.profile, str)
            return replace(
                observed, installed=installed | {release: replace(installed[release], profile=observed.profile)}
            )
        case Probe(release, probes):
            seen = ProbeSeen(verdict(release), now, "ran", installed[release].profile)
            return replace(observed, probes=dict(observed.probes) | {(release, probe): seen for probe in probes})
        case Switch(component, release):
            others = {key: value for key, value in observed.current.items() if key != component}
            return replace(observed, current=others if release is None else others | {component: release})
        case AddTags(_, subcluster, tags):
            for vo, tag in tags:
                observed = _with_list(observed, (subcluster, vo), lambda there, tag=tag: there | {tag})
            return observed
        case RemoveTags(_, subcluster, tags):
            for vo, tag in tags:
                observed = _with_list(observed, (subcluster, vo), lambda there, tag=tag: there - {tag})
            return observed
        case Drain(release):
            return replace(observed, draining={**observed.draining, release: now})
        case Undrain(release):
            return replace(observed, draining={k: v for k, v in observed.draining.items() if k != release})
        case Remove(release):
            return replace(
                observed,
                installed={k: v for k, v in installed.items() if k != release},
                draining={k: v for k, v in observed.draining.items() if k != release},
            )


def _with_list(observed: Observed, where: VoList, change: Callable[[frozenset[Tag]], frozenset[Tag]]) -> Observed:
    lists = observed.former_tags if where[0] == GIVEN_UP else observed.tags
    there = lists.get(where, frozenset())
    assert not isinstance(there, Unknown)
    changed = {**lists, where: change(there)}
    return replace(observed, former_tags=changed) if where[0] == GIVEN_UP else replace(observed, tags=changed)
