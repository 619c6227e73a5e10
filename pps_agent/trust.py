"""Whom to believe: the repository's verified metadata, and the last good set on disk.

``<state>/tuf/metadata/`` is what a repository may roll back to and no further: every file that ever
verified, kept durably and never deleted. ``<state>/tuf/last-good.json`` is the newest *complete* set, saved
in one piece, so that the agent can go on without a network: signatures are verified again at each load,
expiry is left to the plan and its grace.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pps_agent.errors import FetchError, SiteError, TrustError
from pps_agent.frames import SignedManifest
from pps_agent.metadata import (
    FLEET,
    ROLES,
    Bundle,
    Verified,
    parse_bundle,
    read_fleet_keys,
    read_releases,
    read_root_version,
    read_sha256,
    render_bundle,
    verify_bundle,
)
from pps_agent.mirrors import Mirrors
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.transfer import fetch_manifest, target_place
from pps_agent.updater import MetadataKeeper, save_changed
from pps_wire.errors import WireError
from pps_wire.request import FLEET_KEYS_PATH

_MAX_NOTE_BYTES: Final = 65_536
_LAST_GOOD: Final = "last-good.json"
_WALKS: Final = ("clients/any/any/any", "withdrawals/any/any/any")
"""Paths that exist nowhere: looking one up makes python-tuf load and verify the role it is delegated to."""
_FLEET_WALK: Final = ("fleet/any",)


class UnkeptError(SiteError):
    """Newer metadata may have been had, but this machine could not keep it."""


class Trust:
    """The repository behind ``mirrors`` as far as the pinned root vouches for it; state lies in ``directory``."""

    def __init__(self, directory: Path, root: bytes, mirrors: Mirrors) -> None:
        self._directory = directory
        self._kept = directory / "metadata"
        self._root = root
        self._mirrors = mirrors
        self._keeper = MetadataKeeper(directory, self._kept, mirrors, "metadata/")

    def refresh(self, now: datetime) -> ReleaseSet:
        """Fetch what is new, verify everything, keep it, and give all offers.

        python-tuf judges expiry by the system's clock; ``now`` is judged here in addition. Raises:
        TrustError for signature, threshold, rollback, expiry; FetchError; UnkeptError when the state
        cannot be kept; SiteError when another agent is refreshing. The last good state stays
        as it was in all these cases.
        """
        try:
            with self._keeper.lock():
                self._keeper.update(self._root, _WALKS, optional=_FLEET_WALK)
                bundle = _read_bundle(self._kept, self._root)
                bundle = self._fetch_notes(bundle, verify_bundle(bundle, self._root))
                verified = verify_bundle(bundle, self._root)
                if verified.expires_at <= now:
                    raise TrustError(_expired(self._mirrors.primary, verified.expires_at))
                save_changed(self._directory / _LAST_GOOD, render_bundle(bundle))
        except OSError as exc:
            raise UnkeptError(f"{self._directory}: {exc.strerror}; check its owner, mode and free space") from exc
        return read_releases(verified)

    def refresh_aside(self, now: datetime) -> ReleaseSet:
        """Refresh in a temporary directory and keep nothing; what was kept before is the floor all the same.

        For a state directory that cannot be written: a withdrawal must be seen even then. Raises: as
        ``refresh``.
        """
        with tempfile.TemporaryDirectory(prefix="pps-agent-tuf-") as scratch:
            aside = Path(scratch) / "tuf"
            try:
                shutil.copytree(self._directory, aside, symlinks=True, ignore=shutil.ignore_patterns("work.*", "lock"))
            except (OSError, shutil.Error) as exc:
                raise UnkeptError(
                    f"{self._directory}: cannot be copied ({exc}); free space there or in TMPDIR"
                ) from exc
            return Trust(aside, self._root, self._mirrors).refresh(now)

    def load(self, now: datetime) -> ReleaseSet | Unknown:
        """Give the offers of the last good metadata from disk, without a network.

        Its signatures are verified again; expiry is told by ``expires_at`` and in ``problem``, not enforced.
        """
        path = self._directory / _LAST_GOOD
        try:
            verified = verify_bundle(parse_bundle(path.read_bytes()), self._root)
        except FileNotFoundError:
            return Unknown("the repository was never reached: no metadata is kept yet")
        except (OSError, TrustError) as exc:
            return Unknown(f"{path}: {exc}")
        return read_releases(
            verified, _expired(self._mirrors.primary, verified.expires_at) if verified.expires_at <= now else ""
        )

    def load_fleet_keys(self, now: datetime) -> Mapping[str, Ed25519PublicKey]:
        """Give the keys that may sign the collector's requests, by key id, as the last good metadata lists them.

        Raises: TrustError when there are none to be believed now.
        """
        path = self._directory / _LAST_GOOD
        try:
            bundle = parse_bundle(path.read_bytes())
        except OSError as exc:
            raise TrustError(f"{path}: {exc.strerror}; the next refresh writes it") from exc
        listed = read_fleet_keys(verify_bundle(bundle, self._root), bundle.fleet_keys, now)
        return {sha256(key.public).hexdigest(): Ed25519PublicKey.from_public_bytes(key.public) for key in listed.keys}

    def fetch_manifest(self, offer: Offer) -> SignedManifest:
        """Fetch and check a release's manifest; see ``transfer.fetch_manifest``."""
        return fetch_manifest(self._mirrors, offer)

    def _fetch_notes(self, bundle: Bundle, verified: Verified) -> Bundle:
        """Add the withdrawal documents that are not kept yet.

        One that cannot be had is left out: its release is withdrawn all the same, only the reason is missing.
        """
        kept = self._kept_bundle()
        texts = dict(kept.notes)
        for path, target in verified.withdrawals.targets.items():
            with contextlib.suppress(FetchError, TrustError, WireError, UnicodeDecodeError):
                known = texts.get(path, "").encode()
                if sha256(known).hexdigest() != read_sha256(target):
                    texts[path] = self._fetch_note(path, read_sha256(target))
        return msgspec.structs.replace(
            bundle,
            notes={path: texts[path] for path in verified.withdrawals.targets if path in texts},
            fleet_keys=self._fetch_fleet_keys(kept.fleet_keys, verified),
        )

    def _fetch_fleet_keys(self, known: str, verified: Verified) -> str:
        """Give the document of request-signing keys; what is known of it when the signed one cannot be had."""
        target = verified.fleet.targets.get(FLEET_KEYS_PATH) if verified.fleet is not None else None
        with contextlib.suppress(FetchError, TrustError, WireError, UnicodeDecodeError):
            if target is not None and sha256(known.encode()).hexdigest() != read_sha256(target):
                return self._fetch_note(FLEET_KEYS_PATH, read_sha256(target))
        return known

    def _fetch_note(self, path: str, digest: str) -> str:
        def check(raw: bytes) -> None:
            if sha256(raw).hexdigest() != digest:
                raise TrustError(f"{path}: differs from the signed hash; have the mirror copied again")

        return self._mirrors.fetch(target_place(path, digest), _MAX_NOTE_BYTES, check).decode()

    def _kept_bundle(self) -> Bundle:
        try:
            return parse_bundle((self._directory / _LAST_GOOD).read_bytes())
        except (FileNotFoundError, TrustError):
            return Bundle(roots=(), roles={})


def _read_bundle(kept: Path, pinned_root: bytes) -> Bundle:
    """Collect what was just verified. A role that was not loaded leaves a gap that verification reports."""
    first = read_root_version(pinned_root)
    last = read_root_version((kept / "root.json").read_bytes())
    roots = tuple((kept / "root_history" / f"{number}.root.json").read_text() for number in range(first + 1, last + 1))
    roles = {role: (kept / f"{role}.json").read_text() for role in (*ROLES, FLEET) if (kept / f"{role}.json").exists()}
    return Bundle(roots=roots, roles=roles)


def _expired(url: str, expires_at: datetime) -> str:
    when = expires_at.isoformat(timespec="minutes")
    return f"{url}: metadata expired at {when}; check this machine's clock, tell the release managers"
