"""Files to make from deltas and what is here, instead of fetching their frames: which, and making them.

A delta that cannot be had or does not work costs its own bytes and nothing else: the file's frame is
fetched then. Of each file with a usable delta one entry is kept, so memory grows with what changed.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pps_agent.delta import apply_delta, choose_deltas
from pps_agent.errors import FetchError, TrustError
from pps_agent.origins import Origins, open_donors
from pps_agent.store import Store
from pps_agent.transfer import Source, Write, receive_raw
from pps_wire.delta import DELTA_FORMAT, MAX_DELTA_FILE_BYTES
from pps_wire.errors import WireError
from pps_wire.manifest import Delta, File
from pps_wire.release import Release

_EXISTING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Patch:
    """One file that can be made from old content at ``place``, which was not read yet."""

    file: File
    delta: Delta
    place: str


@dataclass(frozen=True, slots=True)
class Patching:
    """What will be tried, in the order of the pack, and where the ``length`` bytes of the pack come from."""

    patches: tuple[Patch, ...]
    pack: Source
    length: int

    def run(self, write: Write) -> Iterator[tuple[File, str]]:
        """Make the files, each handed to ``write``; give those that failed, with the reason.

        Raises: whatever ``write`` raises.
        """
        done = 0
        try:
            with receive_raw([_as_frame(patch) for patch in self.patches], self.length, self.pack) as pieces:
                for raw in pieces:
                    patch = self.patches[done]
                    done += 1
                    if problem := _patch(patch, raw, write):
                        yield patch.file, problem
        except (FetchError, WireError) as exc:
            for patch in self.patches[done:]:
                yield patch.file, str(exc)


def plan_patching(store: Store, origins: Origins, release: Release, pack: Source | None) -> Patching | None:
    """Find for each file that must be fetched its shortest delta from content that seems to be here.

    None when the release has no deltas, or has them in a format that this agent does not know.
    """
    deltas = release.deltas
    if deltas is None or pack is None or deltas.format != DELTA_FORMAT:
        return None
    places = _find_places(store, {delta.b for file in origins for delta in choose_deltas(file, deltas.length)})
    patches = []
    for file in origins if places else ():
        usable = [delta for delta in choose_deltas(file, deltas.length) if delta.b in places]
        if usable:
            best = min(usable, key=lambda delta: delta.z)
            patches.append(Patch(file, best, places[best.b]))
    return Patching(tuple(sorted(patches, key=lambda patch: patch.delta.o)), pack, deltas.length)


def _find_places(store: Store, wanted: set[str]) -> dict[str, str]:
    places: dict[str, str] = {}
    for tree, donor in open_donors(store) if wanted else ():
        for file in donor.files():
            if file.h in wanted and file.s <= MAX_DELTA_FILE_BYTES:
                places.setdefault(file.h, f"{tree}/{file.p}")
    return places


def _as_frame(patch: Patch) -> File:
    """Give the delta's bytes as something to be fetched."""
    delta = patch.delta
    return File(p=patch.file.p, s=delta.z, h=delta.h, o=delta.o, z=delta.z)


def _patch(patch: Patch, raw: bytes, write: Write) -> str:
    """Make one file; give the reason when that fails."""
    old = _read_old(patch.place)
    if old is None:
        return f"{patch.place}: cannot be read any more"
    try:
        content = apply_delta(patch.file, patch.delta, old, raw)
    except TrustError as exc:
        return str(exc)
    write(patch.file, iter((content,)))
    return ""


def _read_old(place: str) -> bytes | None:
    try:
        descriptor = os.open(place, _EXISTING)
        with os.fdopen(descriptor, "rb") as stream:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode) or seen.st_size > MAX_DELTA_FILE_BYTES:
                return None
            return stream.read(MAX_DELTA_FILE_BYTES)
    except OSError:
        return None
