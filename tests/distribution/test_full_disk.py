"""A full disk, a quota of inodes and a read-only store, on real small file systems."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pps_agent.disk import Space, measure_free
from pps_agent.errors import SiteError
from pps_agent.install import install
from pps_agent.settings import StoreSettings
from pps_agent.store import Store
from tests.distribution.site import Site, picture
from tests.support.repository import SmallRepository
from tests.support.services import need

FILES = {f"lib/{number}": os.urandom(100_000) for number in range(10)}
Mount = Callable[[str], Path]


@contextmanager
def mounted(target: Path, options: str) -> Iterator[Path]:
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)]
    mount = shutil.which("mount")
    made = subprocess.run(command, capture_output=True, text=True, check=False) if mount else None
    if made is None or made.returncode != 0:
        reason = f"needs a small tmpfs: {made.stderr.strip() if made else 'there is no mount command'}"
        need(reason)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with ExitStack() as stack:
        yield lambda options: stack.enter_context(mounted(tmp_path / "small", options))


def try_install(site: Site, repository: SmallRepository, root: Path) -> tuple[Store, SiteError, dict[str, object]]:
    """Install one release that fits, then try one that does not."""
    store = Store(root)
    store.ensure()
    for version, files in (("1.0.0", {"a": b"a"}), ("1.0.1", FILES)):
        release = repository.publish(files, version=version)
        offer = site.offer(release.id)
        signed = site.trust.fetch_manifest(offer)
        if version == "1.0.0":
            install(store, offer, signed, site.source(release), StoreSettings())
            store.switch(release.component, release.id)
    before = {"bytes": site.fetcher.bytes_moved, "installed": store.installed(), "current": store.current()}
    before["picture"] = picture(store.releases)
    with pytest.raises(SiteError) as caught:
        install(store, offer, signed, site.source(release), StoreSettings())
    return store, caught.value, before


def assert_unharmed(store: Store, before: dict[str, object]) -> None:
    assert before["installed"] == store.installed()
    assert before["current"] == store.current()
    assert before["picture"] == picture(store.releases)
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize(("options", "unit"), [("size=1500k", "bytes"), ("size=20m,nr_inodes=24", "inodes")])
def test_too_small_a_disk_is_refused_with_figures_before_a_byte_is_fetched(site, repository, mount, options, unit):
    store, error, before = try_install(site, repository, mount(options) / "store")
    free = measure_free(store.root)
    assert f"{free} are free" in str(error)
    assert " needs " in str(error)
    assert unit in str(error)
    assert error.exit_code == 6
    assert before["bytes"] == site.fetcher.bytes_moved
    assert_unharmed(store, before)


def test_a_disk_that_fills_up_half_way_leaves_nothing_behind(site, repository, mount, monkeypatch):
    # somebody else takes the space after it was measured
    monkeypatch.setattr("pps_agent.space.measure_free", lambda path: Space(10**9, None))
    store, error, before = try_install(site, repository, mount("size=900k") / "store")
    assert "No space left on device" in str(error)
    assert "required" in str(error)
    assert "available" in str(error)
    assert error.exit_code == 6
    assert_unharmed(store, before)


def test_a_read_only_store_is_a_site_error(site, repository, mount):
    root = mount("size=20m")
    store = Store(root / "store")
    store.ensure()
    release = repository.publish(FILES)
    offer = site.offer(release.id)
    signed = site.trust.fetch_manifest(offer)
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    with pytest.raises(SiteError, match="mount the file system read-write") as caught:
        install(store, offer, signed, site.source(release), StoreSettings())
    assert caught.value.exit_code == 6


def test_files_are_copied_where_another_file_system_holds_them(site, repository, mount):
    from pps_agent.tree import TreeWriter
    from pps_wire.manifest import File

    release = repository.publish(FILES)
    site.install(release)
    file = next(file for file in site.store.manifest(release.id).files() if isinstance(file, File))
    target = mount("size=5m")
    flat = File(p="copy", s=file.s, h=file.h, o=0, z=file.z)
    with TreeWriter(target) as writer:
        assert writer.adopt(flat, site.store.tree(release.id) / file.p)
    assert (target / "copy").read_bytes() == FILES[file.p]
    assert (target / "copy").stat().st_mode & 0o7777 == 0o444
