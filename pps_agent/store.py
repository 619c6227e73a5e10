"""Releases side by side in one directory, and the switch between them.

::

    <root>/releases/<id>/{tree/,release.json,manifest,...}   "manifest" is written last: the commit mark
    <root>/staging/<id>@<token>                              in-flight work; all of it is dead once the lock is had
    <root>/generations/<n>/<component> -> ../../releases/<id>
    <root>/current -> generations/<n>                        replaced in one atomic step
    <root>/pins/<id>                                         a release that is never removed
    <root>/{owner.json,round.lock}                           which agent acts here, see ``ownership.py``
    <root>/lock                                              held by whoever changes something

Other files of a release directory (env.sh, ...) belong to ``environment.py``; generations to
``generations.py``, pins to ``pins.py``.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.disk import exchange, explained, measure_used, remove_tree
from pps_agent.distributed import find_change, is_there, tree_path
from pps_agent.errors import SiteError
from pps_agent.files import hold_lock, sync_directory
from pps_agent.frames import SignedManifest, open_manifest
from pps_agent.generations import Generations
from pps_agent.pins import Pin, delete_pin, load_pins, save_pin
from pps_agent.processes import Users, observe_users
from pps_agent.state import Installed, Unknown
from pps_agent.tree import find_fault
from pps_wire.errors import WireError
from pps_wire.manifest import Head
from pps_wire.names import Component, ReleaseId, parse_release_id
from pps_wire.release import Release, parse_release

MANIFEST: Final = "manifest"
"""The signed bytes of the TUF target, compressed as they came."""
DESCRIPTION: Final = "release.json"
ENVIRONMENT: Final = "environment.json"
VERIFIED: Final = "verified.json"
"""Beside a tree that others distribute: the fingerprint of what was verified."""

_MAX_DESCRIPTION_BYTES: Final = 5_000_000


class _EnvironmentMark(msgspec.Struct, frozen=True):
    """What composing leaves behind: the fingerprint of the settings it was made from.

    A record without ``prepend`` is of version 0.1 and counts as none, so that it is written anew.
    """

    prepend: dict[str, list[str]]
    profile: str = ""


class _VerifiedMark(msgspec.Struct, frozen=True):
    """What ``register.py`` leaves behind: how the tree looked that was verified."""

    fingerprint: str = ""


class Store:
    """The store at ``root``. Every method raises SiteError when the file system refuses."""

    def __init__(self, root: Path, trees: str = "") -> None:
        self.root = root
        self.trees = trees
        """Where others distribute the releases' trees (``store.trees``); empty when the store holds them."""
        self.releases = root / "releases"
        self.staging = root / "staging"
        self._generations = Generations(root, self._has_mark)
        self._pins = root / "pins"
        self._locked = False
        self._linted: dict[ReleaseId, tuple[bytes, Head]] = {}

    def ensure(self) -> None:
        """Make the directories that are missing."""
        with explained(self.root):
            for directory in (self.releases, self.staging, self._generations.directory):
                directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store's lock. One who holds it may take it again; another process gets a SiteError at once.

        Everything that changes the store takes it. The kernel lets go of it when its holder dies.
        """
        if self._locked:
            yield
            return
        with hold_lock(self.root / "lock", "is changing this store"):
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    # --- looking --------------------------------------------------------------------------------

    def path(self, release: ReleaseId) -> Path:
        """Give the directory of a release, whether it is there or not."""
        return self.releases / release

    def tree(self, release: ReleaseId) -> Path:
        """Give the directory that holds a release's files."""
        return self.releases / release / "tree"

    def installed(self) -> dict[ReleaseId, Installed]:
        """Look at every release that has its commit mark; each entry of it is checked by lstat.

        A release whose description is lost is left out, so that it is installed again if it is
        still offered: no other release suffers from it.
        """
        found = (self.look(release) for release in self.ids())
        return {seen.id: seen for seen in found if seen is not None}

    def ids(self) -> list[ReleaseId]:
        """Give the releases that have their commit mark, in order of their ids."""
        with explained(self.releases):
            if not self.releases.exists():
                return []
            names = sorted(entry.name for entry in self.releases.iterdir())
            return [ReleaseId(name) for name in names if _is_release_id(name) and self._has_mark(ReleaseId(name))]

    def look(self, release: ReleaseId) -> Installed | None:
        """Look at one release; None when it is not installed, its commit mark or description missing."""
        directory = self.path(release)
        with explained(directory):
            description = _read_description(directory / DESCRIPTION)
            if description is None or description.id != release or not self._has_mark(release):
                return None
            try:
                fault = self._find_fault(description)
            except WireError as exc:
                fault = f"manifest: {exc}"
            return Installed(description, _read_profile(directory / ENVIRONMENT), fault)

    def manifest(self, release: ReleaseId) -> SignedManifest:
        """Open the manifest kept with a release; the same bytes are linted once. Raises: WireError; OSError."""
        raw = (self.path(release) / MANIFEST).read_bytes()
        digest = hashlib.sha256(raw).digest()
        known, head = self._linted.get(release, (b"", None))
        if head is not None and known == digest:
            return SignedManifest(head, raw)
        manifest = open_manifest(raw)
        if manifest.head.release != release:
            raise WireError("manifest", f"belongs to {manifest.head.release}")
        self._linted[release] = (digest, manifest.head)
        return manifest

    def current(self) -> dict[Component, ReleaseId]:
        """Give the current release of each component; empty when nothing was switched yet."""
        with explained(self._generations.directory):
            return self._generations.current()

    def previous(self, spurned: Collection[ReleaseId] = ()) -> dict[Component, ReleaseId]:
        """Give the release that was current before the present one, of each component that had one.

        Releases that are gone or in ``spurned`` are passed over.
        """
        with explained(self._generations.directory):
            return self._generations.previous(spurned)

    def earlier(self, component: Component) -> list[ReleaseId]:
        """Give a component's installed releases that were current before the present one, newest first."""
        with explained(self._generations.directory):
            return list(self._generations.earlier(component))

    def description(self, release: ReleaseId) -> Release | None:
        """Give what is kept of a release's signed description; None when that is lost."""
        with explained(self.path(release)):
            description = _read_description(self.path(release) / DESCRIPTION)
            return description if description is not None and description.id == release else None

    def pins(self) -> dict[ReleaseId, Pin]:
        """Give the pinned releases, installed or not."""
        with explained(self._pins):
            return load_pins(self._pins)

    def users(self) -> Users | Unknown:
        """Give the entries of ``releases`` that processes of this machine use; see ``observe_users``."""
        return observe_users(self.releases)

    def in_use(self) -> frozenset[ReleaseId] | Unknown:
        """Give the releases that processes of this machine use, as far as the agent may look into them.

        Distributed trees are not looked for: removing a release leaves them where they are.
        """
        users = self.users()
        return users if isinstance(users, Unknown) else frozenset(ReleaseId(name) for name in users.names)

    def awaited(self, releases: Iterable[Release]) -> dict[ReleaseId, str]:
        """Give the releases whose distributed tree is not to be had now, each with the reason."""
        reasons: dict[ReleaseId, str] = {}
        for release in releases if self.trees else ():
            try:
                if not is_there(self.trees, release):
                    reasons[release.id] = f"waits until {tree_path(self.trees, release)} appears"
            except SiteError as exc:
                reasons[release.id] = str(exc)
        return reasons

    def disk_bytes(self) -> int:
        """Give what the whole store takes on disk, shared files counted once."""
        with explained(self.root):
            return measure_used(self.root)

    # --- changing -------------------------------------------------------------------------------

    def switch(self, component: Component, release: ReleaseId | None) -> int:
        """Make ``release`` (or none) the current one of its component; give the generation's number.

        The other components stay as they are. Old generations are kept up to KEPT_GENERATIONS.
        """
        with self.lock(), explained(self._generations.directory):
            if release is not None and not self._has_mark(release):
                raise SiteError(f"{self.path(release)}: is not installed; install it, then switch to it")
            return self._generations.switch(component, release)

    def pin(self, release: ReleaseId, reason: str, by: str, at: datetime) -> None:
        """Let nothing remove a release until it is unpinned."""
        with self.lock(), explained(self._pins):
            save_pin(self._pins, release, reason, by, at)

    def unpin(self, release: ReleaseId) -> bool:
        """Take a pin away; False when there was none."""
        with self.lock(), explained(self._pins):
            return delete_pin(self._pins, release)

    def new_staging(self, release: ReleaseId) -> Path:
        """Make an empty staging directory for a release."""
        with explained(self.staging):
            path = self.staging / f"{release}@{os.getpid()}.{secrets.token_hex(4)}"
            path.mkdir(mode=0o755)
            return path

    def dead_staging(self, release: ReleaseId) -> list[Path]:
        """Give what earlier, broken-off installs of a release left behind; call it with the lock held."""
        with explained(self.staging):
            return sorted(path for path in self.staging.iterdir() if path.name.rpartition("@")[0] == release)

    def place(self, staged: Path, release: ReleaseId) -> None:
        """Make a complete staging directory the release; what stood in its place is swapped out and deleted."""
        with self.lock(), explained(self.path(release)):
            target = self.path(release)
            if not os.path.lexists(target):
                staged.rename(target)
            elif not exchange(staged, target):
                replaced = self._grave(release)
                target.rename(replaced)
                staged.rename(target)
                staged = replaced
            sync_directory(self.releases)
            sync_directory(self.staging)
            remove_tree(staged)

    def remove(self, release: ReleaseId) -> None:
        """Delete a release: out of sight in one step, then file by file. One that is not there is no error."""
        with self.lock(), explained(self.path(release)):
            if release in load_pins(self._pins):
                raise SiteError(f"{release}: is pinned; allow its removal with: pps-agent release unpin {release}")
            users = sorted(key for key, value in self._generations.current().items() if value == release)
            if users:
                raise SiteError(f"{release}: is the current release of {users[0]}; switch away from it first")
            if not os.path.lexists(self.path(release)):
                return
            grave = self._grave(release)
            self.path(release).rename(grave)
            sync_directory(self.releases)
            sync_directory(self.staging)
            remove_tree(grave)
            self._generations.drop_dead_links()

    def sweep(self, keep: Collection[ReleaseId] = ()) -> int:
        """Delete what died in staging and what generations need no more; give how many things it was.

        Unfinished installs of the releases in ``keep`` stay: their files are taken over by the next try.
        """
        with self.lock(), explained(self.staging):
            dead = [path for path in self.staging.iterdir() if path.name.rpartition("@")[0] not in keep]
            dead += self._pins.glob(".*.tmp")
            for path in dead:
                remove_tree(path)
            return len(dead) + self._generations.prune() + self._generations.drop_dead_links()

    def _find_fault(self, release: Release) -> str:
        tree, manifest = self.tree(release.id), self.manifest(release.id)
        if not self.trees:
            return "tree: is a symbolic link" if tree.is_symlink() else find_fault(tree, manifest)
        target = tree_path(self.trees, release)
        if not tree.is_symlink() or tree.readlink() != target:
            return f"tree: does not point to {target}"
        if not is_there(self.trees, release):
            return f"{target}: is gone"
        return find_change(target, manifest, _read_fingerprint(self.path(release.id) / VERIFIED))

    def _has_mark(self, release: ReleaseId) -> bool:
        return (self.path(release) / MANIFEST).is_file()

    def _grave(self, release: ReleaseId) -> Path:
        return self.staging / f"removed@{release}@{secrets.token_hex(4)}"


def _is_release_id(name: str) -> bool:
    try:
        parse_release_id(name)
    except WireError:
        return False
    return True


def _read_description(path: Path) -> Release | None:
    try:
        return parse_release(json.loads(_read_small(path)))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError, WireError):
        return None


def _read_profile(path: Path) -> str:
    """Give the fingerprint that ``environment.py`` left; empty when there is none or it is unreadable."""
    try:
        return msgspec.json.decode(_read_small(path), type=_EnvironmentMark).profile
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _read_fingerprint(path: Path) -> str:
    """Give the fingerprint that ``register.py`` left; empty, as of no tree, when it is unreadable."""
    try:
        return msgspec.json.decode(_read_small(path), type=_VerifiedMark).fingerprint
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _read_small(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAX_DESCRIPTION_BYTES)
