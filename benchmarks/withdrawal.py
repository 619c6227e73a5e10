"""``withdraw-to-untag``: from a withdrawal's publication to the end of its tags, by a simulated clock.

Real are the settings' defaults, the daemon's rhythm with APScheduler's own trigger and jitter, the policy and the plan.
Simulated are the time, the phases, how long a look and a round take, and that some looks fail.
"""

import random
import statistics
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from apscheduler.triggers.interval import IntervalTrigger

from benchmarks.measure import Claim
from pps_agent.daemon import find_rhythm
from pps_agent.plan import plan
from pps_agent.policy import Resolve, desire
from pps_agent.settings import DaemonSettings, PolicySettings, RepositorySettings, Settings, SiteSettings
from pps_agent.state import Installed, ManifestRef, NodeFacts, Observed, Offer, ReleaseSet, RemoveTags
from pps_wire.names import Site, Subcluster, Vo, parse_component, parse_platform, parse_version
from pps_wire.release import Artifact, Release, ReleaseClass, Requires, Withdrawal

RUNS: Final = 4000
FAILING: Final = 0.1
"""Share of looks at the repository that fail, each for itself."""
LIMIT_S: Final = 15 * 60
_START: Final = datetime(2026, 11, 22, tzinfo=UTC)
_SUBCLUSTER: Final = Subcluster("ce.example.org")


def measure() -> Iterator[Claim]:
    """Measure the 95th percentile of the delay, beside rounds alone without looks for news between them."""
    usual = DaemonSettings()
    rounds_alone = replace(usual, refresh_interval_s=usual.interval_s)
    value, peer = (_percentile(daemon, random.Random(1)) for daemon in (usual, rounds_alone))
    yield Claim(
        "withdraw-to-untag",
        round(value, 1),
        "s",
        "rounds alone",
        round(peer, 1),
        round(value / peer, 3),
        f"p95 <= {LIMIT_S} s",
        value <= LIMIT_S,
    )


def _percentile(daemon: DaemonSettings, rng: random.Random) -> float:
    if not _untags():
        raise AssertionError("the plan does not untag a withdrawn release")
    random.seed(rng.random())  # APScheduler's jitter draws from the module's generator
    return statistics.quantiles((_delay_s(daemon, rng) for _ in range(RUNS)), n=20)[-1]


def _delay_s(daemon: DaemonSettings, rng: random.Random) -> float:
    """Give one delay: the first look that begins after the publication, succeeds and is not blocked."""
    published_at = _START + timedelta(seconds=rng.uniform(0, 4 * daemon.interval_s))
    jobs = {name: every for name, every in find_rhythm(daemon).items() if name in ("round", "news")}
    triggers: dict[str, Any] = {name: IntervalTrigger(timezone=UTC, **every) for name, every in jobs.items()}
    due = {name: _START + timedelta(seconds=rng.uniform(0, every["seconds"])) for name, every in jobs.items()}
    round_ends_at = _START
    while True:
        name = min(due, key=lambda job: due[job])
        at = due[name]
        due[name] = triggers[name].get_next_fire_time(at, at)
        if name == "round":
            if at < round_ends_at:
                continue  # the one before still runs: the daemon skips this one
            round_ends_at = at + timedelta(seconds=_round_s(rng))
        look_s = rng.uniform(0.5, 5)
        if at >= published_at and rng.random() >= FAILING:
            return (at - published_at).total_seconds() + look_s


def _round_s(rng: random.Random) -> float:
    """Give how long a round takes: mostly seconds, one in fifty an installation of up to an hour."""
    return rng.uniform(600, 3600) if rng.random() < 0.02 else rng.uniform(1, 20)


def _untags() -> bool:
    """Tell whether policy and plan, asked with a withdrawn release whose tag stands, remove that tag at once."""
    release = Release(
        component=parse_component("grid-clients"),
        version=parse_version("1.0"),
        platform=parse_platform("x86_64-glibc2.17"),
        class_=ReleaseClass.CLIENT_BC,
        vos=(Vo("dteam"),),
        tag_suffix="pps-1.0",
        requires=Requires(arch="x86_64", glibc="2.17"),
        artifact=Artifact(path="artifacts/a", length=1, sha256="0" * 64, installed_bytes=1, files=1),
    )
    settings = Settings(
        site=SiteSettings(name=Site("A"), vos=(Vo("dteam"),), subclusters=(_SUBCLUSTER,)),
        repository=RepositorySettings(url="https://r", root=Path("/r")),
        policy=PolicySettings(install_bc="auto"),
    )
    withdrawal = Withdrawal(release=release.id, reason="crashes", at=_START)
    offered = ReleaseSet(
        (Offer(release, ManifestRef("clients/x", 1, "0" * 64), withdrawal),), _START + timedelta(days=1)
    )
    installed = {release.id: Installed(release)}
    node = NodeFacts("x86_64", (2, 36), "debian12")
    desired = desire(offered, installed, settings, Resolve({}), node, _START)
    tags = {(_SUBCLUSTER, vo): frozenset({tag}) for vo, tag in release.tags().items()}
    observed = Observed(installed, {}, "profile", {}, tags, None, {}, frozenset())
    actions = plan(replace(desired, paused=True), observed, _START)
    return any(isinstance(action, RemoveTags) for action in actions)
