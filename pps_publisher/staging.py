"""Versions that wait for signatures: signing them, and the one step that serves a complete one.

Files move before the metadata that names them, so a crash leaves at most files that nobody refers
to, and the same command run again ends the work.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile, Targets

from pps_publisher.errors import TrustError
from pps_publisher.files import hash_file, make_directory, sync_directory
from pps_publisher.metadata import MetadataStore, Signatures, target_file
from pps_publisher.roles import CLIENTS, OFFLINE, ROOT, TARGETS
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
        waiting = ((role, self._store.load_staged(role)) for role in OFFLINE)
        return tuple(
            Change(role, metadata, self._lines_of(role, metadata)) for role, metadata in waiting if metadata is not None
        )

    def sign(self, signer: Signer) -> int:
        """Sign every staged version that waits for this key; give how many."""
        count = 0
        for role in OFFLINE:
            metadata = self._store.load_staged(role)
            if metadata is None or not self._store.may_sign(role, metadata, signer):
                continue
            self._store.demand_valid(role, metadata)
            self._check_files(role, metadata)
            self._store.sign(role, metadata, signer)
            self._store.save_staged(role, metadata)
            count += 1
        return count

    def is_complete(self, change: Change) -> bool:
        """Say whether a staged version has all its signatures, e.g. because a crash came before it was served."""
        return self._store.signatures(change.role, change.metadata).complete

    def settle(self, role: str, change: Change) -> Progress:
        """Serve a staged version if it is complete and its delegator is served; say how far it has come."""
        metadata = self._store.load_staged(role)
        if metadata is None:
            raise AssertionError(f"{role}: was staged a moment ago")
        signatures = self._store.signatures(role, metadata)
        above = {ROOT: None, TARGETS: ROOT}.get(role, TARGETS)
        served = signatures.complete and (above is None or bool(self._store.versions(above)))
        if served:
            self._check_files(role, metadata)
            self._serve_files(role, metadata)
            self._store.serve(role, metadata)
        return Progress(role, metadata.signed.version, change.lines, signatures, served)

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
                artifact = parse_release(target.custom).artifact
                files[Path(artifact.path)] = artifact.sha256
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
        self._store.staged_path(role).unlink(missing_ok=True)
        for leftover in (self._store.staged / "artifacts", self._store.staged / "targets" / role):
            if leftover.exists():
                shutil.rmtree(leftover)

    def _lines_of(self, role: str, metadata: Metadata[Any]) -> tuple[str, ...]:
        if not self._store.versions(role):
            return ("is new",)
        if role in {ROOT, TARGETS}:
            return ("only moves the expiry date",)
        return difference(self._store.load_targets(role).signed, metadata.signed) or ("only moves the expiry date",)


def difference(old: Targets, new: Targets) -> tuple[str, ...]:
    """Say in lines what a new version of a role changes; nothing means that only its dates differ."""
    added = [
        f"adds {_name(path, target)}{_content(target)}"
        for path, target in new.targets.items()
        if path not in old.targets
    ]
    changed = [
        f"changes the description of {_name(path, target)}{_content(target)}"
        for path, target in new.targets.items()
        if path in old.targets and old.targets[path] != target
    ]
    removed = [f"removes {_name(path, target)}" for path, target in old.targets.items() if path not in new.targets]
    return (*added, *changed, *removed)


def _content(target: TargetFile) -> str:
    """Say what a signature vouches for, so that the second signer can compare it with the build at hand."""
    if target.custom is None:
        return ""
    release = parse_release(target.custom)
    vos = " ".join(release.vos)
    return f": {release.class_.value}, VOs {vos}, tag suffix {release.tag_suffix}, artifact {release.artifact.sha256}"


def _name(path: str, target: TargetFile) -> str:
    return parse_release(target.custom).id if target.custom is not None else path
