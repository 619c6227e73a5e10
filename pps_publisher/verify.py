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
from tuf.api.metadata import Metadata, MetaFile, Signed, TargetFile

from pps_publisher.bundle import Bundle, bundle_problems
from pps_publisher.errors import PublishError
from pps_publisher.metadata import MetadataStore, target_file
from pps_publisher.roles import (
    CLIENTS,
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
_PINNED: Final = (TARGETS, CLIENTS, WITHDRAWALS, FLEET)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong (sites would refuse it), what soon will be, and how much was looked at."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    releases: int
    withdrawn: int
    checked_bytes: int


def verify_repository(store: MetadataStore, now: datetime) -> Verdict:
    """Check everything below the served directory; changes nothing. Raises: OSError when it cannot be read."""
    check = _Check(store, now)
    chain: tuple[_Step, ...] = (check.roots, check.timestamp, check.snapshot)
    roles: tuple[_Step, ...] = tuple(partial(check.role, role) for role in _PINNED)
    content: tuple[_Step, ...] = (check.clients, check.withdrawals, check.fleet, check.unreferenced, check.staged)
    for step in chain + roles + content:
        with check.noting():
            step()
    return Verdict(tuple(check.problems), tuple(check.warnings), check.releases, check.withdrawn, check.checked_bytes)


class _Check:
    """One pass over a repository; what it finds piles up here."""

    def __init__(self, store: MetadataStore, now: datetime) -> None:
        self._store = store
        self._now = now
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.releases = 0
        self.withdrawn = 0
        self.checked_bytes = 0
        self._known: set[Path] = set()

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Turn the first error of the block into a problem and go on after it."""
        try:
            yield
        except (PublishError, WireError) as exc:
            self.problems.append(str(exc))

    def roots(self) -> None:
        versions = self._store.versions(ROOT)
        if versions != list(range(1, len(versions) + 1)):
            self.problems.append(
                f"root versions {versions} have a gap: clients cannot follow it; restore the missing one"
            )
        for version in versions:
            with self.noting():
                metadata = self._store.load_root(version)
                self._signatures(ROOT, metadata)
        self._expiry(ROOT, self._store.load_root().signed)

    def timestamp(self) -> None:
        timestamp = self._store.load_timestamp()
        self._signatures(TIMESTAMP, timestamp)
        self._expiry(TIMESTAMP, timestamp.signed)
        self._pin(SNAPSHOT, timestamp.signed.snapshot_meta)

    def snapshot(self) -> None:
        snapshot = self._store.load_snapshot()
        self._signatures(SNAPSHOT, snapshot)
        self._expiry(SNAPSHOT, snapshot.signed)
        for role in _PINNED:
            pin = snapshot.signed.meta.get(f"{role}.json")
            if pin is None:
                self.problems.append(f"the snapshot does not list {role}; run 'pps-publish refresh'")
            else:
                self._pin(role, pin)

    def role(self, role: str) -> None:
        metadata = self._store.load_targets(role)
        self._signatures(role, metadata)
        self._expiry(role, metadata.signed)
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
                self._known.add(artifact)
                manifest = self._content(target)
                if manifest is not None:
                    self.problems += bundle_problems(Bundle(release, manifest, artifact))
                    self.checked_bytes += release.artifact.length + target.length

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

    def unreferenced(self) -> None:
        found = (path for top in ("targets", "artifacts") for path in (self._store.served / top).rglob("*"))
        stray = sorted(path for path in found if path.is_file() and path not in self._known)
        self.warnings += [f"{path}: no metadata names it; it may be deleted" for path in stray]

    def staged(self) -> None:
        for role in OFFLINE:
            with self.noting():
                waiting = self._store.load_staged(role)
                if waiting is not None:
                    have = self._store.signatures(role, waiting)
                    count = f"{len(have.signed)} of {have.threshold} signatures"
                    self.warnings.append(f"{role} version {waiting.signed.version} waits with {count}")

    def _content(self, target: TargetFile) -> bytes | None:
        """Give a target's bytes; a missing one has been reported with its role."""
        path = target_file(self._store.served, target)
        return path.read_bytes() if path.exists() else None

    def _signatures(self, role: str, metadata: Metadata[Any]) -> None:
        have = self._store.signatures(role, metadata)
        if not have.complete:
            self.problems.append(
                f"{role} version {metadata.signed.version} has {len(have.signed)} of {have.threshold} valid signatures"
            )

    def _expiry(self, role: str, signed: Signed) -> None:
        left = days_left(signed, self._now)
        mend = (
            "run 'pps-publish refresh'" if role in {SNAPSHOT, TIMESTAMP} else f"run 'pps-publish sign --renew {role}'"
        )
        if left < 0:
            self.problems.append(f"{role} has expired {-left:.1f} days ago: sites take nothing new; {mend}")
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
        self._known.add(path)
        try:
            with path.open("rb") as stream:
                target.verify_length_and_hashes(stream)
        except FileNotFoundError:
            self.problems.append(f"{path}: is missing though {role} lists it; restore it from a copy")
        except LengthOrHashMismatchError as exc:
            self.problems.append(f"{path}: is damaged ({exc}); restore it from a copy")
