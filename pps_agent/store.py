"""Releases side by side in one directory, and the switch between them.

::

    <root>/releases/<id>/{tree/,release.json,manifest,...}   "manifest" is written last: the commit mark
    <root>/staging/<id>@<token>                              in-flight work; all of it is dead once the lock is had
    <root>/generations/<n>/<component> -> ../../releases/<id>
    <root>/current -> generations/<n>                        replaced in one atomic step
    <root>/lock                                              held by whoever changes something

Other files of a release directory (env.sh, ...) belong to ``environment.py``.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.disk import exchange, measure_used, remove_tree, site_error
from pps_agent.errors import SiteError
from pps_agent.files import hold_lock, replace_link, sync_directory
from pps_agent.frames import unpack_manifest
from pps_agent.processes import observe_users
from pps_agent.state import Installed, Unknown
from pps_agent.tree import find_fault
from pps_wire.errors import WireError
from pps_wire.manifest import Manifest
from pps_wire.names import Component, ReleaseId, parse_component, parse_release_id
from pps_wire.release import Release, parse_release

KEPT_GENERATIONS: Final = 10
MANIFEST: Final = "manifest"
"""The signed bytes of the TUF target, compressed as they came."""
DESCRIPTION: Final = "release.json"
ENVIRONMENT: Final = "environment.json"

_MAX_DESCRIPTION_BYTES: Final = 5_000_000
_TO_RELEASE: Final = "../../releases/"


class _EnvironmentMark(msgspec.Struct, frozen=True):
    """What ``environment.py`` leaves behind: the fingerprint of the settings it composed from."""

    profile: str = ""


class Store:
    """The store at ``root``. Every method raises SiteError when the file system refuses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = root / "releases"
        self.staging = root / "staging"
        self._generations = root / "generations"
        self._current = root / "current"
        self._locked = False

    def ensure(self) -> None:
        """Make the directories that are missing."""
        with _explained(self.root):
            for directory in (self.releases, self.staging, self._generations):
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
        with _explained(self.releases):
            if not self.releases.exists():
                return []
            names = sorted(entry.name for entry in self.releases.iterdir())
            return [ReleaseId(name) for name in names if _is_release_id(name) and self._has_mark(ReleaseId(name))]

    def look(self, release: ReleaseId) -> Installed | None:
        """Look at one release; None when it is not installed, its commit mark or description missing."""
        directory = self.path(release)
        with _explained(directory):
            description = _read_description(directory / DESCRIPTION)
            if description is None or description.id != release or not self._has_mark(release):
                return None
            try:
                fault = find_fault(directory / "tree", self.manifest(release))
            except WireError as exc:
                fault = f"manifest: {exc}"
            return Installed(description, _read_profile(directory / ENVIRONMENT), fault)

    def manifest(self, release: ReleaseId) -> Manifest:
        """Read the manifest kept with a release. Raises: WireError; OSError."""
        manifest = unpack_manifest((self.path(release) / MANIFEST).read_bytes())
        if manifest.head.release != release:
            raise WireError("manifest", f"belongs to {manifest.head.release}")
        return manifest

    def current(self) -> dict[Component, ReleaseId]:
        """Give the current release of each component; empty when nothing was switched yet."""
        with _explained(self._current):
            return _read_generation(self._current)

    def in_use(self) -> frozenset[ReleaseId] | Unknown:
        """Give the releases that processes of this machine use; see ``observe_users`` for what can be seen."""
        users = observe_users(self.releases)
        return users if isinstance(users, Unknown) else frozenset(ReleaseId(name) for name in users)

    def disk_bytes(self) -> int:
        """Give what the whole store takes on disk, shared files counted once."""
        with _explained(self.root):
            return measure_used(self.root)

    # --- changing -------------------------------------------------------------------------------

    def switch(self, component: Component, release: ReleaseId | None) -> int:
        """Make ``release`` (or none) the current one of its component; give the generation's number.

        The other components stay as they are. Old generations are kept up to KEPT_GENERATIONS.
        """
        with self.lock(), _explained(self._generations):
            if release is not None and not self._has_mark(release):
                raise SiteError(f"{self.path(release)}: is not installed; install it, then switch to it")
            before = _read_generation(self._current)
            after = {key: value for key, value in before.items() if key != component and self.path(value).is_dir()}
            if release is not None:
                after[component] = release
            numbers = self._numbers()
            number = self._current_number()
            if number is None or before != after:
                number = max(numbers, default=0) + 1
                self._write_generation(number, after)
                replace_link(self._current, f"generations/{number}")
            self._prune(number)
            return number

    def new_staging(self, release: ReleaseId) -> Path:
        """Make an empty staging directory for a release."""
        with _explained(self.staging):
            path = self.staging / f"{release}@{os.getpid()}.{secrets.token_hex(4)}"
            path.mkdir(mode=0o755)
            return path

    def dead_staging(self, release: ReleaseId) -> list[Path]:
        """Give what earlier, broken-off installs of a release left behind; call it with the lock held."""
        with _explained(self.staging):
            return sorted(path for path in self.staging.iterdir() if path.name.rpartition("@")[0] == release)

    def place(self, staged: Path, release: ReleaseId) -> None:
        """Make a complete staging directory the release; what stood in its place is swapped out and deleted."""
        with self.lock(), _explained(self.path(release)):
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
        with self.lock(), _explained(self.path(release)):
            users = sorted(key for key, value in _read_generation(self._current).items() if value == release)
            if users:
                raise SiteError(f"{release}: is the current release of {users[0]}; switch away from it first")
            if not os.path.lexists(self.path(release)):
                return
            grave = self._grave(release)
            self.path(release).rename(grave)
            sync_directory(self.releases)
            sync_directory(self.staging)
            remove_tree(grave)

    def sweep(self, keep: Collection[ReleaseId] = ()) -> int:
        """Delete what died in staging; give how many things it was.

        Unfinished installs of the releases in ``keep`` stay: their files are taken over by the next try.
        """
        with self.lock(), _explained(self.staging):
            dead = [path for path in self.staging.iterdir() if path.name.rpartition("@")[0] not in keep]
            dead += self._generations.glob(".new-*")
            for path in dead:
                remove_tree(path)
            return len(dead)

    def _has_mark(self, release: ReleaseId) -> bool:
        return (self.path(release) / MANIFEST).is_file()

    def _grave(self, release: ReleaseId) -> Path:
        return self.staging / f"removed@{release}@{secrets.token_hex(4)}"

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._generations.iterdir() if path.name.isdecimal()]

    def _current_number(self) -> int | None:
        try:
            name = self._current.readlink().name
        except OSError:
            return None
        return int(name) if name.isdecimal() and (self._generations / name).is_dir() else None

    def _write_generation(self, number: int, links: Mapping[Component, ReleaseId]) -> None:
        new = self._generations / f".new-{secrets.token_hex(4)}"
        new.mkdir(mode=0o755)
        for component, release in links.items():
            (new / component).symlink_to(f"{_TO_RELEASE}{release}")
        sync_directory(new)
        new.rename(self._generations / str(number))
        sync_directory(self._generations)

    def _prune(self, current: int) -> None:
        for number in sorted(self._numbers())[:-KEPT_GENERATIONS]:
            if number != current:
                remove_tree(self._generations / str(number))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise site_error(exc, path) from exc


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


def _read_small(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MAX_DESCRIPTION_BYTES)


def _read_generation(directory: Path) -> dict[Component, ReleaseId]:
    """Read a generation's links; what is no link to a release is passed over."""
    links: dict[Component, ReleaseId] = {}
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return links
    for entry in entries:
        with contextlib.suppress(WireError, OSError):
            target = os.fspath(entry.readlink())
            if target.startswith(_TO_RELEASE):
                links[parse_component(entry.name)] = parse_release_id(target.removeprefix(_TO_RELEASE))
    return links
