"""A repository of previews: stage, sign, serve, take back, exchange keys.

Nothing is seen by a site before two things have happened: enough people signed the role that lists
it (then it moves from ``staged/`` to ``served/``), and the online key signed a new snapshot
(``online.refresh``). Each command ended by a crash is completed by the same command run again, which
tells the truth about what is there.
"""

import contextlib
from collections.abc import Container, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile

from pps_publisher.bundle import Bundle, check_bundle
from pps_publisher.deltas import keep_served, load_served, same_content
from pps_publisher.errors import PublishError, UsageError
from pps_publisher.files import copy_file, hash_file, locked, make_directory, save_bytes, sweep_tree
from pps_publisher.keys import owner_of
from pps_publisher.metadata import MetadataStore, target_file
from pps_publisher.roles import (
    CLIENTS,
    DELEGATED,
    FLEET,
    OFFLINE,
    ROOT,
    TARGETS,
    TIMESTAMP,
    WITHDRAWALS,
    Authorities,
    first_delegated,
    first_root,
    first_targets,
    next_version,
    release_target,
    releases_of,
    withdrawal_of,
    withdrawal_target,
)
from pps_publisher.staging import Change, Progress, Staging, difference
from pps_wire.names import ReleaseId
from pps_wire.release import Release, parse_release, parse_withdrawal, target_path, withdrawal_path
from pps_wire.request import FLEET_KEYS_PATH, FleetKeys

_MAX_REASON: Final = 1024


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
        """Refuse to make a repository where sites see one already. Raises: UsageError."""
        if self.store.served_path(TIMESTAMP, 0).exists():
            raise UsageError(f"{self.base}: is a repository already; choose another directory")

    def create(
        self, authorities: Authorities, signers: Iterable[Signer], fleet: FleetKeys, now: datetime
    ) -> tuple[Progress, ...]:
        """Make version 1 of every offline role, signed by ``signers`` as far as they may.

        A making that was cut short is completed. Raises: UsageError when the directory is a repository
        already, or one of other keys was begun there; ConfigError; OSError.
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
        with self.locked():
            begun = {role: self._begun(role, first[role]) for role in OFFLINE}
            for role, there in begun.items():
                if there is None and role == FLEET:
                    save_bytes(target_file(self.store.staged, fleet_target), fleet_bytes)
                if there is None:
                    self.store.save_staged(role, first[role])
            for signer in signers:
                self.staging.sign(signer)
            return self.staging.settle(Change(role, there or first[role], ("is new",)) for role, there in begun.items())

    def plan_publish(self, bundles: Iterable[Bundle], now: datetime, *, replace_staged: bool = False) -> Change:
        """Check builds to the last byte and give the next ``clients`` version that lists them; writes nothing.

        What waits already with the same content is given as it is, with its signatures. Raises:
        PublishError when another version waits for signatures or a build may not be published.
        """
        waiting = self.store.load_staged(CLIENTS)
        current = self.store.load_targets(CLIENTS)
        change = Change(CLIENTS, next_version(CLIENTS, current, now), ())
        for bundle in (keep_served(self.store, bundle) for bundle in bundles):
            self._refuse_withdrawn(bundle.release)
            target = release_target(target_path(bundle.release), bundle.manifest, bundle.release)
            self._refuse_other_bytes(current.signed.targets.get(target.path), bundle)
            check_bundle(bundle)
            change.metadata.signed.targets[target.path] = target
        lines = difference(current.signed, change.metadata.signed)
        if not lines:
            raise UsageError("these releases are published already, with the same bytes; there is nothing to do")
        if waiting is None or replace_staged or waiting.signed.targets == current.signed.targets:
            return Change(CLIENTS, change.metadata, lines)
        if waiting.signed.targets != change.metadata.signed.targets:
            raise PublishError(
                f"{CLIENTS} version {waiting.signed.version} waits for signatures; finish it with 'pps-publish sign'"
                " or drop it with --replace-staged"
            )
        return Change(CLIENTS, waiting, lines)

    def publish(
        self, bundles: Iterable[Bundle], signer: Signer, now: datetime, *, replace_staged: bool = False
    ) -> Progress:
        """Stage builds with the first signature; they are served when the second one comes.

        Raises: as ``plan_publish``; TrustError when the key may not sign ``clients``; OSError.
        """
        with self.locked():
            chosen = tuple(keep_served(self.store, bundle) for bundle in bundles)
            change = self.plan_publish(chosen, now, replace_staged=replace_staged)
            resumed = bool(change.metadata.signatures)
            self.store.demand_valid(CLIENTS, change.metadata)
            self.store.sign(CLIENTS, change.metadata, signer)
            if not resumed:
                self.staging.drop(CLIENTS)
            for bundle in chosen:
                target = change.metadata.signed.targets[target_path(bundle.release)]
                copy_file(bundle.artifact, self.store.staged / bundle.release.artifact.path)
                if bundle.pack is not None and bundle.release.deltas is not None:
                    copy_file(bundle.pack, self.store.staged / bundle.release.deltas.path)
                save_bytes(target_file(self.store.staged, target), bundle.manifest)
            self.store.save_staged(CLIENTS, change.metadata)
            (progress,) = self.staging.settle([change])
            return progress

    def sign(self, signer: Signer) -> tuple[Progress, ...]:
        """Add this key's signature to everything that waits for it; what is complete becomes served.

        What this key has signed before is told again, with how far it has come. Raises: UsageError when
        nothing waits for this key; TrustError when staged bytes were changed.
        """
        with self.locked():
            for role in DELEGATED:
                self.staging.renew_under(role)
            changes = self.staging.pending()
            mine = [change for change in changes if self.store.may_sign(change.role, change.metadata, signer)]
            ready = self.staging.has_complete()
            self.staging.sign(signer)
            done = (*self.staging.settle(changes), *self._signed_before(signer, {change.role for change in changes}))
            if not mine and not ready and len(done) == len(changes):
                waiting = ", ".join(dict.fromkeys(change.role for change in changes)) or "nothing"
                raise UsageError(
                    f"nothing waits for the key of {owner_of(signer.public_key)} ({waiting} is staged);"
                    " see 'pps-publish sign --dry-run'"
                )
            return done

    def drop(self, role: str) -> None:
        """Throw away what waits for a role, with its files. Raises: UsageError when nothing waits; OSError."""
        with self.locked():
            if self.store.load_staged(role) is None:
                raise UsageError(f"nothing waits for {role}; see 'pps-publish sign --dry-run'")
            self.staging.drop(role)

    def renew(self, role: str, signer: Signer, now: datetime) -> Progress:
        """Stage the same content of a role under a new expiry date, with the first signature.

        Raises: UsageError when the role has no such life or a version waits; TrustError.
        """
        if role not in OFFLINE:
            raise UsageError(f"{role} is not signed by people; renew one of {', '.join(OFFLINE)}, or 'refresh'")
        with self.locked():
            current: Metadata[Any] = self.store.load_root() if role == ROOT else self.store.load_targets(role)
            renewed = self.store.load_staged(role) or next_version(role, current, now)
            if content_of(renewed) != content_of(current):
                raise PublishError(
                    f"a version of {role} waits for signatures; finish it with 'pps-publish sign'"
                    f" or drop it with 'pps-publish sign --drop {role}'"
                )
            self.store.demand_valid(role, renewed)
            self.store.sign(role, renewed, signer)
            self.store.save_staged(role, renewed)
            (progress,) = self.staging.settle([Change(role, renewed, ("only moves the expiry date",))])
            return progress

    def plan_withdraw(self, release_id: ReleaseId, reason: str, now: datetime) -> Change:
        """Give the next ``withdrawals`` version that takes a release back; writes nothing.

        Raises: UsageError when the release is unknown, withdrawn already, or the reason is empty,
        too long or no line of text.
        """
        if not 0 < len(reason.strip()) <= _MAX_REASON:
            raise UsageError(f"a withdrawal needs a reason of 1 to {_MAX_REASON} characters: sites will read it")
        if not reason.strip().isprintable():
            raise UsageError("the reason of a withdrawal holds control characters or line ends; write it as one line")
        release = self._find(release_id)
        current = self.store.load_targets(WITHDRAWALS)
        if withdrawal_path(release) in current.signed.targets:
            if self._is_unseen(WITHDRAWALS) and self._reason_of(release) == reason.strip():
                return Change(WITHDRAWALS, current, (f"withdraws {release_id}: {reason.strip()}",))
            raise UsageError(f"{release_id} is withdrawn already; if sites still use it, run 'pps-publish refresh'")
        content = msgspec.json.encode(withdrawal_of(release, reason.strip(), now))
        target = withdrawal_target(withdrawal_path(release), content)
        metadata = next_version(WITHDRAWALS, current, now)
        metadata.signed.targets[target.path] = target
        return Change(WITHDRAWALS, metadata, (f"withdraws {release_id}: {reason.strip()}",))

    def withdraw(self, release_id: ReleaseId, reason: str, signer: Signer, now: datetime) -> Progress:
        """Take a release back with one signature, whatever else waits for signatures.

        Raises: as ``plan_withdraw``; TrustError when the key may not; OSError.
        """
        with self.locked():
            change = self.plan_withdraw(release_id, reason, now)
            if change.metadata.signed.version in self.store.versions(WITHDRAWALS):
                return self._served(change)
            # Under the keys that sites know now: a pending exchange of keys must not delay a withdrawal.
            known = self.store.delegator(WITHDRAWALS, served=True)
            self.store.sign(WITHDRAWALS, change.metadata, signer, under=known)
            release = self._find(release_id)
            target = change.metadata.signed.targets[withdrawal_path(release)]
            content = msgspec.json.encode(withdrawal_of(release, reason.strip(), now))
            save_bytes(target_file(self.store.staged, target), content)
            self.store.save_staged(WITHDRAWALS, change.metadata)
            self.staging.serve_complete()
            self.staging.renew_under(WITHDRAWALS)
            return self._served(change)

    def releases(self) -> dict[ReleaseId, Release]:
        """Give the releases that served ``clients`` metadata lists, withdrawn ones too."""
        return releases_of(self.store.load_targets(CLIENTS).signed)

    def known_releases(self) -> dict[ReleaseId, Release]:
        """Give the releases that are listed, served or waiting for signatures."""
        waiting = self.store.load_staged(CLIENTS)
        return self.releases() | ({} if waiting is None else releases_of(waiting.signed))

    def withdrawn(self) -> frozenset[ReleaseId]:
        """Give the releases that served metadata takes back."""
        targets = self.store.load_targets(WITHDRAWALS).signed.targets
        return frozenset(id_ for id_, release in self.releases().items() if withdrawal_path(release) in targets)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository's lock while the block runs, and first clear away what a killed process left.

        Raises: UsageError when there is no repository; PublishError when another process holds the lock.
        """
        if not self.base.is_dir():
            raise UsageError(f"{self.base}: no such repository; make one with 'pps-publish init'")
        with locked(self.base / "lock"):
            for top in (self.served, self.store.staged):
                sweep_tree(top)
            yield

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

    def _refuse_other_bytes(self, old: TargetFile | None, bundle: Bundle) -> None:
        """Refuse another artifact or manifest under the same id; deltas may come to a release without any."""
        release = bundle.release
        problem = f"{release.id} is published with other bytes; a version never changes: build it as another version"
        if old is not None and not same_content(load_served(self.store, parse_release(old.custom)), bundle):
            raise PublishError(problem)
        artifact = self.served / release.artifact.path
        if old is None and artifact.exists() and hash_file(artifact) != release.artifact.sha256:
            raise PublishError(problem)

    def _begun(self, role: str, first: Metadata[Any]) -> Metadata[Any] | None:
        """Give what an earlier start made of a role. Raises: UsageError when that start asked for something else."""
        there: Metadata[Any] | None = self.store.load_staged(role)
        if there is None and self.store.versions(role):
            there = self.store.load_root() if role == ROOT else self.store.load_targets(role)
        if there is not None and content_of(there) != content_of(first):
            raise UsageError(f"{self.base}: has a {role} of other keys or content already; choose another directory")
        return there

    def _signed_before(self, signer: Signer, waiting: Container[str]) -> Iterator[Progress]:
        """Give the served versions that this key signed and of which it cannot be known that sites have them."""
        for role in OFFLINE:
            if role in waiting or not self.store.versions(role) or not (role == ROOT or self._is_unseen(role)):
                continue
            metadata: Metadata[Any] = self.store.load_root() if role == ROOT else self.store.load_targets(role)
            if signer.public_key.keyid in metadata.signatures and self.store.may_sign(role, metadata, signer):
                yield self._served(Change(role, metadata, ("was signed before",)))

    def _served(self, change: Change) -> Progress:
        version = change.metadata.signed.version
        under = None if change.role == ROOT else self.store.delegator(change.role, served=True)
        signatures = self.store.signatures(change.role, change.metadata, under=under)
        return Progress(change.role, version, change.lines, signatures, version in self.store.versions(change.role))

    def _is_unseen(self, role: str) -> bool:
        return self.store.versions(role)[-1] != self.store.seen_versions().get(role)

    def _reason_of(self, release: Release) -> str:
        target = self.store.load_targets(WITHDRAWALS).signed.targets[withdrawal_path(release)]
        return parse_withdrawal(target_file(self.served, target).read_bytes()).reason


def content_of(metadata: Metadata[Any]) -> dict[str, Any]:
    """Give what a version says, apart from its number and its expiry date."""
    said: dict[str, Any] = metadata.signed.to_dict()
    return {name: value for name, value in said.items() if name not in {"version", "expires"}}
