"""Whom to believe: python-tuf's client over our fetcher, and the last good metadata on disk.

``<state>/tuf/metadata/`` is what python-tuf may roll back to and no further: every file that ever
verified, kept durably and never deleted. python-tuf itself writes without fsync, so it works in a
throw-away copy. ``<state>/tuf/last-good.json`` is the newest *complete* set, saved in one piece, so
that the agent can go on without a network: signatures are verified again at each load, expiry is
left to the plan and its grace. Source: TUF specification 1.0.33, clause 5 (detailed client workflow).
"""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pps_agent.errors import FetchError, SiteError, TrustError
from pps_agent.fetch import Fetcher, StatusError
from pps_agent.files import save_bytes
from pps_agent.frames import SignedManifest
from pps_agent.metadata import (
    ROLES,
    Bundle,
    Verified,
    parse_bundle,
    read_releases,
    read_root_version,
    read_sha256,
    render_bundle,
    verify_bundle,
)
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.transfer import fetch_manifest, target_url
from pps_wire.errors import WireError

_LIMITS: Final = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=8,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
)
_MAX_METADATA_BYTES: Final = 5_000_000
_MAX_NOTE_BYTES: Final = 65_536
_LAST_GOOD: Final = "last-good.json"
_WALKS: Final = ("clients/any/any/any", "withdrawals/any/any/any")
"""Paths that exist nowhere: looking one up makes python-tuf load and verify the role it is delegated to."""


class Trust:
    """The repository at ``url`` as far as the pinned root vouches for it; state lies in ``directory``."""

    def __init__(self, directory: Path, root: bytes, url: str, fetcher: Fetcher) -> None:
        self._directory = directory
        self._root = root
        self._url = url.rstrip("/")
        self._fetcher = fetcher

    def refresh(self, now: datetime) -> ReleaseSet:
        """Fetch what is new, verify everything, keep it, and give all offers.

        python-tuf judges expiry by the system's clock; ``now`` is judged here in addition. Raises:
        TrustError for signature, threshold, rollback, expiry; FetchError; SiteError when the state
        cannot be kept. The last good state stays as it was in all these cases.
        """
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with self._lock(), tempfile.TemporaryDirectory(prefix="work.", dir=self._directory) as work:
                bundle = self._update(Path(work))
                bundle = self._fetch_notes(bundle, verify_bundle(bundle, self._root))
                verified = verify_bundle(bundle, self._root)
                if verified.expires_at <= now:
                    raise TrustError(_expired(self._url, verified.expires_at))
                _save_changed(self._directory / _LAST_GOOD, render_bundle(bundle))
        except OSError as exc:
            raise SiteError(f"{self._directory}: {exc.strerror}; check its owner, mode and free space") from exc
        return read_releases(verified)

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
        return read_releases(verified, _expired(self._url, verified.expires_at) if verified.expires_at <= now else "")

    def fetch_manifest(self, offer: Offer) -> SignedManifest:
        """Fetch and check a release's manifest; see ``transfer.fetch_manifest``."""
        return fetch_manifest(self._fetcher, self._url, offer)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process at a time move the trusted state. Raises: SiteError when another one does.

        Not ``hold_lock``: a look at a repository that has nothing new must write nothing.
        """
        with (self._directory / "lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise SiteError(f"{stream.name}: another agent is refreshing; wait for it") from exc
            for dead in self._directory.glob("work.*"):
                shutil.rmtree(dead)
            yield

    def _update(self, work: Path) -> Bundle:
        """Let python-tuf verify what is new, starting from what was kept; keep whatever it accepted."""
        kept = self._directory / "metadata"
        _copy_metadata(kept, work)
        try:
            updater = Updater(
                str(work),
                f"{self._url}/metadata/",
                fetcher=_Bridge(self._fetcher),
                config=_LIMITS,
                bootstrap=self._root,
            )
            updater.refresh()
            for path in _WALKS:
                updater.get_targetinfo(path)
        except DownloadError as exc:
            if isinstance(exc.__cause__, FetchError):
                raise exc.__cause__ from None
            raise FetchError(f"{self._url}/metadata: {exc}; ask the repository's operator") from exc
        except (RepositoryError, ValueError) as exc:
            raise TrustError(_distrust(self._url, exc)) from exc
        finally:
            # also after a failure: what was accepted before it is the new floor (clauses 5.3.8, 5.4.5, 5.5.7)
            _copy_metadata(work, kept)
        return _read_bundle(work, self._root)

    def _fetch_notes(self, bundle: Bundle, verified: Verified) -> Bundle:
        """Add the withdrawal documents that are not kept yet.

        One that cannot be had is left out: its release is withdrawn all the same, only the reason is missing.
        """
        texts = self._kept_notes()
        for path, target in verified.withdrawals.targets.items():
            with contextlib.suppress(FetchError, WireError, UnicodeDecodeError):
                known = texts.get(path, "").encode()
                if sha256(known).hexdigest() != read_sha256(target):
                    texts[path] = self._fetcher.get(
                        target_url(self._url, path, read_sha256(target)), _MAX_NOTE_BYTES
                    ).decode()
        return msgspec.structs.replace(
            bundle, notes={path: texts[path] for path in verified.withdrawals.targets if path in texts}
        )

    def _kept_notes(self) -> dict[str, str]:
        try:
            return dict(parse_bundle((self._directory / _LAST_GOOD).read_bytes()).notes)
        except (FileNotFoundError, TrustError):
            return {}


class _Bridge(FetcherInterface):
    """Our fetcher as python-tuf wants it; python-tuf cuts each file at its own, smaller limit."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter((self._fetcher.get(url, _MAX_METADATA_BYTES),))
        except StatusError as exc:
            raise DownloadHTTPError(str(exc), exc.status) from exc


def _copy_metadata(source: Path, destination: Path) -> None:
    """Copy metadata files that are new or differ; links (python-tuf's root.json) are made anew by it."""
    (destination / "root_history").mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (*source.glob("*.json"), *source.glob("root_history/*.json")):
        if not path.is_symlink():
            _save_changed(destination / path.relative_to(source), path.read_bytes())


def _save_changed(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    save_bytes(path, content)


def _read_bundle(work: Path, pinned_root: bytes) -> Bundle:
    """Collect what python-tuf just verified. A role it did not load leaves a gap that verification reports."""
    first = read_root_version(pinned_root)
    last = read_root_version((work / "root.json").read_bytes())
    roots = tuple((work / "root_history" / f"{number}.root.json").read_text() for number in range(first + 1, last + 1))
    roles = {role: (work / f"{role}.json").read_text() for role in ROLES if (work / f"{role}.json").exists()}
    return Bundle(roots=roots, roles=roles)


def _distrust(url: str, exc: Exception) -> str:
    advice = "check this machine's clock" if isinstance(exc, ExpiredMetadataError) else "tell the release managers"
    return f"{url}: {exc}; the last good state stays; {advice}"


def _expired(url: str, expires_at: datetime) -> str:
    when = expires_at.isoformat(timespec="minutes")
    return f"{url}: metadata expired at {when}; check this machine's clock, tell the release managers"
