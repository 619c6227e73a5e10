"""What the site wants of each release on offer: consent, policy and trust in one pure decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from pps_agent.settings import Settings
from pps_agent.state import Desired, Installed, NodeFacts, Offer, ReleaseSet, Stance, Unknown, Wish
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.release import Release, ReleaseClass

DEFAULT_PROBES: Final = (ProbeName("org.pps.wn.softver"), ProbeName("org.pps.wn.env"))
"""Run on a release that names no probe of its own: nothing is announced untested."""


class Decision(Enum):
    """What a person at the site said of a release."""

    ACCEPT = "accept"
    DECLINE = "decline"


@dataclass(frozen=True, slots=True)
class Consent:
    """One recorded decision, and why."""

    decision: Decision
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resolve:
    """The site's standing will: decisions per release, and whether it paused or is leaving."""

    consents: Mapping[ReleaseId, Consent]
    paused: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class _Trust:
    """How far the last verified metadata may be relied on at this moment."""

    fresh: bool
    announce: bool
    reason: str


def desire(
    offered: ReleaseSet | Unknown,
    installed: Mapping[ReleaseId, Installed] | Unknown,
    settings: Settings,
    resolve: Resolve,
    node: NodeFacts,
    now: datetime,
) -> Desired:
    """Give the site's wish for every release on offer and every one that is installed.

    An installed release that fresh metadata no longer names counts as withdrawn; under stale
    metadata, or when none could be read, it is held as it is.
    """
    trust = _judge_trust(offered, settings.repository.trust_grace_s, now)
    offers = () if isinstance(offered, Unknown) else offered.offers
    wishes = [_wish(offer, settings, resolve, node, trust, now) for offer in offers]
    known = {wish.release for wish in wishes}
    there = () if isinstance(installed, Unknown) else installed.values()
    wishes += [_orphan_wish(orphan.release, settings, resolve, trust) for orphan in there if orphan.id not in known]
    return Desired(
        wishes=tuple(sorted(wishes, key=lambda wish: wish.release)),
        subclusters=settings.site.subclusters,
        probe_max_age_s=settings.probes.max_age_s,
        probe_retry_s=settings.probes.retry_s,
        drain_s=settings.store.drain_s,
        paused=resolve.paused,
    )


def find_unmet(release: Release, node: NodeFacts) -> str:
    """Give the first thing the release requires and this node lacks, or an empty text."""
    needs = release.requires
    if needs.arch not in ("noarch", node.arch):
        return f"requires architecture {needs.arch}, this node is {node.arch}"
    major, minor = (int(part) for part in needs.glibc.split("."))
    if (major, minor) > node.glibc:
        return f"requires glibc {needs.glibc}, this node has {node.glibc[0]}.{node.glibc[1]}"
    if needs.os and needs.os != node.os:
        return f"requires OS {needs.os}, this node is {node.os}"
    return ""


def _judge_trust(offered: ReleaseSet | Unknown, grace_s: int, now: datetime) -> _Trust:
    if isinstance(offered, Unknown):
        return _Trust(fresh=False, announce=True, reason=f"no verified metadata: {offered.reason}")
    if now < offered.expires_at:
        return _Trust(fresh=True, announce=True, reason="")
    age = now - offered.expires_at
    reason = f"metadata expired {offered.expires_at:%Y-%m-%dT%H:%MZ}"
    if age > timedelta(seconds=grace_s):
        return _Trust(fresh=False, announce=False, reason=f"{reason}, longer ago than the grace of {grace_s} s")
    return _Trust(fresh=False, announce=True, reason=f"{reason}, within the grace of {grace_s} s")


def _wish(offer: Offer, settings: Settings, resolve: Resolve, node: NodeFacts, trust: _Trust, now: datetime) -> Wish:
    release = offer.release
    if reason := _reason_against(offer, settings, resolve, node, now):
        return _make_wish(release, settings, Stance.UNWANTED, reason)
    if not trust.fresh:
        return _make_wish(release, settings, Stance.HELD, trust.reason, announce=trust.announce)
    if reason := _reason_to_wait(release, settings, resolve):
        return _make_wish(release, settings, Stance.HELD, reason, announce=not release.config_steps)
    if release.config_steps:
        steps = ", ".join(step.id for step in release.config_steps)
        return _make_wish(release, settings, Stance.WANTED, f"awaits configuration steps: {steps}", announce=False)
    return _make_wish(release, settings, Stance.WANTED, "accepted by policy")


def _reason_against(offer: Offer, settings: Settings, resolve: Resolve, node: NodeFacts, now: datetime) -> str:
    release, policy = offer.release, settings.policy
    consent = resolve.consents.get(release.id)
    if offer.withdrawn is not None:
        return f"withdrawn: {offer.withdrawn.reason}"
    if resolve.leaving:
        return "the site is leaving (pps-agent resume takes it back)"
    if consent is not None and consent.decision is Decision.DECLINE:
        return f"declined by the site: {consent.reason or 'no reason given'}"
    if release.expires_at is not None and release.expires_at <= now:
        return f"expired {release.expires_at:%Y-%m-%dT%H:%MZ}"
    if policy.components and release.component not in policy.components:
        return f"policy.components does not list {release.component}"
    if release.class_.value not in policy.classes:
        return f"policy.classes does not list {release.class_.value}"
    if not set(release.vos) & set(settings.site.vos):
        return f"is for VOs {', '.join(release.vos)}; site.vos lists none of them"
    if policy.platforms and release.platform not in policy.platforms:
        return f"policy.platforms does not list {release.platform}"
    return find_unmet(release, node)


def _reason_to_wait(release: Release, settings: Settings, resolve: Resolve) -> str:
    consent = resolve.consents.get(release.id)
    if consent is not None and consent.decision is Decision.ACCEPT:
        return ""
    policy = settings.policy
    mode = policy.install_bc if release.class_ is ReleaseClass.CLIENT_BC else policy.install_nbc
    return "" if mode == "auto" else f"waits for consent: pps-agent release accept {release.id}"


def _orphan_wish(release: Release, settings: Settings, resolve: Resolve, trust: _Trust) -> Wish:
    if resolve.leaving:
        return _make_wish(release, settings, Stance.UNWANTED, "the site is leaving")
    if trust.fresh:
        return _make_wish(release, settings, Stance.UNWANTED, "the repository no longer names it")
    return _make_wish(release, settings, Stance.HELD, trust.reason, announce=trust.announce)


def _make_wish(release: Release, settings: Settings, stance: Stance, reason: str, *, announce: bool = True) -> Wish:
    # All tags of the release when it goes, so that a VO the site gave up since is cleared as well.
    tags = release.tags()
    if stance is not Stance.UNWANTED:
        tags = {vo: tag for vo, tag in tags.items() if vo in settings.site.vos}
    return Wish(
        release=release.id,
        component=release.component,
        version=release.version,
        stance=stance,
        reason=reason,
        tags=tags,
        probes=release.probes or DEFAULT_PROBES,
        announce=announce,
    )
