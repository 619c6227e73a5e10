"""The artifact: an ordinary ``.tar.zst`` in which each file's body is a zstd frame of its own.

``tar --zstd -xf`` of a person gives the very tree the agent lands: files 0444 or 0555, directories
0755, owner 0, one fixed time, no leading directory. Between the bodies lie the frames of "everything
else": padding of the body before and headers of the entries up to the next body. GNU headers are
used, not pax ones, because they keep names as bytes whatever the reader's locale.

The same tree gives the same bytes on any day, under any path, umask or locale, with the same release
of libzstd. Source: RFC 8878 (frames may be concatenated); the idea is zstd:chunked of containers/storage.
"""

import hashlib
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from pps_publisher.errors import PublishError, TrustError
from pps_publisher.lint import Kind, Node, Tree
from pps_wire.manifest import MAX_FILE_BYTES, Directory, Entry, File, Head, Link, Manifest, lint_manifest
from pps_wire.names import ReleaseId
from pps_wire.release import Artifact

LEVEL: Final = 12
THREADS: Final = 2
WINDOW_LOG: Final = 22
"""4 MiB: half of what readers allow."""
MTIME: Final = 1_577_836_800
"""The time of every entry, 2020-01-01T00:00:00Z: builds must not depend on the day."""
FILE_MODE: Final = 0o444
PROGRAM_MODE: Final = 0o555
DIRECTORY_MODE: Final = 0o755
LINK_MODE: Final = 0o777

_BLOCK: Final = tarfile.BLOCKSIZE
_READ_BYTES: Final = 1024 * 1024
_CHECK_BYTES: Final = 16 * 1024
"""Read at once from an artifact that is not trusted yet: bounds what one step can decompress to."""
_AHEAD: Final = 4 * THREADS
"""Compressed bodies that may wait in memory for their turn."""


@dataclass(frozen=True, slots=True)
class _Body:
    """A compressed file body, ready to be written."""

    node: Node
    sha256: str
    pieces: tuple[bytes, ...]
    length: int


def write_artifact(tree: Tree, release: ReleaseId, stream: BinaryIO) -> tuple[Manifest, Artifact]:
    """Write the artifact of ``tree`` and give its manifest and description.

    Two threads compress, the order of the bytes is that of the paths. Raises: WireError when a name
    or link may not be published; PublishError when a file changes while it is read; OSError.
    """
    lint_names(tree, release)
    sink = _Sink(stream)
    entries: list[Entry] = []
    with ThreadPoolExecutor(THREADS) as pool:
        bodies = _compress_in_order(pool, tree.files())
        gap = bytearray()
        for node in tree.nodes:
            match node.kind:
                case Kind.FILE:
                    body = next(bodies)
                    file = File(p=node.path, s=node.size_bytes, h=body.sha256, o=0, z=body.length, x=node.executable)
                    sink.write(compress(bytes(gap + render_header(file))))
                    entries.append(File(p=file.p, s=file.s, h=file.h, o=sink.length, z=file.z, x=file.x))
                    for piece in body.pieces:
                        sink.write(piece)
                    gap = bytearray(-node.size_bytes % _BLOCK)
                case Kind.DIRECTORY | Kind.LINK:
                    entries.append(_plain_entry(node))
                    gap += render_header(entries[-1])
                case Kind.OTHER:
                    raise AssertionError(f"{node.path}: special files are dropped before")
        sink.write(compress(bytes(gap) + bytes(2 * _BLOCK)))
    manifest = Manifest(_head(tree, release), tuple(entries))
    lint_manifest(manifest)
    artifact = Artifact(
        path=artifact_path(release),
        length=sink.length,
        sha256=sink.digest.hexdigest(),
        installed_bytes=manifest.head.installed_bytes,
        files=len(tree.files()),
    )
    return manifest, artifact


def lint_names(tree: Tree, release: ReleaseId) -> None:
    """Refuse names, collisions and links that sites would refuse, before time is spent. Raises: WireError."""
    entries = tuple(
        File(p=node.path, s=node.size_bytes, h="0" * 64, o=0, z=0) if node.kind is Kind.FILE else _plain_entry(node)
        for node in tree.nodes
    )
    lint_manifest(Manifest(_head(tree, release), entries), names_only=True)


def artifact_path(release: ReleaseId) -> str:
    """Give the artifact's path below the served directory."""
    return f"artifacts/{release}.tar.zst"


def render_header(entry: Entry) -> bytes:
    """Give the tar header blocks of one entry; they follow from the manifest alone."""
    header = tarfile.TarInfo(entry.p)
    header.mtime = MTIME
    match entry:
        case File():
            header.size = entry.s
            header.mode = PROGRAM_MODE if entry.x else FILE_MODE
        case Directory():
            header.type = tarfile.DIRTYPE
            header.mode = DIRECTORY_MODE
        case Link():
            header.type = tarfile.SYMTYPE
            header.mode = LINK_MODE
            header.linkname = entry.to
    return header.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def compress(content: bytes, level: int = LEVEL, window_log: int = WINDOW_LOG) -> bytes:
    """Give one zstd frame that states its content's size; readers keep a window of 2**``window_log`` bytes."""
    return b"".join(_compress_pieces(iter((content,)), len(content), level, window_log))


def check_artifact(stream: BinaryIO, manifest: Manifest) -> Iterator[str]:
    """Give every way in which an artifact differs from its manifest; nothing means they agree.

    Frames are decoded one by one as the agent does, and the rest is compared with the headers that
    the manifest implies, so that a person who unpacks the archive gets the same tree. Raises: OSError.
    """
    gap = bytearray()
    position = 0
    for entry in manifest.entries:
        gap += render_header(entry)
        if isinstance(entry, File):
            if not position < entry.o:
                yield f"{entry.p}: its frame at {entry.o} overlaps the one before"
                return
            yield from _check_gap(stream, position, entry.o - position, bytes(gap), entry.p)
            yield from _check_body(stream, entry)
            position = entry.o + entry.z
            gap = bytearray(-entry.s % _BLOCK)
    stream.seek(0, 2)
    rest = stream.tell() - position
    yield from _check_gap(stream, position, rest, bytes(gap) + bytes(2 * _BLOCK), "end of archive")


class _Sink:
    """Counts and hashes what passes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.length = 0

    def write(self, content: bytes) -> None:
        self._stream.write(content)
        self.digest.update(content)
        self.length += len(content)


def _head(tree: Tree, release: ReleaseId) -> Head:
    return Head(release=release, entries=len(tree.nodes), installed_bytes=sum(node.size_bytes for node in tree.files()))


def _plain_entry(node: Node) -> Directory | Link:
    return Link(node.path, node.to) if node.kind is Kind.LINK else Directory(node.path)


def _compress_in_order(pool: ThreadPoolExecutor, files: Iterable[Node]) -> Iterator[_Body]:
    waiting: deque[Future[_Body]] = deque()
    for node in files:
        waiting.append(pool.submit(_compress_file, node))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _compress_file(node: Node) -> _Body:
    digest = hashlib.sha256()

    def read() -> Iterator[bytes]:
        with node.source.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
                yield block

    try:
        pieces = tuple(_compress_pieces(read(), node.size_bytes, LEVEL))
    except zstandard.ZstdError as exc:
        raise PublishError(f"{node.source}: changed while it was read; build from a tree at rest") from exc
    return _Body(node, digest.hexdigest(), pieces, sum(len(piece) for piece in pieces))


def _compress_pieces(
    blocks: Iterator[bytes], size_bytes: int, level: int, window_log: int = WINDOW_LOG
) -> Iterator[bytes]:
    if size_bytes > MAX_FILE_BYTES:
        raise PublishError(f"a file of {size_bytes} bytes is larger than {MAX_FILE_BYTES}: leave it out of the tree")
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=size_bytes, window_log=_window_log(size_bytes, window_log), write_content_size=True
    )
    worker = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size_bytes)
    for block in blocks:
        yield worker.compress(block)
    yield worker.flush()


def _window_log(size_bytes: int, most: int) -> int:
    return max(10, min(most, (size_bytes - 1).bit_length()))


def _check_gap(stream: BinaryIO, offset: int, length: int, expected: bytes, where: str) -> Iterator[str]:
    stream.seek(offset)
    frame = stream.read(length)
    try:
        # one shot: the output is bounded by the size that the frame states, which is checked first
        told = zstandard.frame_content_size(frame) if frame else -1
        decoder = zstandard.ZstdDecompressor(max_window_size=2**WINDOW_LOG)
        content = decoder.decompress(frame, allow_extra_data=False) if told == len(expected) else b""
    except zstandard.ZstdError as exc:
        yield f"{where}: the frame before it is damaged ({exc})"
        return
    if content != expected:
        yield f"{where}: the archive's header does not say what the manifest says"


def _check_body(stream: BinaryIO, entry: File, kept: bytearray | None = None) -> Iterator[str]:
    """Give what is wrong with one file's frame; what it holds goes into ``kept``, at most its size and one step."""
    stream.seek(entry.o)
    decoder = zstandard.ZstdDecompressor(max_window_size=2**WINDOW_LOG).decompressobj()
    digest = hashlib.sha256()
    size = 0
    left = entry.z
    try:
        while left and (block := stream.read(min(left, _CHECK_BYTES))):
            left -= len(block)
            content = decoder.decompress(block)
            digest.update(content)
            size += len(content)
            if kept is not None and size <= entry.s:
                kept += content
    except zstandard.ZstdError as exc:
        yield f"{entry.p}: its frame is damaged ({exc})"
        return
    if left or not decoder.eof or decoder.unused_data:
        yield f"{entry.p}: its frame does not end where the manifest says"
    elif size != entry.s or digest.hexdigest() != entry.h:
        yield f"{entry.p}: its content is not what the manifest says"


def read_body(stream: BinaryIO, entry: File) -> bytes:
    """Give one file's content out of an artifact. Raises: TrustError when it is not what the manifest says; OSError."""
    content = bytearray()
    for problem in _check_body(stream, entry, content):
        raise TrustError(f"{getattr(stream, 'name', 'artifact')}: {problem}; see 'pps-publish verify'")
    return bytes(content)


def hash_artifact(path: Path) -> tuple[int, str]:
    """Give length and sha256 of an artifact on disk. Raises: OSError."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest
