"""What the site wants of each release, and the reason it gives: one row a reason."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pps_agent.node import family_of
from pps_agent.policy import DEFAULT_PROBES, Circumstances, Consent, Decision, Resolve, await_trees, desire, find_unmet
from pps_agent.settings import PolicySettings, RepositorySettings, Settings, SiteSettings
from pps_agent.state import Installed, ManifestRef, NodeFacts, Offer, ReleaseSet, Stance, Unknown, Wish
from pps_wire.names import Component, Platform, ReleaseId, Site, Subcluster, Vo
from pps_wire.release import ConfigStep, Release, ReleaseClass, Requires, Withdrawal
from tests.support.worlds import NOW, make_release

NODE = NodeFacts(arch="x86_64", glibc=(2, 36), os="debian12")
FRESH = NOW + timedelta(days=1)
GRACE_S = 3600
AUTO = PolicySettings(install_bc="auto", install_nbc="auto")
STEPS = (ConfigStep(id="new-bdii", text="set it"), ConfigStep(id="open-port", text="open it"))


def make_settings(policy: PolicySettings = AUTO, vos: tuple[str, ...] = ("dteam",)) -> Settings:
    return Settings(
        site=SiteSettings(name=Site("A"), vos=tuple(Vo(vo) for vo in vos), subclusters=(Subcluster("ce"),)),
        repository=RepositorySettings(url="https://r", root=Path("/r"), trust_grace_s=GRACE_S),
        policy=policy,
    )


def wish_for(
    release: Release,
    *,
    policy: PolicySettings = AUTO,
    vos: tuple[str, ...] = ("dteam",),
    resolve: Resolve | None = None,
    expires_in_s: float = 86_400,
    withdrawn: Withdrawal | None = None,
    node: NodeFacts = NODE,
) -> Wish:
    offer = Offer(release, ManifestRef("clients/x", 1, "0" * 64), withdrawn)
    offered = ReleaseSet((offer,), NOW + timedelta(seconds=expires_in_s))
    (wish,) = desire(offered, {}, make_settings(policy, vos), resolve or Resolve({}), node, NOW).wishes
    return wish


BC = make_release("xroot", "1.0")
NBC = make_release("xroot", "1.0", class_=ReleaseClass.CLIENT_NBC, config_steps=STEPS)
DECLINED = Resolve({BC.id: Consent(Decision.DECLINE, "too new")})
ACCEPTED = Resolve({BC.id: Consent(Decision.ACCEPT)})

WITHDRAWN = Withdrawal(release=BC.id, reason="eats files", at=NOW)
Row = tuple[Release, Mapping[str, Any], Stance, bool, str]
ROWS: dict[str, Row] = {
    "accepted": (BC, {}, Stance.WANTED, True, "accepted by policy"),
    "withdrawn": (BC, {"withdrawn": WITHDRAWN}, Stance.UNWANTED, True, "withdrawn: eats files"),
    "withdrawn though trust is stale": (
        BC,
        {"withdrawn": WITHDRAWN, "expires_in_s": -9},
        Stance.UNWANTED,
        True,
        "withdrawn: eats files",
    ),
    "withdrawn though accepted": (
        BC,
        {"withdrawn": WITHDRAWN, "resolve": ACCEPTED},
        Stance.UNWANTED,
        True,
        "withdrawn: eats files",
    ),
    "leaving": (
        BC,
        {"resolve": Resolve({}, leaving=True)},
        Stance.UNWANTED,
        True,
        "the site is leaving (pps-agent resume takes it back)",
    ),
    "declined": (BC, {"resolve": DECLINED}, Stance.UNWANTED, True, "declined by the site: too new"),
    "declined without a reason": (
        BC,
        {"resolve": Resolve({BC.id: Consent(Decision.DECLINE)})},
        Stance.UNWANTED,
        True,
        "declined by the site: no reason given",
    ),
    "expired": (
        make_release("xroot", "1.0", expires_at=NOW),
        {},
        Stance.UNWANTED,
        True,
        "expired 2026-11-22T12:00Z",
    ),
    "not expired yet": (
        make_release("xroot", "1.0", expires_at=NOW + timedelta(seconds=1)),
        {},
        Stance.WANTED,
        True,
        "accepted by policy",
    ),
    "component": (
        BC,
        {"policy": replace(AUTO, components=("gfal",))},
        Stance.UNWANTED,
        True,
        "policy.components does not list xroot",
    ),
    "component listed": (
        BC,
        {"policy": replace(AUTO, components=("xroot",))},
        Stance.WANTED,
        True,
        "accepted by policy",
    ),
    "class": (
        BC,
        {"policy": replace(AUTO, classes=("client-nbc",))},
        Stance.UNWANTED,
        True,
        "policy.classes does not list client-bc",
    ),
    "vo": (BC, {"vos": ("cms",)}, Stance.UNWANTED, True, "is for VOs dteam, ops; site.vos lists none of them"),
    "platform": (
        BC,
        {"policy": replace(AUTO, platforms=(Platform("x86_64-glibc2.17"),))},
        Stance.UNWANTED,
        True,
        "policy.platforms does not list x86_64-glibc2.36",
    ),
    "arch": (
        BC,
        {"node": replace(NODE, arch="aarch64")},
        Stance.UNWANTED,
        True,
        "requires architecture x86_64, this node is aarch64",
    ),
    "waits for consent, bc": (
        BC,
        {"policy": replace(AUTO, install_bc="manual")},
        Stance.HELD,
        True,
        f"waits for consent: pps-agent release accept {BC.id}",
    ),
    "waits for consent, nbc": (
        NBC,
        {"policy": replace(AUTO, install_nbc="manual")},
        Stance.HELD,
        False,
        f"waits for consent: pps-agent release accept {BC.id}",
    ),
    "accepted by a person": (
        BC,
        {"policy": PolicySettings(), "resolve": ACCEPTED},
        Stance.WANTED,
        True,
        "accepted by policy",
    ),
    "accepted, but not of this platform": (
        BC,
        {"resolve": ACCEPTED, "node": replace(NODE, arch="aarch64")},
        Stance.UNWANTED,
        True,
        "requires architecture x86_64, this node is aarch64",
    ),
    "nbc awaits configuration": (
        NBC,
        {},
        Stance.WANTED,
        False,
        "awaits configuration steps: new-bdii, open-port",
    ),
    "stale": (
        BC,
        {"expires_in_s": 0},
        Stance.HELD,
        True,
        "metadata expired 2026-11-22T12:00Z, within the grace of 3600 s",
    ),
    "stale, last moment of the grace": (
        BC,
        {"expires_in_s": -GRACE_S},
        Stance.HELD,
        True,
        "metadata expired 2026-11-22T11:00Z, within the grace of 3600 s",
    ),
    "stale beyond the grace": (
        BC,
        {"expires_in_s": -GRACE_S - 60},
        Stance.HELD,
        False,
        "metadata expired 2026-11-22T10:59Z, longer ago than the grace of 3600 s",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_case_has_its_stance_and_its_reason(name: str) -> None:
    release, circumstances, stance, announce, reason = ROWS[name]
    wish = wish_for(release, **circumstances)
    assert (stance, announce, reason) == (wish.stance, wish.announce, wish.reason)


@pytest.mark.parametrize(
    ("requires", "unmet"),
    [
        (Requires(arch="x86_64", glibc="2.36"), ""),
        (Requires(arch="noarch", glibc="2.17"), ""),
        (Requires(arch="x86_64", glibc="2.17", os="debian12"), ""),
        (Requires(arch="ppc64le", glibc="2.17"), "requires architecture ppc64le, this node is x86_64"),
        (Requires(arch="x86_64", glibc="2.37"), "requires glibc 2.37, this node has 2.36"),
        (Requires(arch="x86_64", glibc="2.100"), "requires glibc 2.100, this node has 2.36"),
        (Requires(arch="x86_64", glibc="3.0"), "requires glibc 3.0, this node has 2.36"),
        (Requires(arch="x86_64", glibc="2.17", os="rhel9"), "requires OS rhel9, this node is debian12"),
    ],
)
def test_an_unmet_requirement_names_what_is_needed_and_what_is_here(requires: Requires, unmet: str) -> None:
    assert unmet == find_unmet(make_release("xroot", "1.0", requires=requires), NODE)


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora", "VERSION_ID": "9.4", "PLATFORM_ID": "platform:el9"}, "el9"),
        ({"ID": "rhel", "ID_LIKE": "fedora", "VERSION_ID": "9.2", "PLATFORM_ID": "platform:el9"}, "el9"),
        ({"ID": "ol", "ID_LIKE": "fedora", "VERSION_ID": "8.10", "PLATFORM_ID": "platform:el8"}, "el8"),
        ({"ID": "centos", "ID_LIKE": "rhel fedora", "VERSION_ID": "7"}, "el7"),
        ({"ID": "fedora", "VERSION_ID": "40", "PLATFORM_ID": "platform:f40"}, ""),
        ({"ID": "debian", "VERSION_ID": "12"}, ""),
        ({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "24.04"}, ""),
        ({}, ""),
    ],
)
def test_every_rebuild_of_enterprise_linux_belongs_to_one_family(release: dict[str, str], family: str) -> None:
    assert family_of(release) == family


def test_a_release_for_a_family_or_for_one_of_its_rebuilds_is_met_by_that_rebuild_and_by_no_other() -> None:
    rocky = replace(NODE, os="rocky9", os_family="el9")
    told = {
        os: find_unmet(make_release("xroot", "1.0", requires=Requires(arch="x86_64", glibc="2.34", os=os)), rocky)
        for os in ("", "el9", "rocky9", "almalinux9", "el8")
    }
    assert told == {
        "": "",
        "el9": "",
        "rocky9": "",
        "almalinux9": "requires OS almalinux9, this node is rocky9 (el9)",
        "el8": "requires OS el8, this node is rocky9 (el9)",
    }


def test_a_wanted_release_is_announced_to_this_sites_vos_only_and_an_unwanted_one_cleared_for_all() -> None:
    assert list(wish_for(BC).tags) == ["dteam"]
    assert list(wish_for(BC, resolve=DECLINED).tags) == ["dteam", "ops"]


def test_a_release_that_names_no_probe_gets_the_default_ones() -> None:
    assert wish_for(make_release("xroot", "1.0", probes=())).probes == DEFAULT_PROBES
    assert BC.probes == wish_for(BC).probes


REACHED = {Component("xroot"): "1.0"}
GONE = Unknown("no such file")


@pytest.mark.parametrize(
    ("around", "stance", "reason"),
    [
        (Circumstances(), Stance.HELD, "on offer for 0.0 of policy.hold_for_h = 12 hours"),
        (Circumstances(waited_s={BC.id: 12 * 3600 - 1}), Stance.HELD, "on offer for 12.0 of"),
        (Circumstances(waited_s={BC.id: 12 * 3600}), Stance.WANTED, "accepted by policy"),
        (Circumstances(production=REACHED), Stance.UNWANTED, "handed over: production runs 1.0"),
        (Circumstances(production={Component("xroot"): "0.9"}), Stance.HELD, "on offer for"),
        (Circumstances(production={Component("xroot"): GONE}), Stance.HELD, "on offer for"),
        (
            Circumstances(production={Component("xroot"): GONE}, production_before=REACHED),
            Stance.HELD,
            "production ran 1.0; what it runs now is unknown: no such file",
        ),
    ],
)
def test_time_on_offer_and_production_bear_on_what_is_wanted(
    around: Circumstances, stance: Stance, reason: str
) -> None:
    settings = make_settings(replace(AUTO, hold_for_h=12))
    offers = ReleaseSet((Offer(BC, ManifestRef("clients/x", 1, "0" * 64)),), FRESH)
    (wish,) = desire(offers, {}, settings, Resolve({}), NODE, NOW, around).wishes
    assert (stance, reason in wish.reason) == (wish.stance, True), wish.reason
    there = {BC.id: Installed(BC)}
    (installed,) = desire(offers, there, settings, Resolve({}), NODE, NOW, around).wishes
    assert "on offer" not in installed.reason
    (accepted,) = desire(offers, {}, settings, ACCEPTED, NODE, NOW, Circumstances()).wishes
    assert accepted.stance is Stance.WANTED


def orphan(offered: ReleaseSet | Unknown, resolve: Resolve | None = None) -> tuple[Stance, bool, str]:
    (wish,) = desire(offered, {BC.id: Installed(BC)}, make_settings(), resolve or Resolve({}), NODE, NOW).wishes
    return wish.stance, wish.announce, wish.reason


def test_an_installed_release_that_fresh_metadata_no_longer_names_counts_as_withdrawn() -> None:
    assert orphan(ReleaseSet((), FRESH)) == (Stance.UNWANTED, True, "the repository no longer names it")


def test_an_orphan_is_held_while_metadata_is_stale_or_unknown_and_untagged_beyond_the_grace() -> None:
    assert orphan(ReleaseSet((), NOW))[:2] == (Stance.HELD, True)
    assert orphan(ReleaseSet((), NOW - timedelta(seconds=GRACE_S + 1)))[:2] == (Stance.HELD, False)
    assert orphan(Unknown("disk on fire")) == (Stance.HELD, True, "no verified metadata: disk on fire")


def test_an_orphan_goes_when_the_site_leaves_even_without_metadata() -> None:
    assert orphan(Unknown("down"), Resolve({}, leaving=True)) == (Stance.UNWANTED, True, "the site is leaving")


def test_unknown_store_and_unknown_metadata_wish_nothing() -> None:
    desired = desire(Unknown("down"), Unknown("no disk"), make_settings(), Resolve({}, paused=True), NODE, NOW)
    assert (desired.wishes, desired.paused) == ((), True)


def test_wishes_stand_in_the_order_of_their_ids_and_carry_the_settings_limits() -> None:
    releases = [make_release("xroot", version) for version in ("2.0", "1.0", "1.5")]
    offers = tuple(Offer(release, ManifestRef("clients/x", 1, "0" * 64)) for release in releases)
    settings = make_settings()
    desired = desire(ReleaseSet(offers, FRESH), {}, settings, Resolve({}), NODE, NOW)
    assert sorted(ReleaseId(release.id) for release in releases) == [wish.release for wish in desired.wishes]
    limits = (settings.probes.max_age_s, settings.probes.retry_s, settings.store.drain_s)
    assert limits == (desired.probe_max_age_s, desired.probe_retry_s, desired.drain_s)
    assert settings.site.subclusters == desired.subclusters


def test_a_wanted_release_whose_tree_is_awaited_is_held_with_the_reason_and_no_other() -> None:
    other = make_release("xroot", "1.1")
    offers = tuple(Offer(release, ManifestRef("clients/x", 1, "0" * 64), None) for release in (BC, other))
    desired = desire(ReleaseSet(offers, FRESH), {}, make_settings(), Resolve({}), NODE, NOW)
    held, wanted = await_trees(desired, {BC.id: "waits"}).wishes
    assert (held.stance, held.reason, held.announce) == (Stance.HELD, "waits", True)
    assert wanted == desired.wishes[1]
    leaving = desire(ReleaseSet(offers, FRESH), {}, make_settings(), Resolve({}, leaving=True), NODE, NOW)
    assert await_trees(leaving, {BC.id: "waits"}) == leaving
