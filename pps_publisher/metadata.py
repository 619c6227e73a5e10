"""TUF metadata on disk: what is served, what waits for signatures, and who has signed.

``<dir>/served/`` is what a web server shows; ``<dir>/staged/`` holds the next version of a role until
enough people have signed it, in the same layout. Served files are never changed, except
``timestamp.json``. Source: TUF specification 1.0, clauses 5.3 to 5.6 (what a client will check).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from pps_publisher.errors import TrustError, UsageError
from pps_publisher.files import save_bytes, sync_directory
from pps_publisher.keys import owner_of
from pps_publisher.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP

_KINDS: Final[Mapping[str, type[Root | Snapshot | Timestamp]]] = {ROOT: Root, SNAPSHOT: Snapshot, TIMESTAMP: Timestamp}


@dataclass(frozen=True, slots=True)
class Signatures:
    """Who has signed a version of a role, who still may, and how many more are needed."""

    signed: tuple[str, ...]
    waiting: tuple[str, ...]
    threshold: int
    complete: bool


class MetadataStore:
    """The metadata below one repository directory."""

    def __init__(self, base: Path) -> None:
        self.served = base / "served"
        self.staged = base / "staged"

    def versions(self, role: str) -> list[int]:
        """Give the served version numbers of a role, ascending."""
        names = (path.name.removesuffix(f".{role}.json") for path in (self.served / "metadata").glob(f"*.{role}.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def served_path(self, role: str, version: int) -> Path:
        """Give the place of one served version."""
        name = "timestamp.json" if role == TIMESTAMP else f"{version}.{role}.json"
        return self.served / "metadata" / name

    def staged_path(self, role: str) -> Path:
        """Give the place of the version of a role that waits for signatures."""
        return self.staged / "metadata" / f"{role}.json"

    def load_root(self, version: int | None = None) -> Metadata[Root]:
        """Read a served root, the newest by default. Raises: UsageError when there is none, TrustError."""
        return self._load_served(ROOT, version)

    def load_targets(self, role: str = TARGETS, version: int | None = None) -> Metadata[Targets]:
        """Read served ``targets`` or a delegated role. Raises: UsageError when there is none, TrustError."""
        return self._load_served(role, version)

    def load_snapshot(self) -> Metadata[Snapshot]:
        """Read the newest snapshot. Raises: UsageError when there is none, TrustError."""
        return self._load_served(SNAPSHOT, None)

    def load_timestamp(self) -> Metadata[Timestamp]:
        """Read the timestamp. Raises: UsageError when there is none, TrustError."""
        path = self.served_path(TIMESTAMP, 0)
        if not path.exists():
            raise UsageError(f"{path}: is not there; make it with 'pps-publish refresh'")
        return load_metadata(path, TIMESTAMP)

    def load_staged(self, role: str) -> Metadata[Any] | None:
        """Read the staged version of a role, if one waits. A version already served counts as gone."""
        path = self.staged_path(role)
        if not path.exists():
            return None
        metadata = load_metadata(path, role)
        # a crash before the last step of serve() leaves a version both staged and served
        return None if metadata.signed.version in self.versions(role) else metadata

    def save_staged(self, role: str, metadata: Metadata[Any]) -> None:
        """Keep a version until enough people have signed it. Raises: OSError."""
        save_bytes(self.staged_path(role), metadata.to_bytes())

    def serve(self, role: str, metadata: Metadata[Any]) -> None:
        """Put a version where clients look; a served version is never replaced. Raises: TrustError, OSError."""
        path = self.served_path(role, metadata.signed.version)
        if role != TIMESTAMP and path.exists():
            raise TrustError(f"{path}: is served already; run 'pps-publish verify'")
        save_bytes(path, metadata.to_bytes())
        self.staged_path(role).unlink(missing_ok=True)
        if self.staged_path(role).parent.exists():
            sync_directory(self.staged_path(role).parent)

    def sign(self, role: str, metadata: Metadata[Any], signer: Signer) -> None:
        """Add a signature. Raises: TrustError when the key is none of the role's."""
        delegator = self._delegator(role, metadata)
        allowed = delegator.get_delegated_role(role).keyids
        if signer.public_key.keyid not in allowed:
            owners = ", ".join(owner_of(delegator.get_key(keyid)) for keyid in allowed)
            raise TrustError(f"the key of {owner_of(signer.public_key)} may not sign {role}; use one of: {owners}")
        metadata.sign(signer, append=True)

    def demand_valid(self, role: str, metadata: Metadata[Any]) -> None:
        """Refuse a version that was changed after somebody signed it. Raises: TrustError naming who."""
        delegator = self._delegator(role, metadata)
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        broken = [owner_of(key) for keyid, key in result.unsigned.items() if keyid in metadata.signatures]
        if broken:
            raise TrustError(
                f"{role}: was changed after {', '.join(broken)} signed it, or that signature is damaged;"
                " do not sign, find out who did, then publish again with --replace-staged"
            )

    def signatures(self, role: str, metadata: Metadata[Any]) -> Signatures:
        """Say who has validly signed a version of a role, under the newest version of its delegator."""
        delegator = self._delegator(role, metadata)
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        complete = result.verified
        if role == ROOT and metadata.signed.version > 1:
            previous = self.load_root(metadata.signed.version - 1).signed
            both = metadata.signed.get_root_verification_result(previous, metadata.signed_bytes, metadata.signatures)
            complete = both.verified
        return Signatures(
            tuple(owner_of(key) for key in result.signed.values()),
            tuple(owner_of(key) for key in result.unsigned.values()),
            result.threshold,
            complete,
        )

    def may_sign(self, role: str, metadata: Metadata[Any], signer: Signer) -> bool:
        """Say whether this key belongs to the role and has not signed this version yet."""
        keyid = signer.public_key.keyid
        allowed = self._delegator(role, metadata).get_delegated_role(role).keyids
        return keyid in allowed and keyid not in metadata.signatures

    def _delegator(self, role: str, metadata: Metadata[Any]) -> Root | Targets:
        """Give what vouches for a role: its newest served version, or the staged first one."""
        if role == ROOT:
            signed: Root = metadata.signed
            return signed
        above = ROOT if role in {TARGETS, SNAPSHOT, TIMESTAMP} else TARGETS
        if not self.versions(above):
            staged = self.load_staged(above)
            if staged is not None:
                first: Root | Targets = staged.signed
                return first
        return self.load_root().signed if above == ROOT else self.load_targets().signed

    def _load_served(self, role: str, version: int | None) -> Metadata[Any]:
        if version is None:
            versions = self.versions(role)
            if not versions:
                raise UsageError(
                    f"{self.served / 'metadata'}: has no {role} metadata; see 'pps-publish init', 'sign' and 'refresh'"
                )
            version = versions[-1]
        return load_metadata(self.served_path(role, version), role)


def load_metadata(path: Path, role: str) -> Metadata[Any]:
    """Read one metadata file; signatures are not checked here. Raises: TrustError when it is damaged."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as exc:
        raise TrustError(f"{path}: is missing; restore it from a copy") from exc
    except RepositoryError as exc:
        raise TrustError(f"{path}: is damaged ({exc}); restore it from a copy") from exc
    if not isinstance(metadata.signed, _KINDS.get(role, Targets)):
        raise TrustError(f"{path}: is {metadata.signed.type} metadata, not {role}; restore it from a copy")
    return metadata


def target_file(top: Path, target: TargetFile) -> Path:
    """Give where a target lies below a served or staged directory: hash first, as consistent snapshots demand."""
    path = PurePosixPath(target.path)
    return top / "targets" / path.parent / f"{target.hashes['sha256']}.{path.name}"
