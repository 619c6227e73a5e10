"""Mends damaged releases: each damaged content is had once and linked wherever it belongs.

A flipped byte in a shared inode damages every release that shares it, so all of them are mended in one go.
What another release holds intact is taken from there; only the rest is fetched. Each path holds the old or
the new content at any moment. What the manifest does not know is removed: the tree is the agent's alone.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import msgspec

from pps_agent.disk import BLOCK_BYTES, Space, exchange, explained, flush_file_system, remove_tree, round_up
from pps_agent.errors import SiteError
from pps_agent.files import save_bytes, sync_directory
from pps_agent.frames import Block, SignedManifest
from pps_agent.inspection import Flaw, Inspection, find_offer, inspect, inspect_file
from pps_agent.settings import StoreSettings
from pps_agent.space import require_space
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.store import DESCRIPTION, MANIFEST, Store
from pps_agent.transfer import Source, receive
from pps_agent.tree import DIRECTORY_MODE, TreeWriter
from pps_wire.errors import WireError
from pps_wire.manifest import Directory, Entry, File, Link
from pps_wire.names import ReleaseId
from pps_wire.release import render_custom

Content = tuple[str, bool]
"""A file's sha256 and executable bit: what its inode must be."""


class Repository:
    """Where the signed bytes come from, should they be needed at all."""

    def __init__(
        self, fetch_manifest: Callable[[Offer], SignedManifest], open_source: Callable[[Offer], Source]
    ) -> None:
        self.fetch_manifest = fetch_manifest
        self.open_source = open_source


@dataclass(frozen=True, slots=True)
class Repair:
    """A decided repair of one release. ``places`` are all paths, of all releases, that get new content."""

    inspection: Inspection
    entries: tuple[Entry, ...] = ()
    places: tuple[tuple[ReleaseId, File], ...] = ()
    donors: dict[str, list[Path]] = field(default_factory=dict)
    fetch: tuple[File, ...] = ()

    @property
    def releases(self) -> tuple[ReleaseId, ...]:
        """All releases that it changes."""
        return tuple(sorted({self.inspection.release, *(release for release, _ in self.places)}))

    @property
    def fetch_bytes(self) -> int:
        """How many artifact bytes have to be fetched."""
        return sum(file.z for file in self.fetch)


def decide_repair(store: Store, release: ReleaseId, offered: ReleaseSet | Unknown) -> Repair:
    """Find all damage of a release, who shares it, and what is still intact elsewhere. Changes nothing.

    Raises: SiteError, also for a tree that others distribute: it is not this store's to mend.
    """
    if store.trees:
        raise SiteError(f"{release}: its tree is distributed read-only; tell whoever fills {store.trees}")
    inspection = inspect(store, release, offered, _silent)
    if any(finding.flaw is Flaw.MANIFEST for finding in inspection.findings):
        return Repair(inspection)  # what else is damaged shows when the signed manifest is back
    damaged = {finding.path for finding in inspection.findings if finding.flaw is not Flaw.FOREIGN}
    entries = tuple(entry for entry in store.manifest(release).entries() if entry.p in damaged)
    wanted = {entry.h: entry for entry in entries if isinstance(entry, File)}
    places, donors = _find_sharers(store, frozenset(wanted))
    absent = (file for digest, file in wanted.items() if file.s and digest not in donors)
    return Repair(inspection, entries, tuple(places), donors, tuple(sorted(absent, key=lambda file: file.o)))


def repair(
    store: Store, release: ReleaseId, offered: ReleaseSet | Unknown, repository: Repository, settings: StoreSettings
) -> Repair:
    """Mend a release and all that shares its damage; give what was done.

    Raises: SiteError when it cannot be mended (the message says why) or the machine refuses; FetchError,
    TrustError, WireError of what has to be fetched. Each path is old or new in all cases.
    """
    with store.lock():
        offer = find_offer(release, offered)
        first = decide_repair(store, release, offered)
        _mend_documents(store, first.inspection, offer, repository)
        decided = first if first.entries else decide_repair(store, release, offered)
        _require_offer(decided, offer)
        with _workshop(store, release) as bench:
            _Bench(store, bench, decided, settings).mend(offer, repository)
        left = inspect(store, release, offered, _silent).findings
        if left:
            raise SiteError(f"{release}: {left[0].path} {left[0].detail} even after the repair; check that disk")
    found = dict.fromkeys((*first.inspection.findings, *decided.inspection.findings))
    return replace(decided, inspection=replace(decided.inspection, findings=tuple(found)))


def _find_sharers(store: Store, wanted: frozenset[str]) -> tuple[list[tuple[ReleaseId, File]], dict[str, list[Path]]]:
    """Find all files that should have such content, in any release: those to be replaced, those that have it."""
    places: list[tuple[ReleaseId, File]] = []
    donors: dict[str, list[Path]] = {}
    for release in store.ids() if wanted else ():
        with contextlib.suppress(WireError, OSError):
            for file in store.manifest(release).files():
                if file.h not in wanted:
                    continue
                path = store.tree(release) / file.p
                flaw = _flaw_of(path, file)
                if flaw is not None:
                    places.append((release, file))
                if flaw in (None, Flaw.MODE):
                    donors.setdefault(file.h, []).append(path)
    return places, donors


def _flaw_of(path: Path, file: File) -> Flaw | None:
    try:
        finding = inspect_file(path, file)
    except OSError:
        return Flaw.MISSING
    return None if finding is None else finding.flaw


def _mend_documents(store: Store, seen: Inspection, offer: Offer | None, repository: Repository) -> None:
    """Put the signed manifest and description back."""
    flaws = {finding.flaw for finding in seen.findings}
    if not flaws & {Flaw.MANIFEST, Flaw.DESCRIPTION}:
        return
    if offer is None:
        raise SiteError(f"{seen.release}: its signed description is lost, and {seen.note}; remove it, or leave it be")
    path = store.path(seen.release)
    with explained(path):
        if Flaw.MANIFEST in flaws:
            save_bytes(path / MANIFEST, repository.fetch_manifest(offer).raw)
        if Flaw.DESCRIPTION in flaws:
            save_bytes(path / DESCRIPTION, json.dumps(render_custom(offer.release)).encode())


def _require_offer(decided: Repair, offer: Offer | None) -> None:
    if decided.fetch and offer is None:
        file = decided.fetch[0]
        raise SiteError(
            f"{decided.inspection.release}: {file.p} is damaged, no other release has it, and"
            f" {decided.inspection.note}; copy the file from another site, or remove the release"
        )


@contextlib.contextmanager
def _workshop(store: Store, release: ReleaseId) -> Iterator[Path]:
    """Give a directory on the store's file system that is swept should this process die."""
    path = store.staging / f"repair@{release}@{secrets.token_hex(4)}"
    with explained(path):
        path.mkdir(mode=0o755)
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                remove_tree(path)


@dataclass(frozen=True, slots=True)
class _Bench:
    """One repair at work; ``path`` holds new content until it stands where it belongs."""

    store: Store
    path: Path
    decided: Repair
    settings: StoreSettings

    def mend(self, offer: Offer | None, repository: Repository) -> None:
        files = {(file.h, file.x): file for _, file in self.decided.places}
        require_space(self.store.root, f"the repair of {self.decided.inspection.release}", _space(files), self.settings)
        with TreeWriter(self.path, sync=self.settings.syncs_files) as writer:
            self._make_contents(writer, files, offer, repository)
            if self.settings.syncs_files:
                sync_directory(self.path)
            else:
                flush_file_system(self.path)
            touched = {*self._mend_shape(), *self._place(writer), *self._clear_foreign()}
        for directory in touched:
            if directory.is_dir():
                sync_directory(directory)

    def _make_contents(
        self, writer: TreeWriter, files: dict[Content, File], offer: Offer | None, repository: Repository
    ) -> None:
        """Have every content once, by link or copy of an intact one, else fetched."""
        fetch = {file.h: file for file in self.decided.fetch}

        def write(file: File, blocks: Iterator[Block]) -> None:
            writer.write(_staged(file), blocks)

        if fetch and offer is not None:
            source = repository.open_source(offer)
            receive(self.decided.fetch, offer.release.artifact.length, source, write)
        for (digest, executable), file in files.items():
            if digest in fetch and fetch[digest].x == executable:
                continue
            donors = [*self.decided.donors.get(digest, ())]
            if digest in fetch:
                donors.append(self.path / _staged(fetch[digest]).p)
            if file.s and not any(writer.adopt(_staged(file), donor) for donor in donors):
                raise SiteError(f"{file.p}: what was intact changed meanwhile; check that disk and repair again")
            if not file.s:
                writer.write(_staged(file), ())

    def _mend_shape(self) -> Iterator[Path]:
        """Set directories and links right, parents first; give the directories whose names changed."""
        tree = self.store.tree(self.decided.inspection.release)
        for entry in self.decided.entries:
            target = tree / entry.p
            if isinstance(entry, Directory):
                if target.is_dir() and not target.is_symlink():
                    target.chmod(DIRECTORY_MODE)
                    continue
                fresh = self._fresh()
                fresh.mkdir()
                fresh.chmod(DIRECTORY_MODE)
                self._put(fresh, target)
            elif isinstance(entry, Link):
                fresh = self._fresh()
                fresh.symlink_to(entry.to)
                self._put(fresh, target)
            else:
                continue
            yield target.parent

    def _place(self, writer: TreeWriter) -> Iterator[Path]:
        """Link the new content wherever it belongs."""
        for release, file in self.decided.places:
            tree = self.store.tree(release)
            target = tree / file.p
            if target.parent.resolve() != tree.resolve() / PurePosixPath(file.p).parent:
                continue  # a directory of another release is gone or a link: that release needs a repair of its own
            fresh = self._fresh()
            try:
                os.link(self.path / _staged(file).p, fresh)
            except OSError as exc:
                if exc.errno not in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                    raise
                writer.adopt(msgspec.structs.replace(file, p=fresh.name), self.path / _staged(file).p)
            self._put(fresh, target)
            yield target.parent

    def _clear_foreign(self) -> Iterator[Path]:
        tree = self.store.tree(self.decided.inspection.release)
        for finding in self.decided.inspection.findings:
            if finding.flaw is Flaw.FOREIGN:
                (tree / finding.path).rename(self._fresh())
                yield (tree / finding.path).parent

    def _fresh(self) -> Path:
        return self.path / f"new.{secrets.token_hex(8)}"

    def _put(self, fresh: Path, target: Path) -> None:
        """Replace ``target`` in one step, whatever it is; what it was ends in the workshop."""
        is_directory = target.is_dir() and not target.is_symlink()
        if not os.path.lexists(target) or not (is_directory or fresh.is_dir()):
            fresh.replace(target)
        elif not exchange(fresh, target):
            target.rename(self._fresh())  # a file system that cannot swap: missing for a moment, as it was wrong before
            fresh.rename(target)


def _staged(file: File) -> File:
    return msgspec.structs.replace(file, p=f"{file.h}{'x' if file.x else ''}")


def _space(files: dict[Content, File]) -> Space:
    return Space(sum(round_up(file.s) for file in files.values()) + BLOCK_BYTES, len(files) + 2)


def _silent(size_bytes: int) -> None:
    """Show nothing."""
