"""Place a release beside the others: take over what is here, fetch the rest, verify all, appear in one step.

Nothing is visible below ``releases/`` before every file has its signed hash and is durable. What an
interrupted install leaves in ``staging/`` is taken over, re-hashed, by the next try. Only a fault of
this machine (disk full, permission) throws the work away.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.disk import BLOCK_BYTES, Space, flush_file_system, measure_free, remove_tree, round_up, site_error
from pps_agent.errors import SiteError
from pps_agent.files import sync_directory
from pps_agent.frames import Block, SignedManifest
from pps_agent.settings import StoreSettings
from pps_agent.state import Offer
from pps_agent.store import DESCRIPTION, MANIFEST, Store
from pps_agent.transfer import Source, receive
from pps_agent.tree import TreeWriter, check_installable
from pps_wire.errors import WireError
from pps_wire.manifest import Directory, File, Link, Manifest
from pps_wire.release import render_custom

HEADROOM_BYTES: Final = 1024**2
"""Left free besides what a release needs, for names and the file system's own notes."""

Progress = Callable[[int, int], None]
"""Called with the bytes unpacked so far and all that will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFacts:
    """What an install took. ``bytes_moved`` are artifact bytes, the manifest's own length apart.

    ``files_linked`` were taken over from installed releases or stand twice in this one,
    ``files_resumed`` from a try that was broken off.
    """

    bytes_moved: int = 0
    requests: int = 0
    files_fetched: int = 0
    files_linked: int = 0
    files_resumed: int = 0
    installed_bytes: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sorting:
    """Where each file will come from. ``known`` have places to be tried, which may turn out damaged."""

    known: tuple[tuple[File, tuple[Path, ...]], ...]
    absent: tuple[File, ...]


def install(
    store: Store,
    offer: Offer,
    signed: SignedManifest,
    source: Source,
    settings: StoreSettings,
    progress: Progress | None = None,
) -> InstallFacts:
    """Make ``offer`` installed and intact; one that is so already costs nothing.

    A damaged one is made anew and swapped in. Raises: SiteError with required and available space, before
    any byte is fetched, or when the machine refuses; FetchError, TrustError, after which the next try
    resumes; WireError for a manifest this agent does not install. The store is as before in all cases.
    """
    started = time.monotonic()
    release = offer.release
    check_installable(signed.manifest)
    with store.lock():
        seen = store.look(release.id)
        if seen is not None and not seen.fault:
            return InstallFacts(took_s=time.monotonic() - started)
        requests, moved = source.requests, source.bytes_moved
        dead = store.dead_staging(release.id)
        sorting = sort_files(store, signed.manifest, dead)
        needed = required_space(signed.manifest, sorting.absent)
        _check_space(store.root, needed, signed.manifest, settings)
        with _staging(store, offer, needed) as staged:
            work = _Work(signed.manifest, sorting, dead, source, progress or _silent)
            resumed, linked, fetched = work.fill(staged, sync=settings.sync == "files", length=release.artifact.length)
            _seal(staged, offer, signed, settings)
            store.place(staged, release.id)
    return InstallFacts(
        bytes_moved=source.bytes_moved - moved,
        requests=source.requests - requests,
        files_fetched=fetched,
        files_linked=linked,
        files_resumed=resumed,
        installed_bytes=signed.manifest.head.installed_bytes,
        took_s=time.monotonic() - started,
    )


def sort_files(store: Store, manifest: Manifest, dead: list[Path]) -> Sorting:
    """Decide for each file whether it seems to be here already. Contents are not read."""
    donors = _find_donors(store, {file.h for file in manifest.files()})
    known: list[tuple[File, tuple[Path, ...]]] = []
    absent: list[File] = []
    for file in manifest.files():
        leftovers = (path / "tree" / file.p for path in dead)
        places = (*(place for place in leftovers if _has_size(place, file.s)), *donors.get(file.h, ()))
        if places or not file.s:
            known.append((file, places))
        else:
            absent.append(file)
    return Sorting(tuple(known), tuple(absent))


def split_twins(files: Iterable[File]) -> tuple[list[File], list[tuple[File, File]]]:
    """Part files into those to fetch, in the order of their offsets, and those that equal one of them. Pure."""
    fetch: dict[str, File] = {}
    twins = []
    for file in sorted(files, key=lambda file: file.o):
        first = fetch.setdefault(file.h, file)
        if first is not file:
            twins.append((file, first))
    return list(fetch.values()), twins


def required_space(manifest: Manifest, absent: Iterable[File]) -> Space:
    """Estimate what an install adds to the file system. Pure."""
    fetch, twins = split_twins(absent)
    others = sum(1 for entry in manifest.entries if isinstance(entry, Directory | Link))
    copies = [file for file, first in twins if file.x != first.x]
    size = sum(round_up(file.s) for file in (*fetch, *copies)) + others * BLOCK_BYTES + HEADROOM_BYTES
    return Space(size, len(fetch) + len(copies) + others + 8)


def _find_donors(store: Store, wanted: set[str]) -> dict[str, list[Path]]:
    donors: dict[str, list[Path]] = {}
    for release in store.ids():
        with contextlib.suppress(WireError, OSError):
            for file in store.manifest(release).files():
                if file.h in wanted:
                    donors.setdefault(file.h, []).append(store.tree(release) / file.p)
    return donors


def _check_space(root: Path, needed: Space, manifest: Manifest, settings: StoreSettings) -> None:
    size = manifest.head.installed_bytes
    if size > settings.max_bytes:
        raise SiteError(
            f"{manifest.head.release}: takes {size} bytes, store.max_bytes allows {settings.max_bytes}; "
            "raise it or leave this release out"
        )
    try:
        free = measure_free(root)
    except OSError as exc:
        raise site_error(exc, root) from exc
    if not free.holds(needed):
        raise SiteError(
            f"{root}: {manifest.head.release} needs {needed}, {free} are free; "
            "free space on that file system, or move the store"
        )


@contextlib.contextmanager
def _staging(store: Store, offer: Offer, needed: Space) -> Iterator[Path]:
    """Give a staging directory. A fault of the machine removes it, any other error leaves it to be resumed."""
    staged = store.new_staging(offer.release.id)
    try:
        yield staged
    except (OSError, SiteError) as exc:
        with contextlib.suppress(OSError):
            remove_tree(staged)
        if isinstance(exc, SiteError):
            raise
        raise site_error(exc, staged, f" ({needed} required, {measure_free(store.root)} available)") from exc


@dataclass(frozen=True, slots=True)
class _Work:
    """Filling one staging directory."""

    manifest: Manifest
    sorting: Sorting
    dead: list[Path]
    source: Source
    progress: Progress

    def fill(self, staged: Path, *, sync: bool, length: int) -> tuple[int, int, int]:
        """Write the whole tree; give how many files were resumed, linked and fetched."""
        tree = staged / "tree"
        tree.mkdir(mode=0o755)
        with TreeWriter(tree, sync=sync) as writer:
            directories = [entry.p for entry in self.manifest.entries if isinstance(entry, Directory)]
            for path in directories:
                writer.make_directory(path)
            resumed, missing = self._take_over(writer)
            for dead in self.dead:
                remove_tree(dead)
            fetch, twins = split_twins((*self.sorting.absent, *missing))
            self._fetch(writer, fetch, length)
            for file, first in twins:
                if not writer.adopt(file, tree / first.p):
                    raise SiteError(f"{tree / first.p}: changed while it was copied; check that disk")
            for entry in self.manifest.entries:
                if isinstance(entry, Link):
                    writer.make_link(entry.p, entry.to)
            if sync:
                writer.sync_directories(directories)
        files = sum(1 for _ in self.manifest.files())
        return resumed, files - resumed - len(fetch), len(fetch)

    def _take_over(self, writer: TreeWriter) -> tuple[int, list[File]]:
        """Adopt what is here; give how much of it was resumed, and what turned out unusable."""
        resumed = 0
        missing = []
        for file, places in self.sorting.known:
            used = next((place for place in places if writer.adopt(file, place)), None)
            if used is not None:
                resumed += any(used.is_relative_to(path) for path in self.dead)
            elif file.s:
                missing.append(file)
            else:
                writer.write(file, ())
        return resumed, missing

    def _fetch(self, writer: TreeWriter, files: list[File], length: int) -> None:
        total = sum(file.s for file in files)
        done = 0

        def write(file: File, blocks: Iterator[Block]) -> None:
            nonlocal done
            writer.write(file, blocks)
            done += file.s
            self.progress(done, total)

        if files:
            receive(files, length, self.source, write)


def _seal(staged: Path, offer: Offer, signed: SignedManifest, settings: StoreSettings) -> None:
    """Write description and commit mark, and make everything durable."""
    sync = settings.sync == "files"
    _write_new(staged / DESCRIPTION, json.dumps(render_custom(offer.release)).encode(), sync=sync)
    _write_new(staged / MANIFEST, signed.raw, sync=sync)
    if sync:
        sync_directory(staged)
    else:
        flush_file_system(staged)


def _write_new(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.write(content)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.lstat().st_size == size_bytes
    except OSError:
        return False


def _silent(done_bytes: int, total_bytes: int) -> None:
    """Show nothing."""
