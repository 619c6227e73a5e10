"""The per-file manifest of a release: JSON Lines, header first, entries sorted by path.

The manifest is the only source of names, types, modes and sizes: no archive is ever parsed.
One line each, e.g.::

    {"t":"head","v":1,"release":"grid-clients-6.1.0-x86_64-glibc2.36","entries":595,"installed_bytes":96668226}
    {"t":"d","p":"bin"}
    {"t":"f","p":"bin/xrdcp","s":145528,"h":"<sha256>","o":1842,"z":52110,"x":true}
    {"t":"l","p":"bin/voms-proxy-init","to":"voms-proxy-init2"}

``o`` and ``z`` are offset and length of the file body's own zstd frame in the artifact. A file may name
deltas, e.g. ``"d":[{"b":"<sha256 of the old content>","o":0,"z":217,"h":"<sha256 of the delta>"}]``.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from pps_wire.document import FormatVersion, decode_document
from pps_wire.errors import WireError
from pps_wire.paths import fold, lint_path, lint_text
from pps_wire.release import Count, ReleaseIdText, Sha256Text

MANIFEST_VERSION: Final = 1
MAX_ENTRIES: Final = 1_000_000
MAX_LINE_BYTES: Final = 32_768
MAX_LINK_CHAIN: Final = 40
"""As many links as Linux follows before ELOOP. Source: path_resolution(7)."""
MAX_FILE_BYTES: Final = 8 * 1024**3
MAX_WINDOW_BYTES: Final = 8 * 1024**2
"""Largest zstd window a frame may ask for: bounds the memory of every reader."""

_EMPTY: Final = hashlib.sha256().hexdigest()
_MAX_SUSPECTS: Final = 1000


class Head(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="head"):
    """First line: which release, how many entries follow, how many bytes they hold installed."""

    v: FormatVersion = MANIFEST_VERSION
    release: ReleaseIdText
    entries: Annotated[int, msgspec.Meta(ge=0, le=MAX_ENTRIES)]
    installed_bytes: Count


class Directory(msgspec.Struct, frozen=True, tag_field="t", tag="d"):
    """A directory."""

    p: str


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A way to a file from content with sha256 ``b``: ``z`` bytes with sha256 ``h`` at ``o`` of the pack."""

    b: Sha256Text
    o: Count
    z: Count
    h: Sha256Text


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="f"):
    """A regular file: ``s`` bytes with sha256 ``h``; ``x`` is the executable bit, all that is kept of the mode.

    ``d`` are shorter ways to it than its frame; one that cannot be gone costs nothing but itself.
    """

    p: str
    s: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    h: Sha256Text
    o: Count
    z: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES + 1024**2)]
    x: bool = False
    d: tuple[Delta, ...] = ()


class Link(msgspec.Struct, frozen=True, tag_field="t", tag="l"):
    """A symbolic link to ``to``, relative and inside the tree."""

    p: str
    to: str


Entry = Directory | File | Link


class Manifest(msgspec.Struct, frozen=True):
    """A whole manifest in memory; ``entries`` are linted and sorted by path."""

    head: Head
    entries: tuple[Entry, ...]

    def files(self) -> Iterator[File]:
        """Give the regular files in path order."""
        return (entry for entry in self.entries if isinstance(entry, File))


_DECODER: Final[msgspec.json.Decoder[Head | Entry]] = msgspec.json.Decoder(Head | Entry)
_ENCODER = msgspec.json.Encoder()


def parse_manifest(lines: Iterable[bytes]) -> Manifest:
    """Read a whole manifest into memory, linted. Raises: WireError and nothing else, for any lines."""
    head, entries = read_manifest(lines)
    manifest = Manifest(head, tuple(entries))
    lint_manifest(manifest)
    return manifest


def read_manifest(lines: Iterable[bytes]) -> tuple[Head, Iterator[Entry]]:
    """Read the head of a manifest now and its entries as they are asked for, nothing kept; ``Lint`` judges them.

    The lines, e.g. those of a bounded decompressing reader, are untrusted. Raises: WireError and nothing
    else, for any lines, also out of the iterator.
    """
    numbered = enumerate(lines, start=1)
    for number, line in numbered:
        head = _decode_line(line, number)
        if not isinstance(head, Head):
            break
        return head, _read_entries(head, numbered)
    else:
        raise WireError("manifest", "is empty")
    raise _misplaced_head(number)


def render_manifest(manifest: Manifest) -> Iterator[bytes]:
    """Give the manifest's lines, each ended by a newline; equal manifests give equal bytes."""
    for value in (manifest.head, *manifest.entries):
        yield _ENCODER.encode(value) + b"\n"


def lint_manifest(manifest: Manifest, *, names_only: bool = False) -> None:
    """Refuse every manifest that could write outside its tree or mean two things on two systems.

    The publisher calls it; ``names_only`` while frames and hashes are not known yet. The agent does the
    same with ``Lint`` over a stream. Raises: WireError naming the first entry at fault.
    """
    lint = Lint(manifest.head, names_only=names_only)
    for entry in manifest.entries:
        lint.add(entry)
    lint.finish(manifest.entries)


class Lint:
    """Judges a manifest entry by entry and keeps little, so that trees of any size pass in bounded memory.

    Directories and links are kept by name, of each path only a hash of 8 bytes: equal folded paths
    always have equal hashes, so no collision is overlooked, and what looks like one is looked at again.
    Raises: WireError naming the entry at fault, in every method.
    """

    def __init__(self, head: Head, length: int | None = None, *, names_only: bool = False) -> None:
        """``length`` is the artifact's signed one, where it is known: no frame may lie behind it."""
        self._head = head
        self._length = length
        self._names_only = names_only
        self._entries = self._size_bytes = self._position = 0
        self._previous = ""
        self._directories: set[str] = set()
        self._links: dict[str, str] = {}
        self._folded: set[int] = set()
        self._suspects: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        """Judge the next entry by itself and those before it."""
        path = entry.p
        lint_path(path)
        if path <= self._previous:
            raise WireError(path, "entries must be sorted by path and each path stand once")
        self._previous = path
        parent = path.rpartition("/")[0]
        if parent and parent not in self._directories:
            raise WireError(path, f"its parent {parent!r} is not listed before it as a directory")
        self._note_fold(path)
        match entry:
            case File():
                self._add_file(entry)
            case Directory():
                self._directories.add(path)
            case Link():
                self._links[path] = entry.to
        self._entries += 1

    def finish(self, again: Iterable[Entry]) -> None:
        """Judge the whole once all entries were added; ``again`` gives them once more and is rarely run through."""
        if self._entries != self._head.entries:
            raise WireError("manifest", f"has {self._entries} entries where the head announces {self._head.entries}")
        if self._size_bytes != self._head.installed_bytes:
            raise WireError(
                "manifest",
                f"files sum to {self._size_bytes} bytes where the head announces {self._head.installed_bytes}",
            )
        sought = self._follow_links()
        if not sought and not self._suspects:
            return
        for entry in again:
            sought.pop(entry.p, None)
            if self._suspects and (twin := self._suspects.get(fold(entry.p), entry.p)) != entry.p:
                raise WireError(twin, f"collides with {entry.p!r} where case or Unicode form is not kept")
        for link in sought.values():
            raise WireError(link, f"its target {self._links[link]!r} is not in the tree")

    def _add_file(self, file: File) -> None:
        self._size_bytes += file.s
        if self._names_only:
            return
        if not file.s and file.h != _EMPTY:
            raise WireError(file.p, "is empty but has not the sha256 of nothing")
        if file.s and not file.z:
            raise WireError(file.p, f"holds {file.s} bytes but its frame none")
        if file.o < self._position:
            raise WireError(file.p, f"its frame at {file.o} overlaps the one before, or stands before it")
        self._position = file.o + file.z
        if self._length is not None and self._position > self._length:
            raise WireError(file.p, f"its frame ends at {self._position}, behind the artifact's {self._length} bytes")

    def _note_fold(self, path: str) -> None:
        folded = fold(path)
        before = len(self._folded)
        self._folded.add(hash(folded))
        if len(self._folded) == before:
            self._suspects[folded] = path
            if len(self._suspects) > _MAX_SUSPECTS:
                raise WireError(path, "collides, as many others do, where case or Unicode form is not kept")

    def _follow_links(self) -> dict[str, str]:
        """Refuse links that leave the tree, run in circles or too far; give the rest of their ends, each with a link.

        What is neither directory nor link at such an end must be a file, which remains to be seen.
        """
        reached = {path: self._resolve(path, to) for path, to in self._links.items()}
        sought = {}
        for link in reached:
            end = reached[link]
            for _ in range(MAX_LINK_CHAIN - 1):
                if end not in reached:
                    break
                end = reached[end]
            if end in reached:
                raise WireError(
                    link,
                    f"its target {self._links[link]!r} leads in a circle or over more than {MAX_LINK_CHAIN} links",
                )
            if end and end not in self._directories:
                sought[end] = link
        return sought

    def _resolve(self, link: str, to: str) -> str:
        """Give the path in the tree that a link's target names; empty for the tree itself."""
        lint_text(to)
        if not to or to.startswith("/"):
            raise WireError(link, f"its target {to!r} must be relative")
        reached = posixpath.dirname(link)
        for name in to.split("/"):
            if name == "":
                raise WireError(link, f"its target {to!r} has an empty component")
            if name == ".":
                continue
            if reached and reached not in self._directories:
                raise WireError(link, f"its target {to!r} passes through {reached!r}, which is no directory")
            if name == ".." and not reached:
                raise WireError(link, f"its target {to!r} leaves the tree")
            reached = posixpath.dirname(reached) if name == ".." else posixpath.join(reached, name)
        return reached


def _read_entries(head: Head, numbered: Iterator[tuple[int, bytes]]) -> Iterator[Entry]:
    count = 0
    for number, line in numbered:
        entry = _decode_line(line, number)
        if isinstance(entry, Head):
            raise _misplaced_head(number)
        if count == head.entries:
            raise WireError(f"manifest line {number}", "more entries than the head announces")
        count += 1
        yield entry
    if count != head.entries:
        raise WireError("manifest", f"has {count} entries where the head announces {head.entries}")


def _decode_line(line: bytes, number: int) -> Head | Entry:
    if len(line) > MAX_LINE_BYTES:
        raise WireError(f"manifest line {number}", f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        # the quick way for the many lines that have no version to be asked for
        if not isinstance(value := _DECODER.decode(line), Head):
            return value
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return decode_document(line, _DECODER, f"manifest line {number}", MANIFEST_VERSION)


def _misplaced_head(number: int) -> WireError:
    return WireError(f"manifest line {number}", "the first line, and only it, must be the head")
