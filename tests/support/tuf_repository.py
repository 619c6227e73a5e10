"""Any TUF repository, signed by whoever a test likes: roles need not be ours, and nothing need be right."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")


def new_signer() -> Signer:
    """Give a new Ed25519 key."""
    return CryptoSigner(Ed25519PrivateKey.generate())


def in_days(days: float) -> datetime:
    """Give a time so many days from now; negative ones are past."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


class TufRepository:
    """Serves below ``base``: metadata/ and targets/. Change a role, then ``write`` or ``publish`` it."""

    def __init__(self, base: Path, *, consistent: bool = True, hashes: bool = False) -> None:
        self.base = base
        self.hashes = hashes
        self.signers: dict[str, list[Signer]] = {role: [new_signer()] for role in TOP_LEVEL}
        expires = in_days(30)
        self.mds: dict[str, Metadata[Any]] = {
            "root": Metadata(Root(expires=expires, consistent_snapshot=consistent)),
            "timestamp": Metadata(Timestamp(expires=expires)),
            "snapshot": Metadata(Snapshot(expires=expires)),
            "targets": Metadata(Targets(expires=expires)),
        }
        for role in TOP_LEVEL:
            self.root.add_key(self.signers[role][0].public_key, role)
        for role in TOP_LEVEL[::-1]:
            self.write(role)

    @property
    def root(self) -> Root:
        return self.mds["root"].signed

    @property
    def timestamp(self) -> Timestamp:
        return self.mds["timestamp"].signed

    @property
    def snapshot(self) -> Snapshot:
        return self.mds["snapshot"].signed

    @property
    def targets(self) -> Targets:
        return self.mds["targets"].signed

    @property
    def root_bytes(self) -> bytes:
        return (self.base / "metadata" / "1.root.json").read_bytes()

    def path(self, role: str) -> Path:
        """Give where a role's current version lies; a name with a slash in it lies as servers unquote it."""
        versioned = role == "root" or (self.root.consistent_snapshot and role != "timestamp")
        prefix = f"{self.mds[role].signed.version}." if versioned else ""
        return self.base / "metadata" / f"{prefix}{role}.json"

    def write(self, role: str, *, bump: bool = False) -> None:
        """Sign a role with all its signers and put it where it is served."""
        metadata = self.mds[role]
        metadata.signed.version += bump
        metadata.signatures.clear()
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        path = self.path(role)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(metadata.to_bytes())

    def publish(self, *roles: str) -> None:
        """Write these roles anew, one version up, and snapshot and timestamp over everything."""
        for role in roles:
            self.write(role, bump=True)
        for role in self.mds.keys() - {"root", "timestamp", "snapshot"}:
            self.snapshot.meta[f"{role}.json"] = self._meta(role)
        self.write("snapshot", bump=True)
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        """Vouch for the snapshot as it is."""
        self.timestamp.snapshot_meta = self._meta("snapshot")
        self.write("timestamp", bump=True)

    def _meta(self, role: str) -> MetaFile:
        version = self.mds[role].signed.version
        if not self.hashes:
            return MetaFile(version)
        return MetaFile.from_data(version, self.path(role).read_bytes(), ["sha256"])

    def rotate(self, *roles: str) -> None:
        """Give roles new keys, in a new root."""
        for role in roles:
            self.root.roles[role].keyids.clear()
            self.signers[role] = [new_signer()]
            self.root.add_key(self.signers[role][0].public_key, role)
        self.write("root", bump=True)

    def add_target(self, role: str, path: str, content: bytes, *, served: bytes | None = None) -> None:
        """Sign for a target, and serve it (or something else)."""
        target = TargetFile.from_data(path, content, ["sha256"])
        self.mds[role].signed.targets[path] = target
        folder, slash, name = path.rpartition("/")
        prefix = f"{sha256(content).hexdigest()}." if self.root.consistent_snapshot else ""
        place = self.base / "targets" / f"{folder}{slash}{prefix}{name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if served is None else served)

    def delegate(
        self, parent: str, role: str, paths: list[str] | None = None, *, terminating: bool = False, threshold: int = 1
    ) -> None:
        """Delegate paths to a role, which is made when it is new."""
        if role not in self.mds:
            self.mds[role] = Metadata(Targets(expires=in_days(30)))
            self.signers[role] = [new_signer() for _ in range(threshold)]
            self.mds[role].signed.version = 0
        delegator = self.mds[parent].signed
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, roles={})
        delegator.delegations.roles[role] = DelegatedRole(role, [], threshold, terminating, paths or ["*"])
        for signer in self.signers[role]:
            delegator.add_key(signer.public_key, role)

    def delegate_bins(self, bit_length: int, prefix: str) -> list[str]:
        """Delegate all paths to hash bins under one key; give their names."""
        signer = new_signer()
        bins = SuccinctRoles([], 1, bit_length, prefix)
        self.targets.delegations = Delegations({}, None, bins)
        names = list(bins.get_roles())
        for name in names:
            self.mds[name] = Metadata(Targets(expires=in_days(30)))
            self.mds[name].signed.version = 0
            self.signers[name] = [signer]
        self.targets.add_key(signer.public_key)
        return names
