"""Making a release's deltas: which older releases they start from, and what of them is worth keeping.

Old contents are read from the served artifacts and checked against the signed manifests. Once served, the
deltas of a release never change: one that is published again keeps them, whatever could be made meanwhile.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from pps_publisher.bundle import Bundle, pack_manifest, unpack_manifest
from pps_publisher.chunks import read_body
from pps_publisher.delta import make_delta
from pps_publisher.metadata import MetadataStore, read_target
from pps_publisher.pack import pack_path, plain_manifest
from pps_publisher.pairing import pair_files
from pps_publisher.roles import CLIENTS, WITHDRAWALS
from pps_wire.delta import DELTA_FORMAT
from pps_wire.manifest import Delta, File, Manifest
from pps_wire.names import ReleaseId, version_key
from pps_wire.release import Deltas, Release, parse_release, target_path, withdrawal_path

SOURCES: Final = 2
"""From so many older versions deltas are made."""
MAX_SHARE: Final = 0.9
"""A delta is kept when it, with its entry in the manifest, is at most this share of the file's frame."""
ENTRY_BYTES: Final = 80
"""What one delta adds to a compressed manifest: two hashes and two numbers."""

Progress = Callable[[int, int], None]
"""Called with the bytes of files looked at so far, and all that will be."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What came of making deltas: from which releases, how many, and the bytes they save of so many."""

    sources: tuple[ReleaseId, ...]
    deltas: int
    pack_bytes: int
    frame_bytes: int


def find_sources(store: MetadataStore, release: Release) -> tuple[Bundle, ...]:
    """Give the last versions before ``release`` that are served and not withdrawn, of its component and platform.

    Newest first. Raises: TrustError when the repository is damaged; UsageError when it was never served.
    """
    withdrawn = store.load_targets(WITHDRAWALS).signed.targets
    older = []
    for target in store.load_targets(CLIENTS).signed.targets.values():
        served = parse_release(target.custom)
        related = (served.component, served.platform) == (release.component, release.platform)
        if related and withdrawal_path(served) not in withdrawn and _rank(served) < _rank(release):
            older.append(served)
    return tuple(load_served(store, served) for served in sorted(older, key=_rank, reverse=True)[:SOURCES])


def load_served(store: MetadataStore, release: Release) -> Bundle:
    """Give a served release as a build. Raises: TrustError when its manifest is missing or damaged."""
    manifest = read_target(store.served, store.load_targets(CLIENTS).signed.targets[target_path(release)])
    pack = store.served / release.deltas.path if release.deltas is not None else None
    return Bundle(release, manifest, store.served / release.artifact.path, pack)


def keep_served(store: MetadataStore, bundle: Bundle) -> Bundle:
    """Give the build with the deltas it is served with, when it is; else as it came.

    Raises: TrustError when what is served is damaged.
    """
    target = store.load_targets(CLIENTS).signed.targets.get(target_path(bundle.release))
    if target is None:
        return bundle
    served = load_served(store, parse_release(target.custom))
    if served.release.deltas is None or not same_content(served, bundle):
        return bundle
    release = msgspec.structs.replace(bundle.release, deltas=served.release.deltas)
    return replace(bundle, release=release, manifest=served.manifest, pack=served.pack)


def same_content(one: Bundle, other: Bundle) -> bool:
    """Say whether two builds are the same but for their deltas. Raises: WireError."""
    if one.release.artifact != other.release.artifact:
        return False
    if one.manifest == other.manifest:
        return True
    return plain_manifest(unpack_manifest(one.manifest)) == plain_manifest(unpack_manifest(other.manifest))


def add_deltas(bundle: Bundle, sources: Sequence[Bundle], directory: Path, progress: Progress) -> tuple[Bundle, Gain]:
    """Give the build with a pack of deltas, written into ``directory``; without one when none is worth it.

    The same builds give the same bytes. Raises: TrustError when an artifact is not what its manifest says;
    OSError.
    """
    manifest = plain_manifest(unpack_manifest(bundle.manifest))
    pairs = [(source, pair) for source in sources for pair in pair_files(unpack_manifest(source.manifest), manifest)]
    place = directory / Path(pack_path(bundle.release.id)).name
    total, done = sum(new.s for _, (_, new) in pairs), 0
    with contextlib.ExitStack() as stack:
        fresh = stack.enter_context(bundle.artifact.open("rb"))
        streams = {source.release.id: stack.enter_context(source.artifact.open("rb")) for source in sources}
        pack = _Pack(stack.enter_context(place.open("xb")))
        for source, (old, new) in pairs:
            pack.add(streams[source.release.id], old, fresh, new)
            done += new.s
            progress(done, total)
    ids = tuple(source.release.id for source in sources)
    gain = Gain(ids, sum(map(len, pack.found.values())), pack.length, sum(new.z for new in pack.files.values()))
    if not pack.found:
        plain = _described(bundle.release, None)
        return replace(bundle, release=plain, manifest=pack_manifest(manifest), pack=None), gain
    deltas = Deltas(
        format=DELTA_FORMAT, path=pack_path(bundle.release.id), length=pack.length, sha256=pack.digest.hexdigest()
    )
    content = pack_manifest(_with_deltas(manifest, pack.found))
    return Bundle(_described(bundle.release, deltas), content, bundle.artifact, place), gain


@dataclass(slots=True)
class _Pack:
    """A pack that is being written; ``found`` are the deltas by the path of the file they lead to."""

    stream: BinaryIO
    found: dict[str, tuple[Delta, ...]] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    length: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, old_stream: BinaryIO, old: File, new_stream: BinaryIO, new: File) -> None:
        """Make one delta and keep it when it is worth it; two releases often share the old content."""
        have = self.found.get(new.p, ())
        if any(delta.b == old.h for delta in have):
            return
        content = make_delta(read_body(old_stream, old), read_body(new_stream, new))
        if content is None or len(content) + ENTRY_BYTES > MAX_SHARE * new.z:
            return
        delta = Delta(b=old.h, o=self.length, z=len(content), h=hashlib.sha256(content).hexdigest())
        self.found[new.p] = (*have, delta)
        self.files[new.p] = new
        self.stream.write(content)
        self.digest.update(content)
        self.length += len(content)


def _rank(release: Release) -> tuple[tuple[int, int, str], ...]:
    return version_key(release.version)


def _described(release: Release, deltas: Deltas | None) -> Release:
    return msgspec.structs.replace(release, deltas=deltas)


def _with_deltas(manifest: Manifest, found: dict[str, tuple[Delta, ...]]) -> Manifest:
    entries = (
        msgspec.structs.replace(entry, d=found.get(entry.p, ())) if isinstance(entry, File) else entry
        for entry in manifest.entries
    )
    return Manifest(manifest.head, tuple(entries))
