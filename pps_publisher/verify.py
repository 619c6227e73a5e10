"""Checking a whole repository offline: signatures, thresholds, expiry, versions, and every byte served.

Source: TUF specification 1.0, clause 5 (what a client checks), applied to everything at once.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, TargetFile, Targets

from pps_publisher.bundle import Bundle, bundle_problems
from pps_publisher.errors import PublishError
from pps_publisher.history import check_files
from pps_publisher.metadata import MetadataStore, parse_root, target_file
from pps_publisher.roles import (
    CLIENTS,
    DELEGATED,
    FLEET,
    OFFLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    WITHDRAWALS,
    days_left,
    expires_soon,
    releases_of,
)
from pps_wire.errors import WireError
from pps_wire.release import parse_release, parse_withdrawal, target_path, withdrawal_path
from pps_wire.request import FLEET_KEYS_PATH, parse_fleet_keys

_Step = Callable[[], None]
_PINNED: Final = (TARGETS, *DELEGATED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong (sites would refuse it), what soon will be, and how much was looked at.

    ``expired`` are those problems that only a new date mends; ``days_left`` is told by role.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    expired: tuple[str, ...]
    days_left: dict[str, float]
    releases: int
    withdrawn: int
    checked_bytes: int


def verify_repository(store: MetadataStore, now: datetime, *, root: bytes | None = None) -> Verdict:
    """Check everything below the served directory; changes nothing.

    ``root`` is what a site pinned: it must be one of the served chain. Raises: OSError when something
    cannot be read.
    """
    check = _Check(store, now)
    chain: tuple[_Step, ...] = (partial(check.roots, root), check.timestamp, check.snapshot)
    roles: tuple[_Step, ...] = tuple(partial(check.role, role) for role in _PINNED)
    content: tuple[_Step, ...] = (check.clients, check.withdrawals, check.fleet, check.rest, check.staged)
    for step in chain + roles + content:
        with check.noting():
            step()
    problems, warnings = tuple(dict.fromkeys(check.problems)), tuple(check.warnings)
    return Verdict(
        problems, warnings, tuple(check.expired), check.days_left, check.releases, check.withdrawn, check.checked_bytes
    )


class _Check:
    """One pass over a repository; what it finds piles up here."""

    def __init__(self, store: MetadataStore, now: datetime) -> None:
        self._store = store
        self._now = now
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.expired: list[str] = []
        self.days_left: dict[str, float] = {}
        self.releases = 0
        self.withdrawn = 0
        self.checked_bytes = 0
        self._known: set[Path] = set()
        self._seen: dict[str, int] = {}

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Turn the first error of the block into a problem and go on after it."""
        try:
            yield
        except (PublishError, WireError) as exc:
            self.problems.append(str(exc))

    def roots(self, pinned: bytes | None) -> None:
        versions = self._store.versions(ROOT)
        if versions != list(range(1, len(versions) + 1)):
            self.problems.append(
                f"root versions {versions} have a gap: clients cannot follow it; restore the missing one"
            )
        chain: list[Root] = []
        for version in versions:
            with self.noting():
                metadata = self._store.load_root(version)
                chain.append(metadata.signed)
                self._signatures(ROOT, metadata, None)
        if pinned is not None and parse_root(pinned) not in chain:
            self.problems.append("the pinned root is none of this repository: it is another one, or a forgery")
        self._expiry(ROOT, self._store.load_root().signed)

    def timestamp(self) -> None:
        timestamp = self._store.load_timestamp()
        self._signatures(TIMESTAMP, timestamp, self._store.load_root().signed)
        self._expiry(TIMESTAMP, timestamp.signed)
        self._pin(SNAPSHOT, timestamp.signed.snapshot_meta)
        self._seen = self._store.seen_versions()

    def snapshot(self) -> None:
        snapshot = self._store.load_snapshot(self._seen.get(SNAPSHOT))
        self._signatures(SNAPSHOT, snapshot, self._store.load_root().signed)
        self._expiry(SNAPSHOT, snapshot.signed)
        for role in _PINNED:
            pin = snapshot.signed.meta.get(f"{role}.json")
            if pin is None:
                self.problems.append(f"the snapshot does not list {role}; run 'pps-publish refresh'")
            else:
                self._pin(role, pin)

    def role(self, role: str) -> None:
        newest = self._store.load_targets(role)
        self._expiry(role, newest.signed)
        for version in sorted({newest.signed.version, self._seen.get(role, newest.signed.version)}):
            metadata = self._store.load_targets(role, version)
            self._signatures(role, metadata, self._judge(role, seen=version == self._seen.get(role)))
            for target in metadata.signed.targets.values():
                self._target(role, target)

    def clients(self) -> None:
        for path, target in self._store.load_targets(CLIENTS).signed.targets.items():
            with self.noting():
                release = parse_release(target.custom)
                self.releases += 1
                if target_path(release) != path:
                    self.problems.append(f"{path}: describes {release.id}, which belongs at {target_path(release)}")
                artifact = self._store.served / release.artifact.path
                pack = self._store.served / release.deltas.path if release.deltas is not None else None
                self._known |= {artifact} if pack is None else {artifact, pack}
                manifest = self._content(target)
                if manifest is not None:
                    self.problems += bundle_problems(Bundle(release, manifest, artifact, pack))
                    self.checked_bytes += release.artifact.length + target.length
                    self.checked_bytes += release.deltas.length if release.deltas is not None else 0

    def withdrawals(self) -> None:
        releases = releases_of(self._store.load_targets(CLIENTS).signed)
        places = {withdrawal_path(release): id_ for id_, release in releases.items()}
        for path, target in self._store.load_targets(WITHDRAWALS).signed.targets.items():
            content = self._content(target)
            if content is not None:
                self.withdrawn += 1
                document = parse_withdrawal(content)
                if places.get(path, document.release) != document.release:
                    self.problems.append(f"{path}: withdraws {document.release}, which belongs elsewhere")

    def fleet(self) -> None:
        target = self._store.load_targets(FLEET).signed.targets.get(FLEET_KEYS_PATH)
        if target is None:
            self.problems.append(f"{FLEET} does not list {FLEET_KEYS_PATH}: sites refuse every central request")
            return
        content = self._content(target)
        if content is not None:
            try:
                parse_fleet_keys(content)
            except WireError as exc:
                self.problems.append(f"{FLEET_KEYS_PATH}: {exc}")

    def rest(self) -> None:
        problems, warnings = check_files(self._store, self._known)
        self.problems += problems
        self.warnings += warnings

    def staged(self) -> None:
        for role in OFFLINE:
            for waiting in self._store.load_all_staged(role):
                with self.noting():
                    have = self._store.signatures(role, waiting)
                    count = f"{len(have.signed)} of {have.threshold} signatures"
                    self.warnings.append(f"{role} version {waiting.signed.version} waits with {count}")

    def _content(self, target: TargetFile) -> bytes | None:
        """Give a target's bytes; a missing one has been reported with its role."""
        path = target_file(self._store.served, target)
        return path.read_bytes() if path.exists() else None

    def _judge(self, role: str, *, seen: bool) -> Root | Targets:
        """Give what a role must be accepted by: together with what sites see, or with the newest that is served."""
        if role in DELEGATED and seen:
            return self._store.load_targets(TARGETS, self._seen[TARGETS]).signed
        return self._store.delegator(role, served=True)

    def _signatures(self, role: str, metadata: Metadata[Any], judge: Root | Targets | None) -> None:
        have = self._store.signatures(role, metadata, under=judge)
        if have.complete:
            return
        version = metadata.signed.version
        if role in DELEGATED and version != self._seen.get(role) and self._store.signatures(role, metadata).complete:
            self.warnings.append(f"{role} version {version} waits for the {TARGETS} that accepts it")
        else:
            self.problems.append(
                f"{role} version {version} has {len(have.signed)} of {have.threshold} valid signatures"
            )

    def _expiry(self, role: str, signed: Signed) -> None:
        left = days_left(signed, self._now)
        mend = (
            "run 'pps-publish refresh'" if role in {SNAPSHOT, TIMESTAMP} else f"run 'pps-publish sign --renew {role}'"
        )
        self.days_left[role] = left
        if left < 0:
            self.expired.append(f"{role} has expired {-left:.1f} days ago: sites take nothing new; {mend}")
            self.problems.append(self.expired[-1])
        elif expires_soon(role, signed, self._now):
            self.warnings.append(f"{role} expires in {left:.1f} days; {mend}")

    def _pin(self, role: str, pin: MetaFile) -> None:
        newest = max(self._store.versions(role), default=0)
        if newest > pin.version:
            self.warnings.append(f"{role} version {newest} is not seen by sites yet; run 'pps-publish refresh'")
        path = self._store.served_path(role, pin.version)
        try:
            pin.verify_length_and_hashes(path.read_bytes())
        except FileNotFoundError:
            self.problems.append(f"{path}: is missing; restore it from a copy")
        except LengthOrHashMismatchError as exc:
            self.problems.append(f"{path}: is not what was pinned ({exc}); restore it from a copy")

    def _target(self, role: str, target: TargetFile) -> None:
        path = target_file(self._store.served, target)
        if path in self._known:
            return
        self._known.add(path)
        try:
            with path.open("rb") as stream:
                target.verify_length_and_hashes(stream)
        except FileNotFoundError:
            self.problems.append(f"{path}: is missing though {role} lists it; restore it from a copy")
        except LengthOrHashMismatchError as exc:
            self.problems.append(f"{path}: is damaged ({exc}); restore it from a copy")
