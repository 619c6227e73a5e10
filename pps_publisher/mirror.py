"""A frozen copy of chosen releases: a repository of its own, which its upstream cannot alter.

The pilot has its own keys, root and snapshot; its sites pin its root. It lists the same manifest and
artifact bytes, copied, never linked. What upstream withdraws or replaces later changes nothing here:
``compare`` tells it, people decide. The releases say where they came from (``mirrored_from``, signed).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from pps_publisher.bundle import Bundle
from pps_publisher.errors import TrustError, UsageError
from pps_publisher.files import hash_file
from pps_publisher.metadata import MetadataStore, target_file
from pps_publisher.repository import Repository
from pps_publisher.roles import CLIENTS, ROOT, WITHDRAWALS, releases_of
from pps_publisher.verify import verify_repository
from pps_wire.names import ReleaseId, version_key
from pps_wire.release import MirroredFrom, Release, parse_withdrawal, target_path, withdrawal_path

_SHOWN_PROBLEMS: Final = 10


class Drift(Enum):
    """What became of a mirrored release upstream."""

    SAME = "same"
    WITHDRAWN = "withdrawn"
    SUPERSEDED = "superseded"
    CHANGED = "changed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One mirrored release and what upstream says of it now; ``withdrawn_here`` says that people have reacted."""

    release: ReleaseId
    drift: Drift
    detail: str
    withdrawn_here: bool


class Upstream:
    """A served directory that was verified from the pinned root on, to the last byte."""

    def __init__(self, served: Path, root: bytes, now: datetime, *, allow_expired: bool = False) -> None:
        """Verify it. Raises: TrustError naming what is wrong; OSError."""
        self._store = MetadataStore.of_copy(served)
        verdict = verify_repository(self._store, now, root=root)
        allowed = verdict.expired if allow_expired else ()
        problems = [problem for problem in verdict.problems if problem not in allowed]
        if problems:
            told = "\n".join(problems[:_SHOWN_PROBLEMS])
            hint = "; --allow-expired takes a copy that has only expired" if set(problems) <= {*verdict.expired} else ""
            raise TrustError(f"{told}\n{served}: nothing was mirrored; copy it again from its publisher{hint}")
        seen = self._store.seen_versions()
        self._clients = self._store.load_targets(CLIENTS, seen[CLIENTS]).signed
        self._withdrawals = self._store.load_targets(WITHDRAWALS, seen[WITHDRAWALS]).signed
        self.releases: Mapping[ReleaseId, Release] = releases_of(self._clients)
        first = self._store.served_path(ROOT, 1)
        self._origin = MirroredFrom(root_sha256=hash_file(first), clients_version=seen[CLIENTS])

    @property
    def origin(self) -> MirroredFrom:
        """Say which repository this is, and in which state."""
        return self._origin

    def reason_withdrawn(self, release: Release) -> str | None:
        """Give why a release was withdrawn, or nothing when it was not."""
        target = self._withdrawals.targets.get(withdrawal_path(release))
        if target is None:
            return None
        return parse_withdrawal(target_file(self._store.served, target).read_bytes()).reason

    def bundles(self, chosen: Iterable[ReleaseId]) -> tuple[Bundle, ...]:
        """Give releases as builds to be published. Raises: UsageError when one is unknown or withdrawn."""
        return tuple(self._bundle(release_id) for release_id in dict.fromkeys(chosen))

    def _bundle(self, release_id: ReleaseId) -> Bundle:
        release = self.releases.get(release_id)
        if release is None:
            known = ", ".join(sorted(self.releases)) or "none"
            raise UsageError(f"{release_id} is not published upstream; published are: {known}")
        reason = self.reason_withdrawn(release)
        if reason is not None:
            raise UsageError(f"{release_id} was withdrawn upstream ({reason}); choose another release")
        target = self._clients.targets[target_path(release)]
        manifest = target_file(self._store.served, target).read_bytes()
        # A mirror of a mirror names the first publisher.
        origin = release.mirrored_from or self._origin
        mirrored = msgspec.structs.replace(release, mirrored_from=origin)
        pack = self._store.served / release.deltas.path if release.deltas is not None else None
        return Bundle(mirrored, manifest, self._store.served / release.artifact.path, pack)


def keep_origin(bundles: Iterable[Bundle], published: Mapping[ReleaseId, Release]) -> tuple[Bundle, ...]:
    """Give builds that name the origin under which they are published already, so that a repeat changes nothing."""
    kept = []
    for bundle in bundles:
        there = published.get(bundle.release.id)
        known = there is not None and there == msgspec.structs.replace(
            bundle.release, mirrored_from=there.mirrored_from
        )
        kept.append(replace(bundle, release=there) if there is not None and known else bundle)
    return tuple(kept)


def compare(pilot: Repository, upstream: Upstream) -> tuple[Comparison, ...]:
    """Say what became upstream of each release that was mirrored from there; changes nothing."""
    withdrawn = pilot.withdrawn()
    mirrored = {
        release_id: release
        for release_id, release in sorted(pilot.releases().items())
        if release.mirrored_from is not None and release.mirrored_from.root_sha256 == upstream.origin.root_sha256
    }
    return tuple(
        Comparison(release_id, *_judge(release, upstream), release_id in withdrawn)
        for release_id, release in mirrored.items()
    )


def _judge(release: Release, upstream: Upstream) -> tuple[Drift, str]:
    there = upstream.releases.get(release.id)
    if there is None:
        return Drift.GONE, "upstream no longer lists it"
    reason = upstream.reason_withdrawn(there)
    if reason is not None:
        return Drift.WITHDRAWN, reason
    newer = [
        other
        for other in upstream.releases.values()
        if (other.component, other.platform) == (release.component, release.platform)
        and (version_key(other.version) > version_key(release.version) or release.id in other.replaces)
        and upstream.reason_withdrawn(other) is None
    ]
    if newer:
        return Drift.SUPERSEDED, f"by {max(newer, key=lambda other: version_key(other.version)).id}"
    if msgspec.structs.replace(release, mirrored_from=there.mirrored_from) != there:
        return Drift.CHANGED, "upstream describes it otherwise now"
    return Drift.SAME, ""
