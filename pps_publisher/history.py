"""Every file below a served directory: also what is superseded must be as it was signed, the rest is named.

A copy is worth as much as its weakest file: a site that was off for long follows old roots, and an
old version that rots unseen is missing on the day it is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from pps_publisher.errors import TrustError
from pps_publisher.files import hash_file
from pps_publisher.metadata import MetadataStore, load_metadata, target_file
from pps_publisher.roles import CLIENTS, DELEGATED, OFFLINE, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from pps_wire.errors import WireError
from pps_wire.release import parse_release

_ROLES = (*OFFLINE, SNAPSHOT, TIMESTAMP)
_Keys = dict[str, list[Key]]
"""The keys that ever were known under an id; more than one only where somebody cheats."""


def check_files(store: MetadataStore, known: set[Path]) -> tuple[list[str], list[str]]:
    """Give problems and warnings of all files below the served directory.

    ``known`` are those whose bytes were compared with newest metadata already. Raises: OSError.
    """
    problems: list[str] = []
    loaded: dict[str, dict[int, Metadata[Any]]] = {role: {} for role in _ROLES}
    seen = set(known)
    for role in _ROLES:
        for version in store.versions(role) if role != TIMESTAMP else [0]:
            path = store.served_path(role, version)
            if not path.exists():
                continue
            seen.add(path)
            try:
                loaded[role][version] = metadata = load_metadata(path, role)
            except TrustError as exc:
                problems.append(str(exc))
                continue
            # Signatures are hexadecimal, which python-tuf reads in either case and writes as it was read.
            lower = all(given.signature == given.signature.lower() for given in metadata.signatures.values())
            if not lower or metadata.to_bytes() != path.read_bytes() or version not in (0, metadata.signed.version):
                problems.append(f"{path}: is not written as it was signed; restore it from a copy")
    for role in _ROLES:
        keys = _known_keys(store, role, loaded)
        for version, metadata in loaded[role].items():
            if not _all_valid(metadata, keys):
                path = store.served_path(role, version)
                problems.append(f"{path}: holds a signature that is not valid; restore it from a copy")
    for path, sha256 in _superseded(store, loaded):
        if path not in seen and path.exists() and hash_file(path) != sha256:
            problems.append(f"{path}: is damaged, though nobody needs it any more; restore or delete it")
        seen.add(path)
    stray = sorted(path for path in store.served.rglob("*") if not path.is_dir() and path not in seen)
    return problems, [f"{path}: no metadata names it; it may be deleted" for path in stray]


def _known_keys(store: MetadataStore, role: str, loaded: dict[str, dict[int, Metadata[Any]]]) -> _Keys:
    """Give the keys that any version of what vouches for a role lists for it, one that waits included."""
    above = ROOT if role in {ROOT, TARGETS, SNAPSHOT, TIMESTAMP} else TARGETS
    keys: _Keys = {}
    for metadata in (*loaded[above].values(), *store.load_all_staged(above)):
        delegator: Root | Targets = metadata.signed
        try:
            keyids = delegator.get_delegated_role(role).keyids
            for keyid in keyids:
                keys.setdefault(keyid, []).append(delegator.get_key(keyid))
        except ValueError:  # a version that does not delegate the role adds no key
            continue
    return keys


def _all_valid(metadata: Metadata[Any], keys: _Keys) -> bool:
    payload = metadata.signed_bytes
    for keyid, signature in metadata.signatures.items():
        for key in keys.get(keyid, ()):
            try:
                key.verify_signature(signature, payload)
                break
            except UnverifiedSignatureError:
                continue
        else:
            return False
    return True


def _superseded(store: MetadataStore, loaded: dict[str, dict[int, Metadata[Any]]]) -> Iterator[tuple[Path, str]]:
    """Give the files that any version of a role lists, with their sha256."""
    for role in DELEGATED:
        for metadata in loaded[role].values():
            for target in metadata.signed.targets.values():
                if "sha256" not in target.hashes:  # its signature says that somebody changed it
                    continue
                yield target_file(store.served, target), target.hashes["sha256"]
                if role == CLIENTS:
                    try:
                        release = parse_release(target.custom)
                    except WireError:
                        continue
                    for part in (release.artifact, release.deltas):
                        if part is not None:
                            yield store.served / part.path, part.sha256
