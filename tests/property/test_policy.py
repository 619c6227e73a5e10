"""The policy's promises over every combination of consent, trust, settings and node."""

from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.policy import LONGEST_WAIT_STEP_S, Acknowledgement, Consent, Decision, Resolve, add_wait, desire
from pps_agent.settings import PolicySettings
from pps_agent.state import Desired, Installed, ManifestRef, NodeFacts, Offer, ReleaseSet, Stance, Unknown
from pps_wire.release import ConfigStep, Release, ReleaseClass, Requires, Withdrawal
from tests.support.worlds import NOW, make_release
from tests.unit.test_policy import GRACE_S, make_settings

moments = st.sampled_from([-30 * 86_400, -GRACE_S - 1, -GRACE_S, -1, 0, 1, 86_400]).map(
    lambda seconds: NOW + timedelta(seconds=seconds)
)


@st.composite
def releases(draw: st.DrawFn, version: str) -> Release:
    steps = draw(st.sampled_from([(), (ConfigStep(id="a", text="b"),)]))
    return make_release(
        "xroot",
        version,
        class_=draw(st.sampled_from(ReleaseClass)),
        vos=draw(st.sampled_from([("dteam",), ("ops",), ("dteam", "ops")])),
        requires=Requires(
            arch=draw(st.sampled_from(["x86_64", "aarch64"])),
            glibc=draw(st.sampled_from(["2.17", "2.99"])),
            os=draw(st.sampled_from(["", "rhel9"])),
        ),
        config_steps=steps,
        expires_at=draw(st.none() | moments),
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Desired, ReleaseSet | Unknown, Resolve, tuple[Offer, ...], PolicySettings]:
    known = [draw(releases(version)) for version in ("1.0", "1.1", "1.2")]
    withdrawal = Withdrawal(release=known[0].id, reason="bad", at=NOW)
    offers = tuple(
        Offer(release, ManifestRef("clients/x", 1, "0" * 64), draw(st.sampled_from([None, withdrawal])))
        for release in draw(st.permutations(known))[: draw(st.integers(0, 3))]
    )
    expires_at: datetime = draw(moments)
    offered = draw(st.sampled_from([ReleaseSet(offers, expires_at), Unknown("down")]))
    decisions = st.none() | st.sampled_from(Decision).map(Consent)
    acknowledged = {release.id: {"a": Acknowledgement("somebody", NOW)} for release in known if draw(st.booleans())}
    consents = {release.id: consent for release in known if (consent := draw(decisions)) is not None}
    resolve = Resolve(consents, paused=draw(st.booleans()), leaving=draw(st.booleans()), acknowledged=acknowledged)
    modes = st.sampled_from(["auto", "manual"])
    policy = PolicySettings(install_bc=draw(modes), install_nbc=draw(modes))
    installed = {release.id: Installed(release) for release in known if draw(st.booleans())}
    node = NodeFacts("x86_64", (2, 36), "debian12")
    desired = desire(offered, installed, make_settings(policy), resolve, node, NOW)
    return desired, offered, resolve, offers, policy


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_only_what_everything_speaks_for_is_wanted(
    world: tuple[Desired, ReleaseSet | Unknown, Resolve, tuple[Offer, ...], PolicySettings],
) -> None:
    desired, offered, resolve, offers, policy = world
    by_id = {offer.release.id: offer for offer in offers}
    assert len({wish.release for wish in desired.wishes}) == len(desired.wishes)
    for wish in desired.wishes:
        assert wish.reason
        assert wish.probes
        if wish.stance is not Stance.WANTED:
            continue
        offer = by_id[wish.release]
        assert isinstance(offered, ReleaseSet)
        assert offered.expires_at > NOW
        assert offer.withdrawn is None
        assert not resolve.leaving
        consent = resolve.consents.get(wish.release)
        assert consent is None or consent.decision is Decision.ACCEPT
        mode = policy.install_bc if offer.release.class_ is ReleaseClass.CLIENT_BC else policy.install_nbc
        assert consent is not None or mode == "auto"
        assert offer.release.requires == Requires(arch="x86_64", glibc="2.17")
        assert set(wish.tags) == {"dteam"}
        done = wish.release in resolve.acknowledged
        assert wish.announce is not bool(offer.release.config_steps and not done)


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_nothing_is_announced_before_its_steps_are_acknowledged_and_nothing_wanted_without_memory(
    world: tuple[Desired, ReleaseSet | Unknown, Resolve, tuple[Offer, ...], PolicySettings],
) -> None:
    desired, offered, resolve, offers, policy = world
    steps = {offer.release.id: offer.release.config_steps for offer in offers}
    for wish in desired.wishes:
        open_steps = steps.get(wish.release) and wish.release not in resolve.acknowledged
        assert wish.stance is Stance.UNWANTED or not (open_steps and wish.announce)
    lost = desire(offered, {}, make_settings(policy), Unknown("damaged"), NodeFacts("x86_64", (2, 36), ""), NOW)
    assert lost.paused
    assert all(wish.stance is not Stance.WANTED for wish in lost.wishes)
    assert not any("declined" in wish.reason for wish in lost.wishes)


@given(st.lists(st.integers(-(10**9), 10**9), max_size=20))
def test_time_on_offer_never_shrinks_and_no_step_counts_more_than_a_day(steps: list[int]) -> None:
    waited_s, seen_at = 0.0, NOW
    for seconds in steps:
        now = NOW + timedelta(seconds=seconds)
        after = add_wait(waited_s, seen_at, now)
        assert waited_s <= after <= waited_s + LONGEST_WAIT_STEP_S
        waited_s, seen_at = after, now


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_without_fresh_metadata_nothing_is_retired_but_by_a_reason_that_needs_none(
    world: tuple[Desired, ReleaseSet | Unknown, Resolve, tuple[Offer, ...], PolicySettings],
) -> None:
    desired, offered, resolve, _, _ = world
    if isinstance(offered, ReleaseSet) and offered.expires_at > NOW:
        return
    for wish in desired.wishes:
        assert wish.stance is not Stance.WANTED
        if wish.stance is Stance.UNWANTED:
            assert wish.reason != "the repository no longer names it"
            assert not isinstance(offered, Unknown) or resolve.leaving
