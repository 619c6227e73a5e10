"""TUF metadata on disk: what is served, what waits for signatures, and who has signed.

``<dir>/served/`` is what a web server shows; ``<dir>/staged/`` holds the next version of a role until
enough people have signed it, in the same layout. Two roots may wait, one after the other: while a key of
``root`` is exchanged the first lists the old and the new one. Served files are never changed, except
``timestamp.json``. Source: TUF specification 1.0, clauses 5.3 to 5.6 (what a client will check).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp, VerificationResult

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

    @classmethod
    def of_copy(cls, served: Path) -> Self:
        """Give the metadata of a served directory that stands alone, e.g. a mirror's; nothing waits there."""
        store = cls(served)
        store.served = served
        return store

    def versions(self, role: str) -> list[int]:
        """Give the served version numbers of a role, ascending."""
        names = (path.name.removesuffix(f".{role}.json") for path in (self.served / "metadata").glob(f"*.{role}.json"))
        return sorted(int(name) for name in names if name.isdigit())

    def served_path(self, role: str, version: int) -> Path:
        """Give the place of one served version."""
        name = "timestamp.json" if role == TIMESTAMP else f"{version}.{role}.json"
        return self.served / "metadata" / name

    def staged_path(self, role: str, version: int | None = None) -> Path:
        """Give the place of the version of a role that waits for signatures; roots are told apart by version."""
        name = f"{role}.json" if version is None or role != ROOT else f"{version}.{role}.json"
        return self.staged / "metadata" / name

    def load_root(self, version: int | None = None) -> Metadata[Root]:
        """Read a served root, the newest by default. Raises: UsageError when there is none, TrustError."""
        return self._load_served(ROOT, version)

    def load_targets(self, role: str = TARGETS, version: int | None = None) -> Metadata[Targets]:
        """Read served ``targets`` or a delegated role. Raises: UsageError when there is none, TrustError."""
        return self._load_served(role, version)

    def load_snapshot(self, version: int | None = None) -> Metadata[Snapshot]:
        """Read a snapshot, the newest by default. Raises: UsageError when there is none, TrustError."""
        return self._load_served(SNAPSHOT, version)

    def load_timestamp(self) -> Metadata[Timestamp]:
        """Read the timestamp. Raises: UsageError when there is none, TrustError."""
        path = self.served_path(TIMESTAMP, 0)
        if not path.exists():
            raise UsageError(f"{path}: is not there; make it with 'pps-publish refresh'")
        return load_metadata(path, TIMESTAMP)

    def load_staged(self, role: str) -> Metadata[Any] | None:
        """Read the staged version of a role that is served next, if one waits."""
        return next(iter(self.load_all_staged(role)), None)

    def load_all_staged(self, role: str) -> tuple[Metadata[Any], ...]:
        """Read what waits for a role, in order; at most one but for ``root``. A version already served is gone."""
        pattern = f"*{role}.json" if role == ROOT else f"{role}.json"
        loaded = (load_metadata(path, role) for path in self.staged.glob(f"metadata/{pattern}"))
        # a crash before the last step of serve() leaves a version both staged and served
        served = set(self.versions(role))
        waiting = {one.signed.version: one for one in loaded if one.signed.version not in served}
        return tuple(waiting[version] for version in sorted(waiting))

    def save_staged(self, role: str, metadata: Metadata[Any]) -> None:
        """Keep a version until enough people have signed it. Raises: OSError."""
        save_bytes(self.staged_path(role, metadata.signed.version), metadata.to_bytes())

    def drop_staged(self, role: str) -> None:
        """Forget what waits for a role. Raises: OSError."""
        for path in self.staged.glob(f"metadata/*{role}.json" if role == ROOT else f"metadata/{role}.json"):
            path.unlink()

    def serve(self, role: str, metadata: Metadata[Any]) -> None:
        """Put a version where clients look; a served version is never replaced. Raises: TrustError, OSError."""
        version = metadata.signed.version
        path = self.served_path(role, version)
        if role != TIMESTAMP and path.exists():
            raise TrustError(f"{path}: is served already; run 'pps-publish verify'")
        save_bytes(path, metadata.to_bytes())
        staged = self.staged_path(role, version)
        if staged.exists():
            staged.unlink()
            sync_directory(staged.parent)

    def seen_versions(self) -> dict[str, int]:
        """Give the versions that sites see, by role: those under the timestamp. Empty before the first refresh."""
        if not self.served_path(TIMESTAMP, 0).exists():
            return {}
        timestamp = self.load_timestamp().signed
        snapshot = self.load_snapshot(timestamp.snapshot_meta.version).signed
        seen = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
        return seen | {SNAPSHOT: snapshot.version, TIMESTAMP: timestamp.version}

    def sign(self, role: str, metadata: Metadata[Any], signer: Signer, *, under: Root | Targets | None = None) -> None:
        """Add a signature; ``under`` as in ``signatures``. Raises: TrustError when the key is none of the role's."""
        allowed = self._keys(role, metadata, under)
        if signer.public_key.keyid not in allowed:
            owners = dict.fromkeys(owner_of(key) for key in allowed.values())
            owner = owner_of(signer.public_key)
            other = f" ({owner} holds another key by now, see 'pps-publish keys show')" if owner in owners else ""
            raise TrustError(f"the key of {owner} may not sign {role}; use one of: {', '.join(owners)}{other}")
        metadata.sign(signer, append=True)

    def demand_valid(self, role: str, metadata: Metadata[Any]) -> None:
        """Refuse a version that was changed after somebody signed it. Raises: TrustError naming who."""
        results = self._results(role, metadata)
        unsigned = {keyid: key for result in results for keyid, key in result.unsigned.items()}
        broken = [owner_of(key) for keyid, key in unsigned.items() if keyid in metadata.signatures]
        if broken:
            raise TrustError(
                f"{role}: was changed after {', '.join(broken)} signed it, or that signature is damaged;"
                " do not sign, find out who did, then publish again with --replace-staged"
            )

    def signatures(self, role: str, metadata: Metadata[Any], *, under: Root | Targets | None = None) -> Signatures:
        """Say who has validly signed a version of a role.

        It is judged under ``under``, else under the newest version of its delegator, a staged one before a
        served one. A root needs its own threshold and that of the root before it; the one that lacks
        signatures is told.
        """
        results = self._results(role, metadata, under)
        lacking = next((result for result in results if not result.verified), results[-1])
        return Signatures(
            tuple(owner_of(key) for key in lacking.signed.values()),
            tuple(owner_of(key) for key in lacking.unsigned.values()),
            lacking.threshold,
            all(result.verified for result in results),
        )

    def may_sign(self, role: str, metadata: Metadata[Any], signer: Signer) -> bool:
        """Say whether this key belongs to the role, whether or not it has signed this version."""
        return signer.public_key.keyid in self._keys(role, metadata)

    def delegator(self, role: str, *, served: bool = False) -> Root | Targets:
        """Give what vouches for a role other than ``root``: its newest version, staged ones too unless ``served``."""
        above = ROOT if role in {TARGETS, SNAPSHOT, TIMESTAMP} else TARGETS
        staged = () if served else self.load_all_staged(above)
        if staged:
            newest: Root | Targets = staged[-1].signed
            return newest
        return self.load_root().signed if above == ROOT else self.load_targets().signed

    def _results(
        self, role: str, metadata: Metadata[Any], under: Root | Targets | None = None
    ) -> tuple[VerificationResult, ...]:
        """Give the verdict of all that must agree to a version: for a root the one before it and itself."""
        if role != ROOT:
            # The online key is in use before the root that forgets its predecessor is served.
            judge = under or self.delegator(role, served=role in {SNAPSHOT, TIMESTAMP})
            return (_verify(judge, role, metadata),)
        version = metadata.signed.version
        if version == 1:
            return (_verify(metadata.signed, ROOT, metadata),)
        staged = {waiting.signed.version: waiting for waiting in self.load_all_staged(ROOT)}
        previous = staged.get(version - 1) or self.load_root(version - 1)
        return (_verify(previous.signed, ROOT, metadata), _verify(metadata.signed, ROOT, metadata))

    def _keys(self, role: str, metadata: Metadata[Any], under: Root | Targets | None = None) -> dict[str, Key]:
        """Give the keys whose signatures count for a version, by id."""
        results = self._results(role, metadata, under)
        return {keyid: key for result in results for keyid, key in (result.signed | result.unsigned).items()}

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


def parse_root(content: bytes) -> Root:
    """Read a root as somebody pinned it; its signatures are not checked here. Raises: TrustError."""
    try:
        signed = Metadata[Any].from_bytes(content).signed
    except RepositoryError as exc:
        raise TrustError(f"the pinned root is damaged ({exc}); get it from the release managers") from exc
    if not isinstance(signed, Root):
        raise TrustError(f"the pinned root is {signed.type} metadata; name a root.json")
    return signed


def _verify(judge: Root | Targets, role: str, metadata: Metadata[Any]) -> VerificationResult:
    try:
        return judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError as exc:
        raise TrustError(f"{judge.type} version {judge.version} does not delegate {role}; do not sign it") from exc


def read_target(top: Path, target: TargetFile) -> bytes:
    """Read a target below a served or staged directory. Raises: TrustError when it is missing or damaged; OSError."""
    path = target_file(top, target)
    try:
        content = path.read_bytes()
        target.verify_length_and_hashes(content)
    except FileNotFoundError as exc:
        raise TrustError(f"{path}: is missing; restore it from a copy") from exc
    except LengthOrHashMismatchError as exc:
        raise TrustError(f"{path}: is damaged ({exc}); restore it from a copy") from exc
    return content


def target_file(top: Path, target: TargetFile) -> Path:
    """Give where a target lies below a served or staged directory: hash first, as consistent snapshots demand.

    Raises: TrustError for metadata that was changed so that it names no such hash.
    """
    if "sha256" not in target.hashes:
        raise TrustError(f"{target.path}: the metadata that lists it names no sha256; restore it from a copy")
    path = PurePosixPath(target.path)
    return top / "targets" / path.parent / f"{target.hashes['sha256']}.{path.name}"
