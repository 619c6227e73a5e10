"""Makes a tree that others distribute an installed release: verified whole, then named in the store.

::

    <store>/releases/<id>/{tree -> /cvmfs/..., release.json, verified.json, manifest}

Removing the release removes these and nothing else.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from pps_agent.disk import remove_tree, site_error
from pps_agent.distributed import is_there, tree_path, verify_tree
from pps_agent.errors import BusyError
from pps_agent.files import save_bytes
from pps_agent.frames import SignedManifest
from pps_agent.state import Offer
from pps_agent.store import DESCRIPTION, MANIFEST, VERIFIED, Store
from pps_wire.release import render_custom


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterFacts:
    """What a registration took: every file was read and hashed, none was written."""

    files_verified: int = 0
    bytes_verified: int = 0
    took_s: float = 0.0


def register(store: Store, offer: Offer, signed: SignedManifest) -> RegisterFacts:
    """Make ``offer``'s distributed tree an installed release; one that is so already costs nothing.

    Raises: BusyError while the tree is not there or changing; TrustError when it is not what was signed;
    SiteError when it cannot be read or the store refuses. The store is as before in all cases.
    """
    started = time.monotonic()
    release = offer.release
    target = tree_path(store.trees, release)
    with store.lock():
        seen = store.look(release.id)
        if seen is not None and not seen.fault:
            return RegisterFacts(took_s=time.monotonic() - started)
        if not is_there(store.trees, release):
            raise BusyError(f"{target}: is not there yet; the next round looks again")
        try:
            fingerprint = verify_tree(target, signed)
            _place(store, offer, signed, target, fingerprint)
        except OSError as exc:
            raise site_error(exc, target) from exc
    return RegisterFacts(
        files_verified=sum(1 for _ in signed.files()),
        bytes_verified=sum(file.s for file in signed.files()),
        took_s=time.monotonic() - started,
    )


def _place(store: Store, offer: Offer, signed: SignedManifest, target: Path, fingerprint: str) -> None:
    release = offer.release
    for dead in store.dead_staging(release.id):
        remove_tree(dead)
    staged = store.new_staging(release.id)
    (staged / "tree").symlink_to(target)
    save_bytes(staged / DESCRIPTION, json.dumps(render_custom(release)).encode())
    save_bytes(staged / VERIFIED, json.dumps({"fingerprint": fingerprint}).encode())
    save_bytes(staged / MANIFEST, signed.raw)
    store.place(staged, release.id)
