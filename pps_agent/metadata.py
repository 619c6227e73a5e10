"""What verified metadata says: the one place that lists releases, since python-tuf's client has no listing.

python-tuf's ``Updater`` answers for one target path at a time. The agent wants all of them, so it
verifies the same bytes a second time with python-tuf's public metadata API and reads the delegated
roles ``clients`` and ``withdrawals`` whole. The same code serves the last good metadata kept on disk:
signatures, thresholds, versions and hashes are checked, expiry is only told. Pure.
Source: TUF specification 1.0.33, clauses 5.3 to 5.6.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Delegations, Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from pps_agent.errors import TrustError
from pps_agent.state import ManifestRef, Offer, ReleaseSet
from pps_wire.errors import WireError
from pps_wire.release import (
    Release,
    Sha256Text,
    Withdrawal,
    parse_release,
    parse_withdrawal,
    target_path,
    withdrawal_path,
)
from pps_wire.request import FLEET_KEYS_PATH, FleetKeys, parse_fleet_keys

ROLES: Final = ("timestamp", "snapshot", "targets", "clients", "withdrawals")
"""The files a listing rests on, besides the root: ``<role>.json`` in python-tuf's directory."""
FLEET: Final = "fleet"
"""The role that lists the collector's request-signing keys. No release rests on it."""

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
"""When a withdrawal was made whose text is not to be had: never a time in the future."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """One complete set of metadata as text: the roots after the pinned one in order, and ROLES by name.

    ``notes`` are withdrawal documents by target path, so that their reasons are there without a network;
    ``fleet_keys`` is the document of that name. The role FLEET may be missing.
    """

    v: int = 1
    roots: tuple[str, ...]
    roles: dict[str, str]
    notes: dict[str, str] = {}
    fleet_keys: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle whose signatures, versions and hashes were found right.

    ``expires_at`` is the earliest of all that releases rest on. ``notes`` holds the withdrawals, by target
    path, whose text is the signed one. ``fleet`` is None where that role is missing or does not verify.
    """

    delegations: Delegations
    clients: Targets
    withdrawals: Targets
    expires_at: datetime
    notes: Mapping[str, Withdrawal]
    fleet: Targets | None = None


def parse_bundle(raw: bytes) -> Bundle:
    """Read a bundle from disk. Raises: TrustError and nothing else, for any bytes."""
    try:
        return msgspec.json.decode(raw, type=Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise TrustError(f"kept metadata is not readable ({exc}); the next refresh writes it anew") from exc


def render_bundle(bundle: Bundle) -> bytes:
    """Give the bytes of a bundle; equal bundles give equal bytes."""
    return msgspec.json.encode(bundle, order="sorted")


def verify_bundle(bundle: Bundle, pinned_root: bytes) -> Verified:
    """Check a bundle from the pinned root downwards. Raises: TrustError and nothing else."""
    try:
        return _verify(bundle, pinned_root)
    except (RepositoryError, ValueError, KeyError) as exc:
        raise TrustError(f"metadata does not verify ({exc}); ask the release managers") from exc


def read_root_version(raw: bytes) -> int:
    """Give the version of a root, unverified. Raises: TrustError."""
    try:
        return _read(raw, Root).signed.version
    except (RepositoryError, ValueError) as exc:
        raise TrustError(f"the pinned root is not readable ({exc}); get root.json from the release managers") from exc


def read_releases(verified: Verified, problem: str = "") -> ReleaseSet:
    """List the offers, sorted by release id. One that cannot be read is left out and named in ``problem``."""
    offers: dict[str, Offer] = {}
    problems = [problem] if problem else []
    for path, target in sorted(verified.clients.targets.items()):
        try:
            offer = _read_offer(path, target, verified)
        except WireError as exc:
            problems.append(f"{path} is left out ({exc})")
            continue
        offers.setdefault(offer.release.id, offer)
    ordered = tuple(offer for _, offer in sorted(offers.items()))
    return ReleaseSet(ordered, verified.expires_at, "; ".join(problems))


def read_fleet_keys(verified: Verified, text: str, now: datetime) -> FleetKeys:
    """Give the keys that may sign requests. Raises: TrustError when none can be believed now."""
    target = verified.fleet.targets.get(FLEET_KEYS_PATH) if verified.fleet is not None else None
    if verified.fleet is None or target is None:
        raise TrustError("the repository vouches for no request-signing keys; ask the release managers")
    if verified.fleet.expires <= now:
        raise TrustError(f"the role {FLEET} expired at {verified.fleet.expires}; tell the release managers")
    try:
        target.verify_length_and_hashes(text.encode())
        return parse_fleet_keys(text.encode())
    except (LengthOrHashMismatchError, WireError) as exc:
        raise TrustError(f"{FLEET_KEYS_PATH} is not the signed one ({exc}); the next refresh fetches it") from exc


def read_sha256(target: TargetFile) -> str:
    """Give a target's sha256, which stands in its file name too. Raises: WireError when it has none."""
    try:
        return msgspec.convert(target.hashes.get("sha256"), Sha256Text)
    except msgspec.ValidationError as exc:
        raise WireError(target.path, f"its sha256: {exc}") from exc


def _verify(bundle: Bundle, pinned_root: bytes) -> Verified:
    raw = {name: text.encode() for name, text in bundle.roles.items()}
    root = _read(pinned_root, Root)
    root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    for text in bundle.roots:
        root = _follow_root(root.signed, text.encode())
    timestamp = _check(_read(raw["timestamp"], Timestamp), root.signed, "timestamp")
    _check_file(raw["snapshot"], timestamp.snapshot_meta)
    snapshot = _check(_read(raw["snapshot"], Snapshot), root.signed, "snapshot", timestamp.snapshot_meta)
    targets = _read_targets(raw, "targets", root.signed, snapshot)
    clients = _read_targets(raw, "clients", targets, snapshot)
    withdrawals = _read_targets(raw, "withdrawals", targets, snapshot)
    if targets.delegations is None:
        raise ValueError("targets delegates nothing")
    parts: tuple[Signed, ...] = (root.signed, timestamp, snapshot, targets, clients, withdrawals)
    expires_at = min(part.expires for part in parts)
    notes = _read_notes(withdrawals, bundle.notes)
    return Verified(targets.delegations, clients, withdrawals, expires_at, notes, _read_fleet(raw, targets, snapshot))


def _read_fleet(raw: Mapping[str, bytes], targets: Targets, snapshot: Snapshot) -> Targets | None:
    """Read the role FLEET. That it is broken must keep nobody from seeing releases and withdrawals."""
    with contextlib.suppress(RepositoryError, ValueError, KeyError):
        return _read_targets(raw, FLEET, targets, snapshot)
    return None


def _follow_root(trusted: Root, raw: bytes) -> Metadata[Root]:
    """Clause 5.3.4 and 5.3.5: the next root, by one, is signed under the old keys and under its own."""
    following = _read(raw, Root)
    if following.signed.version != trusted.version + 1:
        raise ValueError(f"root {following.signed.version} does not follow root {trusted.version}")
    trusted.verify_delegate(Root.type, following.signed_bytes, following.signatures)
    following.signed.verify_delegate(Root.type, following.signed_bytes, following.signatures)
    return following


def _read_targets(raw: Mapping[str, bytes], role: str, delegator: Root | Targets, snapshot: Snapshot) -> Targets:
    meta = snapshot.meta[f"{role}.json"]
    _check_file(raw[role], meta)
    return _check(_read(raw[role], Targets), delegator, role, meta)


_S = TypeVar("_S", Root, Timestamp, Snapshot, Targets)


def _read(raw: bytes, kind: type[_S]) -> Metadata[_S]:
    metadata = Metadata[Any].from_bytes(raw)
    if not isinstance(metadata.signed, kind):
        raise ValueError(f"expected {kind.__name__}, got {metadata.signed.type}")
    return metadata


def _check_file(raw: bytes, meta: MetaFile) -> None:
    meta.verify_length_and_hashes(raw)


def _check(metadata: Metadata[_S], delegator: Root | Targets, role: str, meta: MetaFile | None = None) -> _S:
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    if meta is not None and metadata.signed.version != meta.version:
        raise ValueError(f"{role} has version {metadata.signed.version} where {meta.version} is signed")
    return metadata.signed


def _read_offer(path: str, target: TargetFile, verified: Verified) -> Offer:
    """Read one release. Raises: WireError; the role that speaks for its path must be ``clients``."""
    release = parse_release(target.custom)
    if target_path(release) != path:
        raise WireError("release", f"{release.id} belongs at {target_path(release)}")
    if _role_of(path, verified.delegations) != "clients":
        raise WireError("release", "the role clients is not delegated this path")
    manifest = ManifestRef(path, target.length, read_sha256(target))
    return Offer(release, manifest, _read_withdrawal(release, verified))


def _role_of(path: str, delegations: Delegations) -> str:
    return next((name for name, _ in delegations.get_roles_for_target(path)), "")


def _read_notes(withdrawals: Targets, texts: Mapping[str, str]) -> dict[str, Withdrawal]:
    notes = {}
    for path, target in withdrawals.targets.items():
        raw = texts.get(path, "").encode()
        with contextlib.suppress(LengthOrHashMismatchError, WireError):
            target.verify_length_and_hashes(raw)
            notes[path] = parse_withdrawal(raw)
    return notes


def _read_withdrawal(release: Release, verified: Verified) -> Withdrawal | None:
    """Give the withdrawal of a release. Its target's existence withdraws, even when its text is not to be had."""
    path = withdrawal_path(release)
    if path not in verified.withdrawals.targets or _role_of(path, verified.delegations) != "withdrawals":
        return None
    note = verified.notes.get(path)
    if note is None or note.release != release.id:
        return Withdrawal(release=release.id, reason="withdrawn; the reason cannot be read", at=_EPOCH)
    return note
