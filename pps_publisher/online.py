"""The online signer: which versions sites see next, and signing the snapshot and timestamp that say so.

It needs the served directory and the online key, nothing else, so it may live on a machine of its own.
Source: TUF specification 1.0, clauses 5.4 to 5.6 (what a client demands of timestamp and snapshot).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from pps_publisher.errors import TrustError
from pps_publisher.metadata import MetadataStore
from pps_publisher.repository import Repository
from pps_publisher.roles import (
    DELEGATED,
    LIFETIMES,
    OFFLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    days_left,
    expires_soon,
    snapshot_of,
    timestamp_of,
)

_PINNED: Final = (TARGETS, *DELEGATED)
_ROOT_WAITS: Final = "a root waits; it is served when it is signed and the key it names has refreshed"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What sites see from now on: versions by role, and what people must do soon, one line each.

    ``reason`` says why new metadata was, or would be, signed; empty: all is fresh and nothing is to do.
    ``days_left`` holds the offline roles; ``held_back`` those of which a newer version is not shown.
    """

    versions: dict[str, int]
    warnings: tuple[str, ...]
    reason: str
    days_left: dict[str, float]
    held_back: tuple[str, ...]


def plan_refresh(repository: Repository, now: datetime, *, force: bool = False) -> Refreshed:
    """Give what a refresh would show to sites, and why; writes nothing.

    A version that its delegator does not accept, e.g. while keys are exchanged, is held back and warned
    about; so is a role that expires soon. Both do not hold back the rest: a withdrawal must get through.
    Raises: TrustError when not even what sites see now can be shown; UsageError when a role was never served.
    """
    store = repository.store
    seen = store.seen_versions()
    versions = _choose(store, seen)
    roots, warnings = _staged_roots(store)
    held_back: list[str] = []
    left: dict[str, float] = {}
    for role in OFFLINE:
        metadata: Metadata[Any] = store.load_root() if role == ROOT else store.load_targets(role, versions[role])
        left[role] = days_left(metadata.signed, now)
        newest = store.versions(role)[-1]
        if role != ROOT and newest != versions[role]:
            held_back.append(role)
            warnings.append(f"{role} version {newest} is held back: what vouches for it is not served, see 'verify'")
        if expires_soon(role, metadata.signed, now):
            warnings.append(f"{role} expires in {left[role]:.1f} days; run 'pps-publish sign --renew {role}'")
    judges = (store.load_root().signed, *roots)
    reason = "it was asked for" if force else _reason(store, seen, versions, judges, now)
    if reason:
        again = _may_stay(store, seen, versions, judges, now) and not force
        snapshot = seen[SNAPSHOT] if again else max(store.versions(SNAPSHOT), default=0) + 1
        versions |= {SNAPSHOT: snapshot, TIMESTAMP: seen.get(TIMESTAMP, 0) + 1}
    else:
        versions |= {role: seen[role] for role in (SNAPSHOT, TIMESTAMP)}
    return Refreshed(versions, tuple(warnings), reason, left, tuple(held_back))


def refresh(repository: Repository, signer: Signer, now: datetime, *, force: bool = False) -> Refreshed:
    """Sign a new timestamp, and a new snapshot where one is due: sites see all that is served.

    Nothing is signed while all is fresh, unless ``force``. A root that waited for this is served too.
    Raises: as ``plan_refresh``; TrustError when the key is not the online one; OSError.
    """
    store = repository.store
    with repository.locked():
        _serve_complete(repository)
        planned = plan_refresh(repository, now, force=force)
        if not planned.reason:
            return planned
        number = planned.versions[SNAPSHOT]
        if number not in store.versions(SNAPSHOT):
            contents = {role: (planned.versions[role], _bytes(store, role, planned.versions[role])) for role in _PINNED}
            snapshot = snapshot_of(contents, number, now)
            store.sign(SNAPSHOT, snapshot, signer)
            store.serve(SNAPSHOT, snapshot)
        timestamp = timestamp_of((number, _bytes(store, SNAPSHOT, number)), planned.versions[TIMESTAMP], now)
        store.sign(TIMESTAMP, timestamp, signer)
        store.serve(TIMESTAMP, timestamp)
        _serve_complete(repository)
        return _with_roots(store, planned)


def _choose(store: MetadataStore, seen: Mapping[str, int]) -> dict[str, int]:
    """Give the newest versions, none below what sites see, in which each role accepts the next."""
    root = store.load_root().signed
    for role in _PINNED:
        store.load_targets(role)
    for version in reversed(store.versions(TARGETS)):
        if version < seen.get(TARGETS, 0):
            break
        targets = store.load_targets(TARGETS, version)
        below = _newest_under(store, targets.signed, seen)
        if below is not None and store.signatures(TARGETS, targets, under=root).complete:
            return {ROOT: root.version, TARGETS: version, **below}
    for role in OFFLINE:
        metadata: Metadata[Any] = store.load_root() if role == ROOT else store.load_targets(role)
        judge = None if role == ROOT else store.delegator(role, served=True)
        signatures = store.signatures(role, metadata, under=judge)
        if not signatures.complete:
            have = f"{len(signatures.signed)} of {signatures.threshold}"
            raise TrustError(f"served {role} has {have} signatures; run 'pps-publish verify', nothing was refreshed")
    raise TrustError("sites have seen newer versions than are served; run 'pps-publish verify', nothing was refreshed")


def _newest_under(store: MetadataStore, targets: Targets, seen: Mapping[str, int]) -> dict[str, int] | None:
    chosen: dict[str, int] = {}
    for role in DELEGATED:
        for version in reversed(store.versions(role)):
            if version < seen.get(role, 0):
                break
            if store.signatures(role, store.load_targets(role, version), under=targets).complete:
                chosen[role] = version
                break
        else:
            return None
        if role not in chosen:
            return None
    return chosen


def _reason(
    store: MetadataStore, seen: Mapping[str, int], versions: Mapping[str, int], judges: tuple[Root, ...], now: datetime
) -> str:
    if not seen:
        return "nothing was shown to sites before"
    new = [f"{role} {versions[role]}" for role in _PINNED if versions[role] != seen.get(role)]
    if new:
        return f"new: {', '.join(new)}"
    shown: dict[str, Metadata[Any]] = {SNAPSHOT: store.load_snapshot(seen[SNAPSHOT]), TIMESTAMP: store.load_timestamp()}
    for role, metadata in shown.items():
        if not all(store.signatures(role, metadata, under=root).complete for root in judges):
            return f"the key of {role} is being exchanged"
        if metadata.signed.expires - now < LIFETIMES[role] / 2:
            return f"less than half of the life of {role} is left"
    return "a root waits to be served" if len(judges) > 1 else ""


def _may_stay(
    store: MetadataStore, seen: Mapping[str, int], versions: Mapping[str, int], judges: tuple[Root, ...], now: datetime
) -> bool:
    """Say whether the snapshot that sites see says all there is to say, and for long enough."""
    if not seen or any(versions[role] != seen.get(role) for role in _PINNED):
        return False
    snapshot: Metadata[Snapshot] = store.load_snapshot(seen[SNAPSHOT])
    known = all(store.signatures(SNAPSHOT, snapshot, under=root).complete for root in judges)
    return known and snapshot.signed.expires - now >= LIFETIMES[SNAPSHOT] / 2


def _staged_roots(store: MetadataStore) -> tuple[tuple[Root, ...], list[str]]:
    """Give the complete roots that wait for the online key, and what to tell of those that wait.

    What is staged is a convenience here: damage to it must not let the timestamp expire.
    """
    try:
        waiting = store.load_all_staged(ROOT)
        complete = tuple(root.signed for root in waiting if store.signatures(ROOT, root).complete)
    except TrustError as exc:
        return (), [f"what is staged is left alone: {exc}"]
    return complete, [_ROOT_WAITS] if waiting else []


def _with_roots(store: MetadataStore, done: Refreshed) -> Refreshed:
    """Give what a refresh tells once the roots that waited for it are served."""
    _, told = _staged_roots(store)
    warnings = tuple(warning for warning in done.warnings if warning != _ROOT_WAITS or warning in told)
    return replace(done, versions=done.versions | {ROOT: store.load_root().signed.version}, warnings=warnings)


def _serve_complete(repository: Repository) -> None:
    with contextlib.suppress(TrustError):  # told by plan_refresh, verify and sign
        repository.staging.serve_complete()


def _bytes(store: MetadataStore, role: str, version: int) -> bytes:
    return store.served_path(role, version).read_bytes()
