"""The TUF roles of a repository of previews and the metadata values they sign. Pure.

``clients`` needs two signatures: the release manager decides, SA3 flags, so that one stolen key
ships nothing. ``withdrawals`` trusts the same keys with one signature: taking back must be easy.
Source: TUF specification 1.0, clauses 4.3 to 4.6; expiry as in docs/adr (repository format and roles).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from pps_publisher.errors import ConfigError
from pps_publisher.keys import OWNER_FIELD
from pps_wire.names import ReleaseId
from pps_wire.release import Release, Withdrawal, parse_release, render_custom

ROOT: Final = "root"
TARGETS: Final = "targets"
CLIENTS: Final = "clients"
WITHDRAWALS: Final = "withdrawals"
FLEET: Final = "fleet"
SNAPSHOT: Final = "snapshot"
TIMESTAMP: Final = "timestamp"

OFFLINE: Final = (ROOT, TARGETS, CLIENTS, WITHDRAWALS, FLEET)
"""Roles that people sign, each after the one that vouches for it."""

DELEGATED: Final = (CLIENTS, WITHDRAWALS, FLEET)
"""Roles that ``targets`` vouches for."""

ROOT_THRESHOLD: Final = 2
CLIENTS_THRESHOLD: Final = 2

LIFETIMES: Final[Mapping[str, timedelta]] = {
    ROOT: timedelta(days=365),
    TARGETS: timedelta(days=90),
    CLIENTS: timedelta(days=30),
    WITHDRAWALS: timedelta(days=30),
    FLEET: timedelta(days=30),
    SNAPSHOT: timedelta(days=7),
    TIMESTAMP: timedelta(days=3),
}

_S = TypeVar("_S", Root, Targets)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Who may sign what; ``clients`` are the release manager and SA3, for withdrawals too."""

    root: tuple[Key, ...]
    targets: Key
    clients: tuple[Key, ...]
    fleet: Key
    online: Key


def authorities_of(keys: Mapping[str, Key]) -> Authorities:
    """Give who may sign what, from the keys under their usual names."""
    return Authorities(
        root=(keys["root-1"], keys["root-2"], keys["root-3"]),
        targets=keys["targets"],
        clients=(keys["release-manager"], keys["sa3"]),
        fleet=keys["fleet"],
        online=keys["online"],
    )


def first_root(authorities: Authorities, now: datetime) -> Metadata[Root]:
    """Give version 1 of ``root``. Raises: ConfigError when the same key stands for two people."""
    everyone = (*authorities.root, authorities.targets, *authorities.clients, authorities.fleet, authorities.online)
    _refuse_shared(everyone)
    holders = {
        ROOT: (authorities.root, ROOT_THRESHOLD),
        TARGETS: ((authorities.targets,), 1),
        SNAPSHOT: ((authorities.online,), 1),
        TIMESTAMP: ((authorities.online,), 1),
    }
    root = Root(
        expires=expiry(ROOT, now),
        keys={key.keyid: key for keys, _ in holders.values() for key in keys},
        roles={role: Role([key.keyid for key in keys], threshold) for role, (keys, threshold) in holders.items()},
        consistent_snapshot=True,
    )
    return Metadata(root)


def first_targets(authorities: Authorities, now: datetime) -> Metadata[Targets]:
    """Give version 1 of ``targets``: no target of its own, three terminating delegations."""
    clients = [key.keyid for key in authorities.clients]
    delegated = (
        DelegatedRole(CLIENTS, clients, CLIENTS_THRESHOLD, terminating=True, paths=["clients/*/*/*"]),
        DelegatedRole(WITHDRAWALS, clients, 1, terminating=True, paths=["withdrawals/*/*/*"]),
        DelegatedRole(FLEET, [authorities.fleet.keyid], 1, terminating=True, paths=["fleet/*"]),
    )
    delegations = Delegations(
        keys={key.keyid: key for key in (*authorities.clients, authorities.fleet)},
        roles={role.name: role for role in delegated},
    )
    return Metadata(Targets(expires=expiry(TARGETS, now), delegations=delegations))


def first_delegated(role: str, now: datetime) -> Metadata[Targets]:
    """Give version 1 of a delegated role, without targets."""
    return Metadata(Targets(expires=expiry(role, now)))


def next_version(role: str, metadata: Metadata[_S], now: datetime) -> Metadata[_S]:
    """Give an unsigned copy with the next version number and a fresh expiry."""
    signed = copy.deepcopy(metadata.signed)
    signed.version += 1
    signed.expires = expiry(role, now)
    return Metadata(signed)


def snapshot_of(contents: Mapping[str, tuple[int, bytes]], version: int, now: datetime) -> Metadata[Snapshot]:
    """Give a snapshot of roles, each as (version, exact bytes)."""
    meta = {f"{role}.json": MetaFile.from_data(*content, ["sha256"]) for role, content in contents.items()}
    return Metadata(Snapshot(version=version, expires=expiry(SNAPSHOT, now), meta=meta))


def timestamp_of(snapshot: tuple[int, bytes], version: int, now: datetime) -> Metadata[Timestamp]:
    """Give a timestamp that points to a snapshot, given as (version, exact bytes)."""
    meta = MetaFile.from_data(*snapshot, ["sha256"])
    return Metadata(Timestamp(version=version, expires=expiry(TIMESTAMP, now), snapshot_meta=meta))


def expiry(role: str, now: datetime) -> datetime:
    """Give when metadata of this role, signed now, expires; TUF knows whole seconds only."""
    return now.replace(microsecond=0) + LIFETIMES[role]


def days_left(signed: Signed, now: datetime) -> float:
    """Give how many days metadata is still valid; negative when it has expired."""
    return (signed.expires - now) / timedelta(days=1)


def expires_soon(role: str, signed: Signed, now: datetime) -> bool:
    """Say whether less than a third of a role's life is left: time to sign it again."""
    return signed.expires - now < LIFETIMES[role] / 3


def release_target(path: str, manifest: bytes, release: Release) -> TargetFile:
    """Give the target of a release: its manifest, with the release as ``custom``."""
    target = TargetFile.from_data(path, manifest, ["sha256"])
    target.unrecognized_fields["custom"] = plain_custom(release)
    return target


def plain_custom(release: Release) -> dict[str, Any]:
    """Give a release's ``custom`` as TUF signs and compares it: JSON's own types only."""
    custom: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(render_custom(release)))
    return custom


def releases_of(clients: Targets) -> dict[ReleaseId, Release]:
    """Give the releases that ``clients`` metadata lists. Raises: WireError."""
    releases = (parse_release(target.custom) for target in clients.targets.values())
    return {release.id: release for release in releases}


def withdrawal_target(path: str, content: bytes) -> TargetFile:
    """Give the target of a withdrawal document."""
    return TargetFile.from_data(path, content, ["sha256"])


def withdrawal_of(release: Release, reason: str, now: datetime) -> Withdrawal:
    """Give the document that takes a release back."""
    return Withdrawal(release=release.id, reason=reason, at=now.replace(microsecond=0))


def _refuse_shared(keys: tuple[Key, ...]) -> None:
    seen: dict[str, Key] = {}
    for key in keys:
        if key.keyid in seen:
            names = " and ".join(str(one.unrecognized_fields.get(OWNER_FIELD)) for one in (seen[key.keyid], key))
            raise ConfigError([f"{names} are the same key: make one for each, or two signatures are worth one"])
        seen[key.keyid] = key
