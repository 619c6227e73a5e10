"""The pack of a release's deltas on disk: ``artifacts/<release id>.deltas``, one delta after the other."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pps_publisher.chunks import hash_artifact
from pps_wire.delta import DELTA_FORMAT
from pps_wire.manifest import Delta, File, Manifest
from pps_wire.names import ReleaseId
from pps_wire.release import Deltas


def pack_path(release: ReleaseId) -> str:
    """Give the pack's path below the served directory."""
    return f"artifacts/{release}.deltas"


def plain_manifest(manifest: Manifest) -> Manifest:
    """Give a manifest without deltas: what the artifact alone says."""
    entries = (msgspec.structs.replace(entry, d=()) if isinstance(entry, File) else entry for entry in manifest.entries)
    return Manifest(manifest.head, tuple(entries))


def pack_problems(pack: Path | None, deltas: Deltas | None, manifest: Manifest) -> Iterator[str]:
    """Give every way in which pack, description and manifest of a release disagree. Raises: OSError."""
    named = [(file, delta) for file in manifest.files() for delta in file.d]
    if deltas is None or pack is None:
        if named:
            yield f"{manifest.head.release}: its manifest names deltas, its description no pack of them"
        return
    if deltas.format != DELTA_FORMAT:
        yield f"{manifest.head.release}: its deltas have the unknown format {deltas.format!r}"
        return
    try:
        length, sha256 = hash_artifact(pack)
    except FileNotFoundError:
        yield f"{pack}: is missing; restore it from a copy, or publish with --deltas again"
        return
    if (length, sha256) != (deltas.length, deltas.sha256):
        yield f"{pack}: has other bytes than the release says"
        return
    yield from _content_problems(pack, length, named)


def _content_problems(pack: Path, length: int, named: list[tuple[File, Delta]]) -> Iterator[str]:
    """Give what is wrong inside a pack: every byte of it must belong to one delta, each shorter than its frame."""
    position = 0
    with pack.open("rb") as stream:
        for file, delta in sorted(named, key=lambda pair: pair[1].o):
            if delta.o != position or delta.z >= file.z:
                yield f"{file.p}: its delta at {delta.o} is out of order, or no shorter than the frame"
                return
            position += delta.z
            if hashlib.sha256(stream.read(delta.z)).hexdigest() != delta.h:
                yield f"{file.p}: its delta at {delta.o} is not what the manifest says"
    if position != length:
        yield f"{pack}: holds {length - position} bytes that belong to no file"
