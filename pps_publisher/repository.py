"""A repository of previews: stage, sign, serve, take back, refresh.

Nothing is seen by a site before two things have happened: enough people signed the role that lists
it (then it moves from ``staged/`` to ``served/``), and the online key signed a new snapshot
(``refresh``). Files are moved before the metadata that names them, so a crash leaves at most files
that nobody refers to, and the same command run again ends the work.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile

from pps_publisher.bundle import Bundle, check_bundle
from pps_publisher.errors import PublishError, TrustError, UsageError
from pps_publisher.files import copy_file, hash_file, locked, make_directory, save_bytes
from pps_publisher.keys import owner_of
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
    Authorities,
    days_left,
    expires_soon,
    first_delegated,
    first_root,
    first_targets,
    next_version,
    release_target,
    releases_of,
    snapshot_of,
    timestamp_of,
    withdrawal_of,
    withdrawal_target,
)
from pps_publisher.staging import Change, Progress, Staging, difference
from pps_wire.names import ReleaseId
from pps_wire.release import Release, parse_release, target_path, withdrawal_path
from pps_wire.request import FLEET_KEYS_PATH, FleetKeys

_MAX_REASON: Final = 1024


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What sites see from now on: versions by role, and what to renew soon, one line each."""

    versions: dict[str, int]
    warnings: tuple[str, ...]


class Repository:
    """One repository directory; every changing method holds its lock."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = MetadataStore(base)
        self.staging = Staging(self.store)

    @property
    def served(self) -> Path:
        """The directory a web server shows."""
        return self.store.served

    def refuse_existing(self) -> None:
        """Refuse to make a repository where one is. Raises: UsageError."""
        if self.store.versions(ROOT) or self.store.staged_path(ROOT).exists():
            raise UsageError(f"{self.base}: is a repository already; choose another directory")

    def create(
        self, authorities: Authorities, signers: Iterable[Signer], fleet: FleetKeys, now: datetime
    ) -> tuple[Progress, ...]:
        """Make version 1 of every offline role, signed by ``signers`` as far as they may.

        Raises: UsageError when the directory is a repository already; ConfigError; OSError.
        """
        self.refuse_existing()
        fleet_bytes = msgspec.json.encode(fleet)
        fleet_target = TargetFile.from_data(FLEET_KEYS_PATH, fleet_bytes, ["sha256"])
        listing = first_delegated(FLEET, now)
        listing.signed.targets[FLEET_KEYS_PATH] = fleet_target
        first: dict[str, Metadata[Any]] = {
            ROOT: first_root(authorities, now),
            TARGETS: first_targets(authorities, now),
            CLIENTS: first_delegated(CLIENTS, now),
            WITHDRAWALS: first_delegated(WITHDRAWALS, now),
            FLEET: listing,
        }
        make_directory(self.base)
        with self._locked():
            save_bytes(target_file(self.store.staged, fleet_target), fleet_bytes)
            for role in OFFLINE:
                self.store.save_staged(role, first[role])
            for signer in signers:
                self.staging.sign(signer)
            return tuple(self.staging.settle(role, Change(role, first[role], ("is new",))) for role in OFFLINE)

    def plan_publish(self, bundles: Iterable[Bundle], now: datetime, *, replace_staged: bool = False) -> Change:
        """Check builds to the last byte and give the next ``clients`` version that lists them; writes nothing.

        Raises: PublishError when another version waits for signatures or a build may not be published.
        """
        waiting = self.store.load_staged(CLIENTS)
        if waiting is not None and not replace_staged:
            raise PublishError(
                f"{CLIENTS} version {waiting.signed.version} waits for signatures; finish it with 'pps-publish sign'"
                " or drop it with --replace-staged"
            )
        current = self.store.load_targets(CLIENTS)
        change = Change(CLIENTS, next_version(CLIENTS, current, now), ())
        for bundle in bundles:
            self._refuse_withdrawn(bundle.release)
            target = release_target(target_path(bundle.release), bundle.manifest, bundle.release)
            self._refuse_other_bytes(current.signed.targets.get(target.path), target, bundle.release)
            check_bundle(bundle)
            change.metadata.signed.targets[target.path] = target
        lines = difference(current.signed, change.metadata.signed)
        if not lines:
            raise UsageError("these releases are published already, with the same bytes; there is nothing to do")
        return Change(CLIENTS, change.metadata, lines)

    def publish(
        self, bundles: Iterable[Bundle], signer: Signer, now: datetime, *, replace_staged: bool = False
    ) -> Progress:
        """Stage builds with the first signature; they are served when the second one comes.

        Raises: as ``plan_publish``; TrustError when the key may not sign ``clients``; OSError.
        """
        chosen = tuple(bundles)
        with self._locked():
            change = self.plan_publish(chosen, now, replace_staged=replace_staged)
            self.store.sign(CLIENTS, change.metadata, signer)
            self.staging.drop(CLIENTS)
            for bundle in chosen:
                target = change.metadata.signed.targets[target_path(bundle.release)]
                copy_file(bundle.artifact, self.store.staged / bundle.release.artifact.path)
                save_bytes(target_file(self.store.staged, target), bundle.manifest)
            self.store.save_staged(CLIENTS, change.metadata)
            return self.staging.settle(CLIENTS, change)

    def sign(self, signer: Signer) -> tuple[Progress, ...]:
        """Add this key's signature to everything that waits for it; what is complete becomes served.

        Raises: UsageError when nothing waits for this key; TrustError when staged bytes were changed.
        """
        with self._locked():
            changes = {change.role: change for change in self.staging.pending()}
            signed = self.staging.sign(signer)
            if not signed and not any(self.staging.is_complete(change) for change in changes.values()):
                waiting = ", ".join(changes) or "nothing"
                raise UsageError(
                    f"nothing waits for the key of {owner_of(signer.public_key)} ({waiting} is staged);"
                    " see 'pps-publish sign --dry-run'"
                )
            return tuple(self.staging.settle(role, change) for role, change in changes.items())

    def renew(self, role: str, signer: Signer, now: datetime) -> Progress:
        """Stage the same content of a role under a new expiry date, with the first signature.

        Raises: UsageError when the role has no such life or a version waits; TrustError.
        """
        if role not in OFFLINE:
            raise UsageError(f"{role} is not signed by people; renew one of {', '.join(OFFLINE)}, or 'refresh'")
        with self._locked():
            if self.store.load_staged(role) is not None:
                raise PublishError(f"a version of {role} waits for signatures; finish it with 'pps-publish sign'")
            current = self.store.load_root() if role == ROOT else self.store.load_targets(role)
            renewed: Metadata[Any] = next_version(role, current, now)
            self.store.sign(role, renewed, signer)
            self.store.save_staged(role, renewed)
            return self.staging.settle(role, Change(role, renewed, ("only moves the expiry date",)))

    def plan_withdraw(self, release_id: ReleaseId, reason: str, now: datetime) -> Change:
        """Give the next ``withdrawals`` version that takes a release back; writes nothing.

        Raises: UsageError when the release is unknown, withdrawn already, or the reason is empty or too long.
        """
        if not 0 < len(reason.strip()) <= _MAX_REASON:
            raise UsageError(f"a withdrawal needs a reason of 1 to {_MAX_REASON} characters: sites will read it")
        release = self._find(release_id)
        current = self.store.load_targets(WITHDRAWALS)
        if withdrawal_path(release) in current.signed.targets:
            raise UsageError(f"{release_id} is withdrawn already; if sites still use it, run 'pps-publish refresh'")
        content = msgspec.json.encode(withdrawal_of(release, reason.strip(), now))
        target = withdrawal_target(withdrawal_path(release), content)
        metadata = next_version(WITHDRAWALS, current, now)
        metadata.signed.targets[target.path] = target
        return Change(WITHDRAWALS, metadata, (f"withdraws {release_id}: {reason.strip()}",))

    def withdraw(self, release_id: ReleaseId, reason: str, signer: Signer, now: datetime) -> Progress:
        """Take a release back with one signature. Raises: as ``plan_withdraw``; TrustError; OSError."""
        with self._locked():
            change = self.plan_withdraw(release_id, reason, now)
            self.store.sign(WITHDRAWALS, change.metadata, signer)
            release = self._find(release_id)
            target = change.metadata.signed.targets[withdrawal_path(release)]
            content = msgspec.json.encode(withdrawal_of(release, reason.strip(), now))
            save_bytes(target_file(self.store.staged, target), content)
            self.store.save_staged(WITHDRAWALS, change.metadata)
            return self.staging.settle(WITHDRAWALS, change)

    def plan_refresh(self, now: datetime) -> Refreshed:
        """Give what a refresh would show to sites, and what to renew soon; writes nothing.

        Expired roles are warned about but do not hold back the rest: a withdrawal must get through.
        Raises: TrustError when a served role lacks signatures; UsageError when one was never served.
        """
        versions: dict[str, int] = {}
        warnings: list[str] = []
        for role in OFFLINE:
            metadata: Metadata[Any] = self.store.load_root() if role == ROOT else self.store.load_targets(role)
            self._demand_signatures(role, metadata)
            versions[role] = metadata.signed.version
            if expires_soon(role, metadata.signed, now):
                left = days_left(metadata.signed, now)
                warnings.append(f"{role} expires in {left:.1f} days; run 'pps-publish sign --renew {role}'")
        versions |= {SNAPSHOT: self._next(SNAPSHOT), TIMESTAMP: self._next(TIMESTAMP)}
        return Refreshed(versions, tuple(warnings))

    def refresh(self, signer: Signer, now: datetime) -> Refreshed:
        """Sign a new snapshot and timestamp: sites see everything that is served, and nothing is frozen.

        Raises: as ``plan_refresh``; TrustError when the key is not the online one; OSError.
        """
        with self._locked():
            planned = self.plan_refresh(now)
            seen = {role: planned.versions[role] for role in OFFLINE if role != ROOT}
            contents = {
                role: (version, self.store.served_path(role, version).read_bytes()) for role, version in seen.items()
            }
            snapshot = snapshot_of(contents, planned.versions[SNAPSHOT], now)
            self.store.sign(SNAPSHOT, snapshot, signer)
            pinned = (snapshot.signed.version, snapshot.to_bytes())
            timestamp = timestamp_of(pinned, planned.versions[TIMESTAMP], now)
            self.store.sign(TIMESTAMP, timestamp, signer)
            self.store.serve(SNAPSHOT, snapshot)
            self.store.serve(TIMESTAMP, timestamp)
        return planned

    def releases(self) -> dict[ReleaseId, Release]:
        """Give the releases that served ``clients`` metadata lists, withdrawn ones too."""
        return releases_of(self.store.load_targets(CLIENTS).signed)

    def withdrawn(self) -> frozenset[ReleaseId]:
        """Give the releases that served metadata takes back."""
        targets = self.store.load_targets(WITHDRAWALS).signed.targets
        return frozenset(id_ for id_, release in self.releases().items() if withdrawal_path(release) in targets)

    def _locked(self) -> Any:
        if not self.base.is_dir():
            raise UsageError(f"{self.base}: no such repository; make one with 'pps-publish init'")
        return locked(self.base / "lock")

    def _find(self, release_id: ReleaseId) -> Release:
        releases = self.releases()
        if release_id in releases:
            return releases[release_id]
        staged = self.store.load_staged(CLIENTS)
        if staged is not None and release_id in releases_of(staged.signed):
            raise UsageError(f"{release_id} is only staged, no site sees it; drop it with 'publish --replace-staged'")
        known = ", ".join(sorted(releases)) or "none"
        raise UsageError(f"{release_id} is not published here; published are: {known}")

    def _refuse_withdrawn(self, release: Release) -> None:
        if withdrawal_path(release) in self.store.load_targets(WITHDRAWALS).signed.targets:
            raise PublishError(f"{release.id} has been withdrawn; publish the repair as another version")

    def _refuse_other_bytes(self, old: TargetFile | None, new: TargetFile, release: Release) -> None:
        problem = f"{release.id} is published with other bytes; a version never changes: build it as another version"
        if old is not None and (
            old.hashes != new.hashes or parse_release(old.custom).artifact.sha256 != release.artifact.sha256
        ):
            raise PublishError(problem)
        artifact = self.served / release.artifact.path
        if old is None and artifact.exists() and hash_file(artifact) != release.artifact.sha256:
            raise PublishError(problem)

    def _demand_signatures(self, role: str, metadata: Metadata[Any]) -> None:
        signatures = self.store.signatures(role, metadata)
        if not signatures.complete:
            have = f"{len(signatures.signed)} of {signatures.threshold}"
            raise TrustError(f"served {role} has {have} signatures; run 'pps-publish verify', nothing was refreshed")

    def _next(self, role: str) -> int:
        if role == TIMESTAMP:
            exists = self.store.served_path(TIMESTAMP, 0).exists()
            return self.store.load_timestamp().signed.version + 1 if exists else 1
        return max(self.store.versions(role), default=0) + 1
