"""Exchanging keys: what the next versions of ``root`` and ``targets`` say. Pure.

A key that ``root`` lists for another role (targets, online) is exchanged in two roots: the first lists
the old and the new key, the second the new one alone and is served only when the new key has signed
what sites see. So no client meets metadata that its newest root does not accept, and the old key need
not be at hand. Source: TUF specification 1.0, clauses 5.3.4, 5.3.5 (chain of roots) and 5.3.11 (recovery
from fast-forward: what the newest root does not accept is forgotten), 6.1 (key management).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, Targets

from pps_publisher.errors import ConfigError, UsageError
from pps_publisher.keys import is_genuine, owner_of
from pps_publisher.roles import CLIENTS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, WITHDRAWALS, next_version

_BRIDGED: Final = (TARGETS, SNAPSHOT, TIMESTAMP)
_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The versions, unsigned, that exchange keys: no, one or two roots, and ``targets`` when it changes."""

    roots: tuple[Metadata[Root], ...]
    targets: Metadata[Targets] | None


def plan_rotation(root: Metadata[Root], targets: Metadata[Targets], keys: Mapping[str, Key], now: datetime) -> KeyPlan:
    """Give the versions in which each name holds the new key instead of its old ones.

    Names that hold the new key already ask for nothing. Raises: UsageError when a name holds no key here;
    ConfigError when a new key is somebody else's already.
    """
    holders = holders_of(root.signed, targets.signed)
    for name, key in keys.items():
        if name not in holders.values():
            known = ", ".join(sorted(set(holders.values())))
            raise UsageError(f"{name} holds no key of this repository; holders are: {known}")
        _refuse_taken(name, key, holders)
    if len({key.keyid for key in keys.values()}) < len(keys):
        raise ConfigError([f"{' and '.join(keys)}: two of them are the same key; make one for each"])
    roots = _rotate_root(root, keys, now)
    following = next_version(TARGETS, targets, now)
    delegated = _replace_delegated(following.signed, keys)
    needed = delegated or any(_old_keys(root.signed, TARGETS, name, key) for name, key in keys.items())
    return KeyPlan(roots, following if needed else None)


def plan_holder(
    root: Metadata[Root], targets: Metadata[Targets], name: str, key: Key | None, now: datetime
) -> Metadata[Targets]:
    """Give ``targets`` with one more holder of ``clients`` and ``withdrawals``, or, without a key, one fewer.

    The number of signatures needed stays. Raises: UsageError when there is nothing to do, too few
    holders would be left or the name has another office; ConfigError when the key is somebody else's already.
    """
    changed = next_version(TARGETS, targets, now)
    delegations = changed.signed.delegations
    roles = (delegations.roles if delegations is not None else None) or {}
    holding = [keyid for keyid in roles[CLIENTS].keyids if owner_of(changed.signed.get_key(keyid)) == name]
    if key is not None:
        if holding:
            raise UsageError(f"{name} holds a key of {CLIENTS} already; to exchange it use 'pps-publish keys rotate'")
        holders = holders_of(root.signed, targets.signed)
        if name in holders.values():
            raise UsageError(
                f"{name} holds a key of another role; give who signs releases another name, e.g. sa3-deputy"
            )
        _refuse_taken(name, key, holders)
    elif not holding:
        raise UsageError(f"{name} holds no key of {CLIENTS}; see 'pps-publish keys show'")
    elif len(roles[CLIENTS].keyids) - len(holding) < roles[CLIENTS].threshold:
        raise UsageError(
            f"without {name} nobody could publish: {CLIENTS} needs {roles[CLIENTS].threshold} holders;"
            " add another with 'pps-publish keys add' first"
        )
    for role in (CLIENTS, WITHDRAWALS):
        if key is not None:
            changed.signed.add_key(key, role)
        for keyid in holding:
            changed.signed.revoke_key(keyid, role)
    return changed


def holders_of(root: Root, targets: Targets) -> dict[str, str]:
    """Give who holds which key of a repository: names by key id."""
    return _names_of(root) | _names_of(targets)


def key_changes(old: Root | Targets, new: Root | Targets) -> Iterator[str]:
    """Say in lines what a version changes about who may sign; nothing means that nobody's rights change."""
    before, after = _roles_of(old), _roles_of(new)
    for role in dict.fromkeys((*before, *after)):
        if role not in after:
            yield f"no longer delegates {role}"
            continue
        known = before.get(role)
        yield from _holder_changes(role, set(known.keyids) if known else set(), old, new)
        if known is None or known.threshold != after[role].threshold:
            needed = "" if known is None else f", not {known.threshold}"
            yield f"{role} needs {after[role].threshold} signatures{needed}"
        if known is not None and _scope(known) != _scope(after[role]):
            yield f"{role} speaks for {_scope(after[role])}, not {_scope(known)}"
    for keyid, key in _keys_of(new).items():
        if not is_genuine(key):
            yield f"the id {keyid[:_SHOWN]} is not that of {owner_of(key)}'s key: do not sign"
    if isinstance(old, Root) and isinstance(new, Root) and old.consistent_snapshot != new.consistent_snapshot:
        yield f"consistent snapshots: {new.consistent_snapshot}, not {old.consistent_snapshot}"
    if old.unrecognized_fields != new.unrecognized_fields:
        yield f"fields that this program does not know: {new.unrecognized_fields}"


def _rotate_root(root: Metadata[Root], keys: Mapping[str, Key], now: datetime) -> tuple[Metadata[Root], ...]:
    first = next_version(ROOT, root, now)
    bridged = False
    for name, key in keys.items():
        for keyid in _old_keys(root.signed, ROOT, name, key):
            first.signed.add_key(key, ROOT)
            first.signed.revoke_key(keyid, ROOT)
        for role in _BRIDGED:
            if _old_keys(root.signed, role, name, key):
                first.signed.add_key(key, role)
                bridged = True
    if not bridged:
        return () if first.signed.roles == root.signed.roles else (first,)
    second = next_version(ROOT, first, now)
    for name, key in keys.items():
        for role in _BRIDGED:
            for keyid in _old_keys(root.signed, role, name, key):
                second.signed.revoke_key(keyid, role)
    return (first, second)


def _replace_delegated(targets: Targets, keys: Mapping[str, Key]) -> bool:
    found = [
        (role, keyid, key)
        for name, key in keys.items()
        for role in _roles_of(targets)
        for keyid in _old_keys(targets, role, name, key)
    ]
    for role, keyid, key in found:
        targets.add_key(key, role)
        targets.revoke_key(keyid, role)
    return bool(found)


def _old_keys(signed: Root | Targets, role: str, name: str, new: Key) -> list[str]:
    """Give the keys of a role that a name holds, other than the new one."""
    keyids = _roles_of(signed)[role].keyids if role in _roles_of(signed) else []
    return [keyid for keyid in keyids if owner_of(signed.get_key(keyid)) == name and keyid != new.keyid]


def _refuse_taken(name: str, key: Key, holders: Mapping[str, str]) -> None:
    holder = holders.get(key.keyid, name)
    if holder != name:
        raise ConfigError([f"{name} and {holder} would share a key: make a new one with 'pps-publish keys new'"])


def _holder_changes(role: str, before: set[str], old: Root | Targets, new: Root | Targets) -> Iterator[str]:
    after = set(_roles_of(new)[role].keyids)
    keys = {**_keys_of(old), **_keys_of(new)}
    for word, keyids in (("adds", after - before), ("removes", before - after)):
        yield from (f"{role}: {word} the key {keyid[:_SHOWN]} of {owner_of(keys[keyid])}" for keyid in sorted(keyids))
    for keyid in sorted(after & before):
        if _keys_of(old)[keyid] != _keys_of(new)[keyid]:
            yield f"{role}: changes the key behind the id {keyid[:_SHOWN]}: do not sign"


def _scope(role: Role) -> str:
    if not isinstance(role, DelegatedRole):
        return "all"
    return f"{', '.join(role.paths or ())}{' and nobody after it' if role.terminating else ''}"


def _roles_of(signed: Root | Targets) -> Mapping[str, Role]:
    if isinstance(signed, Root):
        return signed.roles
    return (signed.delegations.roles if signed.delegations is not None else None) or {}


def _keys_of(signed: Root | Targets) -> Mapping[str, Key]:
    if isinstance(signed, Root):
        return signed.keys
    return signed.delegations.keys if signed.delegations is not None else {}


def _names_of(signed: Root | Targets) -> dict[str, str]:
    return {keyid: owner_of(key) for keyid, key in _keys_of(signed).items()}
