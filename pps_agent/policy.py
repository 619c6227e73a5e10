"""What the site wants of each release on offer: consent, policy and trust in one pure decision."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from pps_agent.quiet_hours import describe_quiet
from pps_agent.retention import Kept, find_superseded
from pps_agent.settings import Settings
from pps_agent.state import Desired, Installed, NodeFacts, Offer, ReleaseSet, Stance, Unknown, Wish
from pps_wire.names import Component, ProbeName, ReleaseId, Subcluster, Vo, version_key
from pps_wire.release import Release, ReleaseClass

DEFAULT_PROBES: Final = (ProbeName("org.pps.wn.softver"), ProbeName("org.pps.wn.env"))
"""Run on a release that names no probe of its own: nothing is announced untested."""

LONGEST_WAIT_STEP_S: Final = 25 * 3600
"""Most that one look adds to the time a release has been on offer: a daily job, not a clock that leapt."""


_NOT_LOOKED: Final = Unknown("nobody looked what must be kept")


class Decision(Enum):
    """What a person at the site said of a release."""

    ACCEPT = "accept"
    DECLINE = "decline"
    ROLLBACK = "rollback"
    """Leave a release that was current and do not go forward to it again until it is accepted."""


@dataclass(frozen=True, slots=True)
class Consent:
    """One recorded decision: why, by whom and when, as far as that is known."""

    decision: Decision
    reason: str = ""
    actor: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who said, and when, that a configuration step is done."""

    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Resolve:
    """The site's standing will: decisions and acknowledged steps per release, whether it paused or is leaving."""

    consents: Mapping[ReleaseId, Consent]
    paused: bool = False
    leaving: bool = False
    acknowledged: Mapping[ReleaseId, Mapping[str, Acknowledgement]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else bears on the site's wishes, beside its will and the offers.

    ``local`` is this moment on the site's wall clock, ``waited_s`` how long releases have been on
    offer, ``production`` the versions of the production clients now, ``production_before`` as they
    were last known, ``served`` the lists the site ever tagged.
    """

    local: datetime | None = None
    waited_s: Mapping[ReleaseId, float] = field(default_factory=dict)
    production: Mapping[Component, str | Unknown] = field(default_factory=dict)
    production_before: Mapping[Component, str] = field(default_factory=dict)
    served: frozenset[tuple[Subcluster, Vo]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Trust:
    """How far the last verified metadata may be relied on at this moment."""

    fresh: bool
    announce: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _View:
    """All that one wish is made in view of."""

    settings: Settings
    resolve: Resolve | Unknown
    node: NodeFacts
    around: Circumstances
    trust: _Trust
    installed: Mapping[ReleaseId, Installed] | Unknown
    at: datetime

    def consent(self, release: ReleaseId) -> Consent | None:
        return None if isinstance(self.resolve, Unknown) else self.resolve.consents.get(release)

    @property
    def leaving(self) -> bool:
        return not isinstance(self.resolve, Unknown) and self.resolve.leaving


def desire(
    offered: ReleaseSet | Unknown,
    installed: Mapping[ReleaseId, Installed] | Unknown,
    settings: Settings,
    resolve: Resolve | Unknown,
    node: NodeFacts,
    now: datetime,
    around: Circumstances = Circumstances(),
    kept: Kept | Unknown = _NOT_LOOKED,
) -> Desired:
    """Give the site's wish for every release on offer and every one that is installed.

    An installed release that fresh metadata no longer names counts as withdrawn; under stale
    metadata, or when none could be read, it is held as it is. An unknown ``resolve`` (state.db cannot
    be read) holds everything and pauses the site: what must not stand is still untagged. What ``kept``
    does not name is unwanted once enough newer ones are wanted.
    """
    trust = _judge_trust(offered, settings.repository.trust_grace_s, now)
    view = _View(settings, resolve, node, around, trust, installed, now)
    offers = () if isinstance(offered, Unknown) else offered.offers
    wishes = [_wish(offer, view) for offer in offers]
    known = {wish.release for wish in wishes}
    there = () if isinstance(installed, Unknown) else installed.values()
    wishes += [_orphan_wish(orphan.release, view) for orphan in there if orphan.id not in known]
    wishes = _retire_superseded(wishes, offers, view, kept)
    serving = {(subcluster, vo) for subcluster in settings.subclusters for vo in settings.site.vos}
    return Desired(
        wishes=tuple(sorted(wishes, key=lambda wish: wish.release)),
        subclusters=settings.subclusters,
        probe_max_age_s=settings.probes.max_age_s,
        probe_retry_s=settings.probes.retry_s,
        drain_s=settings.store.drain_s,
        paused=isinstance(resolve, Unknown) or resolve.paused,
        quiet="" if around.local is None else describe_quiet(settings.policy.quiet_hours, around.local),
        observing=settings.policy.mode == "observe",
        former=around.served - serving,
    )


def await_trees(desired: Desired, awaited: Mapping[ReleaseId, str]) -> Desired:
    """Hold back what others have not distributed yet: it is waited for, and no failure."""
    wishes = (
        replace(wish, stance=Stance.HELD, reason=awaited[wish.release])
        if wish.stance is Stance.WANTED and wish.release in awaited
        else wish
        for wish in desired.wishes
    )
    return replace(desired, wishes=tuple(wishes))


def find_open_steps(release: Release, resolve: Resolve | Unknown) -> tuple[str, ...]:
    """Give the release's configuration steps that nobody acknowledged; none when that cannot be known."""
    if isinstance(resolve, Unknown):
        return ()
    done = resolve.acknowledged.get(release.id, {})
    return tuple(step.id for step in release.config_steps if step.id not in done)


def add_wait(waited_s: float, seen_at: datetime, now: datetime) -> float:
    """Give how long a release has been on offer, from what was counted until it was last seen.

    Never less than before: a clock set back adds nothing, one that leapt ahead no more than a day.
    """
    return waited_s + min(max((now - seen_at).total_seconds(), 0.0), LONGEST_WAIT_STEP_S)


def find_spurned(resolve: Resolve, drains: Collection[ReleaseId]) -> frozenset[ReleaseId]:
    """Give the releases that no rollback may go back to: declined, rolled back, or draining."""
    refused = (Decision.DECLINE, Decision.ROLLBACK)
    said = {release for release, consent in resolve.consents.items() if consent.decision in refused}
    return frozenset({*said, *drains})


def find_unmet(release: Release, node: NodeFacts) -> str:
    """Give the first thing the release requires and this node lacks, or an empty text."""
    needs = release.requires
    if needs.arch not in ("noarch", node.arch):
        return f"requires architecture {needs.arch}, this node is {node.arch}"
    major, minor = (int(part) for part in needs.glibc.split("."))
    if (major, minor) > node.glibc:
        return f"requires glibc {needs.glibc}, this node has {node.glibc[0]}.{node.glibc[1]}"
    if needs.os and needs.os not in (node.os, node.os_family):
        family = f" ({node.os_family})" if node.os_family else ""
        return f"requires OS {needs.os}, this node is {node.os}{family}"
    return ""


def find_news(offered: ReleaseSet | Unknown, grace_s: int, now: datetime) -> frozenset[tuple[str, ...]] | None:
    """Give what metadata says that a site may have to act on at once; None when there is none.

    Two looks that give the same need no round between them.
    """
    if isinstance(offered, Unknown):
        return None
    trust = _judge_trust(offered, grace_s, now)
    releases = {
        (offer.release.id, offer.manifest.sha256, "withdrawn" if offer.withdrawn else _find_expiry(offer.release, now))
        for offer in offered.offers
    }
    return frozenset({*releases, (f"announce {trust.announce}",)})


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


def _wish(offer: Offer, view: _View) -> Wish:
    release = offer.release
    if reason := _reason_against(offer, view):
        return _make_wish(release, view, Stance.UNWANTED, reason)
    if reason := _reason_to_hand_over(release, view.around.production):
        return _make_wish(release, view, Stance.UNWANTED, reason, handed_over=True)
    if reason := _reason_to_hold(release, view):
        return _make_wish(release, view, Stance.HELD, reason)
    if steps := find_open_steps(release, view.resolve):
        return _make_wish(release, view, Stance.WANTED, f"awaits configuration steps: {', '.join(steps)}")
    return _make_wish(release, view, Stance.WANTED, "accepted by policy")


def _reason_against(offer: Offer, view: _View) -> str:
    release, settings = offer.release, view.settings
    policy, consent = settings.policy, view.consent(release.id)
    if offer.withdrawn is not None:
        return f"withdrawn: {offer.withdrawn.reason}"
    if view.leaving:
        return "the site is leaving (pps-agent resume takes it back)"
    if consent is not None and consent.decision is Decision.DECLINE:
        return f"declined by the site: {consent.reason or 'no reason given'}"
    if expired := _find_expiry(release, view.at):
        return expired
    if policy.components and release.component not in policy.components:
        return f"policy.components does not list {release.component}"
    if release.class_.value not in policy.classes:
        return f"policy.classes does not list {release.class_.value}"
    if not set(release.vos) & set(settings.site.vos):
        return f"is for VOs {', '.join(release.vos)}; site.vos lists none of them"
    if policy.platforms and release.platform not in policy.platforms:
        return f"policy.platforms does not list {release.platform}"
    return find_unmet(release, view.node)


def _find_expiry(release: Release, now: datetime) -> str:
    if release.expires_at is None or release.expires_at > now:
        return ""
    return f"expired {release.expires_at:%Y-%m-%dT%H:%MZ}"


def _reason_to_hand_over(release: Release, production: Mapping[Component, str | Unknown]) -> str:
    version = production.get(release.component)
    if version is None or isinstance(version, Unknown) or not _has_reached(version, release):
        return ""
    return f"handed over: production runs {version}"


def _has_reached(version: str, release: Release) -> bool:
    return version_key(version) >= version_key(release.version)


def _reason_to_hold(release: Release, view: _View) -> str:
    """Give why nothing new may be done with a release now; an empty text when it may."""
    if _is_rolled_back(release, view):
        return _reason_rolled_back(release, view)
    if not view.trust.fresh:
        return view.trust.reason
    if isinstance(view.resolve, Unknown):
        return f"this site's decisions cannot be read: {view.resolve.reason}"
    now = view.around.production.get(release.component)
    before = view.around.production_before.get(release.component)
    if isinstance(now, Unknown) and before is not None and _has_reached(before, release):
        return f"production ran {before}; what it runs now is unknown: {now.reason}"
    return _reason_to_wait(release, view)


def _is_rolled_back(release: Release, view: _View) -> bool:
    consent = view.consent(release.id)
    return consent is not None and consent.decision is Decision.ROLLBACK


def _reason_rolled_back(release: Release, view: _View) -> str:
    consent = view.consent(release.id)
    reason = consent.reason if consent is not None else ""
    return f"rolled back by the site: {reason}; to go forward again: pps-agent release accept {release.id}"


def _reason_to_wait(release: Release, view: _View) -> str:
    """Give what consent is missing: a person's, or time's before a release that is not there yet is taken in."""
    consent = view.consent(release.id)
    if consent is not None and consent.decision is Decision.ACCEPT:
        return ""
    policy = view.settings.policy
    mode = policy.install_bc if release.class_ is ReleaseClass.CLIENT_BC else policy.install_nbc
    if mode != "auto":
        return f"waits for consent: pps-agent release accept {release.id}"
    waited_s = view.around.waited_s.get(release.id, 0.0)
    is_new = isinstance(view.installed, Unknown) or release.id not in view.installed
    if is_new and waited_s < policy.hold_for_h * 3600:
        return (
            f"on offer for {waited_s / 3600:.1f} of policy.hold_for_h = {policy.hold_for_h} hours;"
            f" sooner with: pps-agent release accept {release.id}"
        )
    return ""


def _retire_superseded(wishes: list[Wish], offers: tuple[Offer, ...], view: _View, kept: Kept | Unknown) -> list[Wish]:
    superseded = find_superseded(wishes, view.settings.store.keep, kept)
    releases = {offer.release.id: offer.release for offer in offers}
    return [
        _make_wish(releases[wish.release], view, Stance.UNWANTED, superseded[wish.release])
        if wish.release in superseded
        else wish
        for wish in wishes
    ]


def _orphan_wish(release: Release, view: _View) -> Wish:
    if view.leaving:
        return _make_wish(release, view, Stance.UNWANTED, "the site is leaving")
    if view.trust.fresh:
        return _make_wish(release, view, Stance.UNWANTED, "the repository no longer names it")
    reason = _reason_rolled_back(release, view) if _is_rolled_back(release, view) else view.trust.reason
    return _make_wish(release, view, Stance.HELD, reason)


def _make_wish(release: Release, view: _View, stance: Stance, reason: str, *, handed_over: bool = False) -> Wish:
    # All tags of the release when it goes, so that a VO the site gave up since is cleared as well.
    known = release.tags()
    tags = known
    if stance is not Stance.UNWANTED:
        tags = {vo: tag for vo, tag in known.items() if vo in view.settings.site.vos}
    steps = find_open_steps(release, view.resolve)
    may_announce = view.trust.announce and not steps and not _is_rolled_back(release, view)
    return Wish(
        release=release.id,
        component=release.component,
        version=release.version,
        stance=stance,
        reason=reason,
        tags=tags,
        probes=release.probes or DEFAULT_PROBES,
        announce=stance is Stance.UNWANTED or may_announce,
        known_tags=known,
        open_steps=steps,
        handed_over=handed_over,
    )
