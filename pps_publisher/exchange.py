"""Exchanging keys of a repository: several people sign what is staged; it is served when all fits together.

The order of serving is that of ``staging`` and ``rotation``: no site ever meets a role that the role
above it does not accept. Keys that are lost or stolen are not needed: the others replace them, as far
as the thresholds allow.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from pps_publisher.errors import PublishError, TrustError
from pps_publisher.keys import load_public, owner_of, public_path
from pps_publisher.repository import Repository, content_of
from pps_publisher.roles import DELEGATED, OFFLINE, ROOT, TARGETS, next_version
from pps_publisher.rotation import KeyPlan, key_changes, plan_holder, plan_rotation
from pps_publisher.staging import Change, Progress

Planned = tuple[Change, ...]


class Exchange:
    """The exchange of keys in one repository; ``now`` dates what is made."""

    def __init__(self, repository: Repository, now: datetime, *, replace_staged: bool = False) -> None:
        self._repository = repository
        self._store = repository.store
        self._now = now
        self._replace = replace_staged

    def rotate(self, keys: Mapping[str, Key]) -> Planned:
        """Give the versions that exchange keys by name, in the order of serving; writes nothing.

        Versions that wait already with the same content are given as they are, with their signatures.
        Raises: PublishError when another version waits; UsageError, ConfigError as ``plan_rotation``.
        """
        return self._changes(plan_rotation(self._store.load_root(), self._store.load_targets(), keys, self._now))

    def add(self, name: str, key: Key) -> Planned:
        """Give the versions that let one more person sign for ``clients``. Raises: as ``plan_holder``."""
        return self._holder(name, key)

    def remove(self, name: str) -> Planned:
        """Give the versions after which a person no longer signs for ``clients``. Raises: as ``plan_holder``."""
        return self._holder(name, None)

    def stage(self, plan: Callable[[], Planned], signer: Signer | None) -> tuple[Progress, ...]:
        """Stage what ``plan`` gives, signed by ``signer`` if there is one; it is served when complete.

        Raises: as the plan; TrustError when the key may sign none of it; OSError.
        """
        staging = self._repository.staging
        with self._repository.locked():
            changes = plan()
            if signer is not None and signer.public_key.keyid not in self._keyids(changes):
                raise TrustError(f"the key of {owner_of(signer.public_key)} may sign none of these versions")
            for change in self._missing(changes):
                if self._replace:
                    staging.drop(change.role)
            # What vouches comes last, so that after a crash nothing vouches for what is not there.
            missing = self._missing(changes)
            for change in sorted(missing, key=lambda one: (-OFFLINE.index(one.role), one.metadata.signed.version)):
                self._store.save_staged(change.role, change.metadata)
            if signer is not None:
                staging.sign(signer)
            return staging.settle(changes)

    def _holder(self, name: str, key: Key | None) -> Planned:
        root, targets = self._store.load_root(), self._store.load_targets()
        return self._changes(KeyPlan((), plan_holder(root, targets, name, key, self._now)))

    def _changes(self, plan: KeyPlan) -> Planned:
        made: list[tuple[str, Metadata[Any]]] = [(ROOT, root) for root in plan.roots]
        if plan.targets is not None:
            made.append((TARGETS, plan.targets))
            made += self._signed_again(plan.targets.signed)
        changes: list[Change] = []
        before: dict[str, Root | Targets] = {}
        for role, metadata in made:
            there = metadata if self._replace else self._waiting(role, metadata)
            if content_of(there) != content_of(metadata):
                raise PublishError(
                    f"{role} version {there.signed.version} waits for signatures; finish it with 'pps-publish sign'"
                    " or drop it with --replace-staged"
                )
            old = before.get(role) or self._served(role)
            lines = tuple(key_changes(old, there.signed)) or ("is signed again, with the same content",)
            before[role] = there.signed
            changes.append(Change(role, there, lines))
        return tuple(changes)

    def _waiting(self, role: str, planned: Metadata[Any]) -> Metadata[Any]:
        """Give what waits already under the number of a planned version, or that version."""
        staged = self._store.load_all_staged(role)
        if role != ROOT and staged:
            return staged[0]
        return next((one for one in staged if one.signed.version == planned.signed.version), planned)

    def _signed_again(self, targets: Targets) -> list[tuple[str, Metadata[Any]]]:
        """Give the delegated roles that the new ``targets`` would not accept as they are."""
        made: list[tuple[str, Metadata[Any]]] = []
        for role in DELEGATED:
            current = self._store.load_targets(role)
            if not self._store.signatures(role, current, under=targets).complete:
                made.append((role, next_version(role, current, self._now)))
        return made

    def _missing(self, changes: Planned) -> list[Change]:
        """Give the changes that are not staged yet."""
        staged = {
            (role, one.signed.version): content_of(one) for role in OFFLINE for one in self._store.load_all_staged(role)
        }
        return [
            change
            for change in changes
            if staged.get((change.role, change.metadata.signed.version)) != content_of(change.metadata)
        ]

    def _keyids(self, changes: Planned) -> set[str]:
        """Give the keys whose signatures count for planned versions, staged or not."""
        planned = {change.role: change.metadata.signed for change in changes}
        roots = [self._store.load_root().signed]
        roots += [change.metadata.signed for change in changes if change.role == ROOT]
        keyids: set[str] = set()
        for role in planned:
            above = roots if role == ROOT else [roots[-1] if role == TARGETS else planned[TARGETS]]
            keyids.update(*(signed.get_delegated_role(role).keyids for signed in above))
        return keyids

    def _served(self, role: str) -> Root | Targets:
        return self._store.load_root().signed if role == ROOT else self._store.load_targets(role).signed


def load_new_keys(directory: Path, names: tuple[str, ...]) -> dict[str, Key]:
    """Read the new public keys ``NAME.pub`` of a directory. Raises: ConfigError when one is none."""
    return {name: load_public(public_path(directory, name)) for name in names}
