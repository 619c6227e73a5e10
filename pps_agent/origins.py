"""Where each file of a release will come from: a broken-off try, an installed release, or the network.

One small number a file is kept, in the manifest's order, and no file's name: a tree of any size is sorted in
little memory. Manifests are sorted by path, so one run through all of them at once finds what stands at its old place.
"""

import contextlib
import itertools
import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pps_agent.disk import BLOCK_BYTES, Space, round_up
from pps_agent.frames import SignedManifest
from pps_agent.store import Store
from pps_wire.errors import WireError
from pps_wire.manifest import File

HEADROOM_BYTES: Final = 1024**2
"""Left free besides what a release needs, for names and the file system's own notes."""

_FETCH, _TWIN, _EMPTY, _MOVED, _PATCHED, _PLACES = range(6)
_MAX_PLACES: Final = 2**16 - _PLACES


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the files of ``manifest`` will come from. Contents were not read: a place may turn out damaged.

    ``places`` are trees that hold files under the same names, the first ``leftovers`` of them broken-off
    tries. ``moved`` gives paths of contents that stand elsewhere in an installed release.
    """

    manifest: SignedManifest
    places: tuple[str, ...]
    leftovers: int
    needed: Space
    fetched_files: int
    fetched_bytes: int
    _codes: "array[int]"
    _moved: Mapping[int, str]

    @property
    def files(self) -> int:
        """How many files the manifest holds."""
        return len(self._codes)

    def __iter__(self) -> Iterator[File]:
        """Give the files that must be fetched, in the order of their frames; anew each time."""
        return self._coded(_FETCH)

    def twins(self) -> Iterator[tuple[File, File]]:
        """Give the files whose content is fetched for another one, each with that other one."""
        sought = {_key(file) for file in self._coded(_TWIN)}
        made = itertools.chain(self, self._coded(_PATCHED)) if sought else ()
        firsts = {_key(file): file for file in made if _key(file) in sought}
        for file in self._coded(_TWIN) if sought else ():
            yield file, firsts[_key(file)]

    def known(self) -> Iterator[tuple[File, str]]:
        """Give the files that seem to be here, each with its place; an empty file has none."""
        for code, file in zip(self._codes, self.manifest.files(), strict=True):
            if code >= _PLACES:
                yield file, f"{self.places[code - _PLACES]}/{file.p}"
            elif code == _MOVED:
                yield file, self._moved[_key(file)]
            elif code == _EMPTY:
                yield file, ""

    def patched(self, paths: Collection[str]) -> "Origins":
        """Give the same without the files at ``paths`` among those to be fetched: they are made from deltas."""
        codes = array("H", self._codes)
        size_bytes = count = 0
        for number, file in enumerate(self.manifest.files() if paths else ()):
            if codes[number] == _FETCH and file.p in paths:
                codes[number] = _PATCHED
                size_bytes += file.s
                count += 1
        left = (self.fetched_files - count, self.fetched_bytes - size_bytes)
        return replace(self, fetched_files=left[0], fetched_bytes=left[1], _codes=codes)

    def is_leftover(self, place: str) -> bool:
        """Tell whether a place lies in a broken-off try."""
        return any(place.startswith(f"{tree}/") for tree in self.places[: self.leftovers])

    def _coded(self, wanted: int) -> Iterator[File]:
        return (file for code, file in zip(self._codes, self.manifest.files(), strict=True) if code == wanted)


def sort_files(store: Store, manifest: SignedManifest, dead: Sequence[Path]) -> Origins:
    """Decide for each file whether it seems to be here already, and what the rest needs of the disk."""
    donors = list(open_donors(store))
    trees = (*(os.fspath(path / "tree") for path in dead), *(tree for tree, _ in donors))[:_MAX_PLACES]
    codes = array("H")
    lines = [donor.files() for _, donor in donors]
    heads = [next(line, None) for line in lines]
    for file in manifest.files():
        codes.append(_find_place(file, trees[: len(dead)], lines, heads))
    moved = _find_moved(manifest, codes, donors)
    return _settle(manifest, trees, len(dead), codes, moved)


def open_donors(store: Store) -> Iterator[tuple[str, SignedManifest]]:
    """Give the trees of installed releases with their manifests; one that cannot be read is left out."""
    for release in store.ids():
        with contextlib.suppress(WireError, OSError):
            yield os.fspath(store.tree(release)), store.manifest(release)


def _find_place(file: File, leftovers: Sequence[str], lines: Sequence[Iterator[File]], heads: list[File | None]) -> int:
    """Give the first place that has ``file`` under its own name; moves every donor's line up to that name."""
    found = _FETCH if file.s else _EMPTY
    for number, line in enumerate(lines):
        head = heads[number]
        while head is not None and head.p < file.p:
            head = next(line, None)
        heads[number] = head
        if found == _FETCH and head is not None and (head.p, head.h) == (file.p, file.h):
            found = _PLACES + len(leftovers) + number
    for number, tree in enumerate(leftovers):
        if file.s and _has_size(f"{tree}/{file.p}", file.s):
            return _PLACES + number
    return found


def _find_moved(
    manifest: SignedManifest, codes: "array[int]", donors: Sequence[tuple[str, SignedManifest]]
) -> dict[int, str]:
    """Find contents that no place has under their own name anywhere else in the donors."""
    if not donors:
        return {}
    wanted = {_key(file) for code, file in zip(codes, manifest.files(), strict=True) if code == _FETCH}
    moved: dict[int, str] = {}
    for tree, donor in donors if wanted else ():
        for file in donor.files():
            if (key := _key(file)) in wanted:
                moved.setdefault(key, f"{tree}/{file.p}")
    return moved


def _settle(
    manifest: SignedManifest, trees: tuple[str, ...], leftovers: int, codes: "array[int]", moved: Mapping[int, str]
) -> Origins:
    """Mark what moved and what stands twice; add up what the rest takes."""
    executable: dict[int, bool] = {}
    others = manifest.head.entries - len(codes)
    fetched_bytes = copies = 0
    size_bytes = others * BLOCK_BYTES + HEADROOM_BYTES
    for number, file in enumerate(manifest.files()):
        key = _key(file)
        if codes[number] != _FETCH:
            continue
        if key in moved:
            codes[number] = _MOVED
        elif key not in executable:
            executable[key] = file.x
            fetched_bytes += file.s
            size_bytes += round_up(file.s)
        else:
            codes[number] = _TWIN
            if executable[key] != file.x:
                copies += 1
                size_bytes += round_up(file.s)
    needed = Space(size_bytes, len(executable) + copies + others + 8)
    return Origins(manifest, trees, leftovers, needed, len(executable), fetched_bytes, codes, moved)


def _key(file: File) -> int:
    """Give 8 bytes of a content's hash: enough to find a place, since every place is hashed before it is used."""
    return int(file.h[:16], 16)


def _has_size(path: str, size_bytes: int) -> bool:
    try:
        return os.lstat(path).st_size == size_bytes
    except OSError:
        return False
