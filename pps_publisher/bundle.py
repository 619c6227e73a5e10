"""A build on disk: the three files that ``build`` writes and ``publish`` reads.

``<release id>.tar.zst`` is the artifact, ``<release id>.manifest.zst`` the manifest,
``<release id>.release.json`` what the release says of itself; the last is written last, so its
presence means that the build is whole. One with deltas has their pack as a fourth,
``<release id>.deltas``.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from pps_publisher.chunks import check_artifact, compress, hash_artifact
from pps_publisher.errors import TrustError, UsageError
from pps_publisher.files import save_bytes
from pps_publisher.pack import pack_problems
from pps_wire.errors import WireError
from pps_wire.manifest import Manifest, parse_manifest, render_manifest
from pps_wire.release import Release, parse_release, render_custom

MANIFEST_LEVEL: Final = 19
MANIFEST_WINDOW_LOG: Final = 17
"""Agents unpack a manifest many times, two looks at once: 128 KiB each, for 0.4 % more bytes than with 4 MiB."""
MAX_MANIFEST_BYTES: Final = 256 * 1024**2
_SUFFIX: Final = ".release.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A build: the release, its manifest as published, and where its artifact and the pack of its deltas lie."""

    release: Release
    manifest: bytes
    artifact: Path
    pack: Path | None = None


def pack_manifest(manifest: Manifest) -> bytes:
    """Give a manifest as it is published: JSON Lines in one zstd frame."""
    return compress(b"".join(render_manifest(manifest)), MANIFEST_LEVEL, MANIFEST_WINDOW_LOG)


def unpack_manifest(content: bytes) -> Manifest:
    """Read a published manifest. Raises: WireError and nothing else, for any bytes."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(content) as reader:
            plain = reader.read(MAX_MANIFEST_BYTES + 1)
    except zstandard.ZstdError as exc:
        raise WireError("manifest", f"is not a zstd frame ({exc})") from exc
    if len(plain) > MAX_MANIFEST_BYTES:
        raise WireError("manifest", f"is larger than {MAX_MANIFEST_BYTES} bytes")
    return parse_manifest(io.BytesIO(plain))


def save_bundle(directory: Path, bundle: Bundle) -> Path:
    """Write manifest and description beside the artifact; give the description's place. Raises: OSError."""
    save_bytes(directory / f"{bundle.release.id}.manifest.zst", bundle.manifest)
    description = directory / f"{bundle.release.id}{_SUFFIX}"
    text = msgspec.json.format(msgspec.json.encode(render_custom(bundle.release)), indent=2)
    save_bytes(description, text + b"\n")
    return description


def load_bundle(path: Path) -> Bundle:
    """Read a build from its ``.release.json`` or from a directory that holds exactly one.

    Raises: UsageError when there is no build; WireError when its files do not obey the contract.
    """
    description = _find_description(path)
    try:
        custom = msgspec.json.decode(description.read_bytes())
        manifest = description.with_name(description.name.removesuffix(_SUFFIX) + ".manifest.zst").read_bytes()
    except msgspec.MsgspecError as exc:
        raise WireError(str(description), str(exc)) from exc
    except FileNotFoundError as exc:
        raise UsageError(f"{exc.filename}: is missing; run 'pps-publish build' again") from exc
    release = parse_release(custom)
    pack = description.with_name(f"{release.id}.deltas") if release.deltas is not None else None
    return Bundle(release, manifest, description.with_name(f"{release.id}.tar.zst"), pack)


def check_bundle(bundle: Bundle) -> None:
    """Refuse a build whose three files do not agree in every byte. Raises: TrustError, UsageError, WireError."""
    problems = tuple(bundle_problems(bundle))
    if problems:
        raise TrustError("\n".join((*problems, f"{bundle.release.id}: build it again; nothing was signed")))


def bundle_problems(bundle: Bundle) -> Iterator[str]:
    """Give every way in which description, manifest and artifact of a build disagree. Raises: as check_bundle."""
    release = bundle.release
    manifest = unpack_manifest(bundle.manifest)
    if manifest.head.release != release.id:
        yield f"{release.id}: its manifest is that of {manifest.head.release}"
    files = sum(1 for _ in manifest.files())
    if (manifest.head.installed_bytes, files) != (release.artifact.installed_bytes, release.artifact.files):
        yield f"{release.id}: manifest and description count files or bytes differently"
    try:
        length, sha256 = hash_artifact(bundle.artifact)
    except FileNotFoundError as exc:
        raise UsageError(f"{bundle.artifact}: is missing; run 'pps-publish build' again") from exc
    if (length, sha256) != (release.artifact.length, release.artifact.sha256):
        yield f"{bundle.artifact}: has other bytes than the release says"
    with bundle.artifact.open("rb") as stream:
        for problem in check_artifact(stream, manifest):
            yield f"{bundle.artifact}: {problem}"
    yield from pack_problems(bundle.pack, release.deltas, manifest)


def _find_description(path: Path) -> Path:
    if not path.is_dir():
        if path.name.endswith(_SUFFIX) and path.exists():
            return path
        raise UsageError(f"{path}: is not a build; name a *{_SUFFIX} file or the directory that holds it")
    found = sorted(path.glob(f"*{_SUFFIX}"))
    if len(found) != 1:
        names = ", ".join(item.name for item in found) or "none"
        raise UsageError(f"{path}: should hold one *{_SUFFIX} file but holds {names}; name the file")
    return found[0]
