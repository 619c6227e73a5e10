"""A site's distribution side with all its parts opened, for tests."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pps_agent.fetch import Fetcher
from pps_agent.install import InstallFacts, Progress, install
from pps_agent.mirror_source import MirrorSource
from pps_agent.mirrors import Mirrors
from pps_agent.settings import StoreSettings
from pps_agent.state import Offer, ReleaseSet
from pps_agent.store import Store
from pps_agent.trust import Trust
from pps_wire.names import ReleaseId
from pps_wire.release import Release


class Site:
    """Trust, store and fetcher of one agent below ``base``."""

    def __init__(self, base: Path, root: bytes, *urls: str, timeout_s: float = 5, proxy: str = "") -> None:
        self.base = base
        self.url = urls[0]
        self.root = root
        self.fetcher = Fetcher(timeout_s, proxy)
        self.mirrors = Mirrors(self.fetcher, urls, base / "cache" / "mirrors.json")
        self.trust = Trust(base / "state" / "tuf", root, self.mirrors)
        self.store = Store(base / "store")
        self.store.ensure()

    def close(self) -> None:
        self.fetcher.close()

    def refresh(self, now: datetime | None = None) -> ReleaseSet:
        return self.trust.refresh(now or datetime.now(UTC))

    def load(self) -> ReleaseSet:
        loaded = self.trust.load(datetime.now(UTC))
        assert isinstance(loaded, ReleaseSet), loaded
        return loaded

    def offer(self, release: ReleaseId) -> Offer:
        return next(offer for offer in self.refresh().offers if offer.release.id == release)

    def source(self, release: Release) -> MirrorSource:
        return MirrorSource(self.mirrors, release.artifact.path, release.artifact.length, pauses_s=())

    def install(
        self, release: Release, settings: StoreSettings | None = None, progress: Progress | None = None
    ) -> InstallFacts:
        offer = self.offer(release.id)
        signed = self.trust.fetch_manifest(offer)
        deltas = offer.release.deltas
        pack = MirrorSource(self.mirrors, deltas.path, deltas.length, pauses_s=()) if deltas is not None else None
        return install(self.store, offer, signed, self.source(release), settings or StoreSettings(), progress, pack)


def picture(root: Path) -> dict[str, tuple[str, str]]:
    """Give everything below ``root``: per path its mode and its content's hash, link target or nothing."""
    seen = {}
    for path in sorted(root.rglob("*")):
        mode = f"{path.lstat().st_mode:o}"
        if path.is_symlink():
            seen[str(path.relative_to(root))] = (mode, str(path.readlink()))
        elif path.is_dir():
            seen[str(path.relative_to(root))] = (mode, "")
        else:
            seen[str(path.relative_to(root))] = (mode, hashlib.sha256(path.read_bytes()).hexdigest())
    return seen
