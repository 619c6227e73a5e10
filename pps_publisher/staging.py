"""Versions that wait for signatures: signing them, and the step that serves what is complete.

Sites never see a state in which one role does not accept another. A root is served only when it
accepts what sites see now; ``targets`` that exchanges keys goes together with the roles that the new
keys signed again. Files move before the metadata that names them, so a crash leaves at most files
that nobody refers to, and the same command run again ends the work.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from pps_publisher.errors import TrustError
from pps_publisher.files import hash_file, make_directory, sync_directory
from pps_publisher.metadata import MetadataStore, Signatures, target_file
from pps_publisher.roles import CLIENTS, DELEGATED, LIFETIMES, OFFLINE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, next_version
from pps_publisher.rotation import key_changes
from pps_wire.release import parse_release


@dataclass(frozen=True, slots=True)
class Change:
    """The next version of a role, unsigned, and what it changes, one line each, e.g. ``adds <id>``."""

    role: str
    metadata: Metadata[Any]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a version of a role has come; ``served`` ones wait only for ``refresh``."""

    role: str
    version: int
    lines: tuple[str, ...]
    signatures: Signatures
    served: bool


class Staging:
    """What is staged below one repository directory. The caller holds the repository's lock."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    def pending(self) -> tuple[Change, ...]:
        """Give every version that waits for signatures, with what it changes."""
        waiting = ((role, metadata) for role in OFFLINE for metadata in self._store.load_all_staged(role))
        return tuple(Change(role, metadata, self._lines_of(role, metadata)) for role, metadata in waiting)

    def sign(self, signer: Signer) -> None:
        """Sign every staged version that this key belongs to and has not signed.

        Raises: TrustError when a version or its files were changed since they were staged.
        """
        for role in OFFLINE:
            for metadata in self._store.load_all_staged(role):
                if signer.public_key.keyid in metadata.signatures or not self._store.may_sign(role, metadata, signer):
                    continue
                self._store.demand_valid(role, metadata)
                self._check_files(role, metadata)
                self._store.sign(role, metadata, signer)
                self._store.save_staged(role, metadata)

    def is_complete(self, change: Change) -> bool:
        """Say whether a staged version has all its signatures, e.g. because a crash came before it was served."""
        return self._store.signatures(change.role, change.metadata).complete

    def has_complete(self) -> bool:
        """Say whether anything staged has all its signatures."""
        return any(self.is_complete(change) for change in self.pending())

    def settle(self, changes: Iterable[Change]) -> tuple[Progress, ...]:
        """Serve all that may be served; say how far each of these versions, staged a moment ago, has come."""
        staged = [(change, self._reload(change)) for change in changes]
        # Judged before anything is served: what is staged vouches for what is staged.
        signatures = [self._store.signatures(change.role, metadata) for change, metadata in staged]
        self.serve_complete()
        return tuple(
            Progress(
                change.role,
                metadata.signed.version,
                change.lines,
                have,
                metadata.signed.version in self._store.versions(change.role),
            )
            for (change, metadata), have in zip(staged, signatures, strict=True)
        )

    def serve_complete(self) -> None:
        """Serve every staged version that is complete and that goes with all that is served; see above."""
        for root in self._store.load_all_staged(ROOT):
            if not self._store.signatures(ROOT, root).complete or not self._is_accepted(root.signed):
                break
            self._store.serve(ROOT, root)
        if not self._store.versions(ROOT):
            return
        targets = self._store.load_staged(TARGETS)
        if targets is not None and self._may_follow(targets):
            self._store.serve(TARGETS, targets)
        if self._store.versions(TARGETS):
            served = self._store.load_targets().signed
            for role in DELEGATED:
                self._serve_under(role, served)

    def renew_under(self, role: str) -> None:
        """Stage a delegated role again, unsigned, where staged ``targets`` would not accept what is there."""
        targets = self._store.load_staged(TARGETS)
        if targets is None or self._store.load_staged(role) is not None or not self._store.versions(role):
            return
        current = self._store.load_targets(role)
        if not self._store.signatures(role, current, under=targets.signed).complete:
            staged_at = targets.signed.expires - LIFETIMES[TARGETS]
            self._store.save_staged(role, next_version(role, current, staged_at))

    def _reload(self, change: Change) -> Metadata[Any]:
        version = change.metadata.signed.version
        staged = (one for one in self._store.load_all_staged(change.role) if one.signed.version == version)
        return next(staged, change.metadata)

    def _is_accepted(self, root: Root) -> bool:
        """Say whether a root accepts what sites see now, so that it may be served before the next refresh."""
        seen = self._store.seen_versions()
        if not seen:
            return True
        shown: tuple[tuple[str, Metadata[Any]], ...] = (
            (TIMESTAMP, self._store.load_timestamp()),
            (SNAPSHOT, self._store.load_snapshot(seen[SNAPSHOT])),
            (TARGETS, self._store.load_targets(TARGETS, seen[TARGETS])),
        )
        return all(self._store.signatures(role, metadata, under=root).complete for role, metadata in shown)

    def _may_follow(self, targets: Metadata[Targets]) -> bool:
        """Say whether staged ``targets`` is complete and each served role is, or has staged, what it accepts."""
        if not self._store.signatures(TARGETS, targets, under=self._store.load_root().signed).complete:
            return False
        for role in DELEGATED:
            if not self._store.versions(role):
                continue
            candidates = (self._store.load_staged(role), self._store.load_targets(role))
            if not any(
                metadata is not None and self._store.signatures(role, metadata, under=targets.signed).complete
                for metadata in candidates
            ):
                return False
        return True

    def _serve_under(self, role: str, targets: Targets) -> None:
        metadata = self._store.load_staged(role)
        if metadata is not None and self._store.signatures(role, metadata, under=targets).complete:
            self._check_files(role, metadata)
            self._serve_files(role, metadata)
            self._store.serve(role, metadata)

    def _new_files(self, role: str, metadata: Metadata[Any]) -> dict[Path, str]:
        """Give the files that a version needs and the served one does not, below either top, with their sha256."""
        if role in {ROOT, TARGETS}:
            return {}
        old = self._store.load_targets(role).signed.targets if self._store.versions(role) else {}
        files: dict[Path, str] = {}
        for path, target in metadata.signed.targets.items():
            if old.get(path) == target:
                continue
            files[target_file(Path(), target)] = target.hashes["sha256"]
            if role == CLIENTS:
                release = parse_release(target.custom)
                for part in (release.artifact, release.deltas):
                    if part is not None:
                        files[Path(part.path)] = part.sha256
        return files

    def _check_files(self, role: str, metadata: Metadata[Any]) -> None:
        for path, sha256 in self._new_files(role, metadata).items():
            place = next(
                (top / path for top in (self._store.staged, self._store.served) if (top / path).exists()), None
            )
            if place is None:
                raise TrustError(
                    f"{path}: {role} lists it but it is not staged; publish it again with --replace-staged"
                )
            if hash_file(place) != sha256:
                raise TrustError(f"{place}: was changed since it was staged; nothing was signed or served")

    def _serve_files(self, role: str, metadata: Metadata[Any]) -> None:
        for path in self._new_files(role, metadata):
            staged, served = self._store.staged / path, self._store.served / path
            if staged.exists():
                make_directory(served.parent)
                staged.replace(served)
                sync_directory(served.parent)

    def drop(self, role: str) -> None:
        """Throw away what waits for a role, with its files. Raises: OSError."""
        self._store.drop_staged(role)
        leftovers = [self._store.staged / "targets" / role]
        if role == CLIENTS:
            leftovers.append(self._store.staged / "artifacts")
        for leftover in leftovers:
            if leftover.exists():
                shutil.rmtree(leftover)

    def _lines_of(self, role: str, metadata: Metadata[Any]) -> tuple[str, ...]:
        if not self._store.versions(role):
            return ("is new",)
        old: Metadata[Any]
        if role == ROOT:
            before = [one for one in self._store.load_all_staged(ROOT) if one.signed.version < metadata.signed.version]
            old = before[-1] if before else self._store.load_root()
            lines = tuple(key_changes(old.signed, metadata.signed))
        else:
            old = self._store.load_targets(role)
            lines = (*key_changes(old.signed, metadata.signed), *difference(old.signed, metadata.signed))
        return lines or ("only moves the expiry date",)


def difference(old: Targets, new: Targets) -> tuple[str, ...]:
    """Say in lines what a new version of a role changes; nothing means that only its dates differ."""
    added = [
        f"adds {_name(path, target)}{_content(target)}"
        for path, target in new.targets.items()
        if path not in old.targets
    ]
    changed = [
        f"changes the description of {_name(path, target)}{_fields(old.targets[path], target)}{_content(target)}"
        for path, target in new.targets.items()
        if path in old.targets and old.targets[path] != target
    ]
    removed = [f"removes {_name(path, target)}" for path, target in old.targets.items() if path not in new.targets]
    return (*added, *changed, *removed)


def _fields(old: TargetFile, new: TargetFile) -> str:
    """Say which fields of a description change, from what to what."""
    before, after = old.custom or {}, new.custom or {}
    changed = (name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name))
    said = (f"{name} {json.dumps(before.get(name))} -> {json.dumps(after.get(name))}" for name in changed)
    return f" ({'; '.join(said)})"


def _content(target: TargetFile) -> str:
    """Say what a signature vouches for, so that the second signer can compare it with the build at hand."""
    if target.custom is None:
        return ""
    release = parse_release(target.custom)
    vos = " ".join(release.vos)
    said = f"{release.class_.value}, VOs {vos}, tag suffix {release.tag_suffix}"
    deltas = f", deltas {release.deltas.sha256}" if release.deltas is not None else ""
    return f": {said}, manifest {target.hashes['sha256']}, artifact {release.artifact.sha256}{deltas}"


def _name(path: str, target: TargetFile) -> str:
    return parse_release(target.custom).id if target.custom is not None else path
