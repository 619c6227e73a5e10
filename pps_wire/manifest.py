"""The per-file manifest of a release: JSON Lines, header first, entries sorted by path.

The manifest is the only source of names, types, modes and sizes: no archive is ever parsed.
One line each, e.g.::

    {"t":"head","v":1,"release":"grid-clients-6.1.0-x86_64-glibc2.36","entries":595,"installed_bytes":96668226}
    {"t":"d","p":"bin"}
    {"t":"f","p":"bin/xrdcp","s":145528,"h":"<sha256>","o":1842,"z":52110,"x":true}
    {"t":"l","p":"bin/voms-proxy-init","to":"voms-proxy-init2"}

``o`` and ``z`` are offset and length of the file body's own zstd frame in the artifact.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from pps_wire.document import FormatVersion, decode_document
from pps_wire.errors import WireError
from pps_wire.release import Count, ReleaseIdText, Sha256Text

MANIFEST_VERSION: Final = 1
MAX_ENTRIES: Final = 1_000_000
MAX_LINE_BYTES: Final = 32_768
MAX_PATH_BYTES: Final = 4095
"""Linux counts the final NUL in its PATH_MAX of 4096."""
MAX_NAME_BYTES: Final = 255
MAX_LINK_CHAIN: Final = 40
"""As many links as Linux follows before ELOOP. Source: path_resolution(7)."""
MAX_FILE_BYTES: Final = 8 * 1024**3
MAX_WINDOW_BYTES: Final = 8 * 1024**2
"""Largest zstd window a frame may ask for: bounds the memory of every reader."""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="head"):
    """First line: which release, how many entries follow, how many bytes they hold installed."""

    v: FormatVersion = MANIFEST_VERSION
    release: ReleaseIdText
    entries: Annotated[int, msgspec.Meta(ge=0, le=MAX_ENTRIES)]
    installed_bytes: Count


class Directory(msgspec.Struct, frozen=True, tag_field="t", tag="d"):
    """A directory."""

    p: str


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag="f"):
    """A regular file: ``s`` bytes with sha256 ``h``; ``x`` is the executable bit, all that is kept of the mode."""

    p: str
    s: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    h: Sha256Text
    o: Count
    z: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES + 1024**2)]
    x: bool = False


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
_REFUSED_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cn", "Cs", "Zl", "Zp"))
# Default ignorable characters outside category Cf: file systems that fold case pass over them.
# Source: Unicode, DerivedCoreProperties.txt.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def parse_manifest(lines: Iterable[bytes]) -> Manifest:
    """Read a manifest from its lines, e.g. from a bounded decompressing reader.

    The lines are untrusted until the caller has checked the target's hash; they are linted all the
    same. Raises: WireError and nothing else, for any lines.
    """
    head: Head | None = None
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        where = f"manifest line {number}"
        value = _decode_line(line, where)
        if isinstance(value, Head) != (head is None):
            raise WireError(where, "the first line, and only it, must be the head")
        if isinstance(value, Head):
            head = value
            continue
        if head is None or len(entries) == head.entries:
            raise WireError(where, "more entries than the head announces")
        entries.append(value)
    if head is None:
        raise WireError("manifest", "is empty")
    if len(entries) != head.entries:
        raise WireError("manifest", f"has {len(entries)} entries where the head announces {head.entries}")
    manifest = Manifest(head, tuple(entries))
    lint_manifest(manifest)
    return manifest


def render_manifest(manifest: Manifest) -> Iterator[bytes]:
    """Give the manifest's lines, each ended by a newline; equal manifests give equal bytes."""
    for value in (manifest.head, *manifest.entries):
        yield _ENCODER.encode(value) + b"\n"


def lint_manifest(manifest: Manifest) -> None:
    """Refuse every manifest that could write outside its tree or mean two things on two systems.

    Publisher and agent both call it. Raises: WireError naming the first entry at fault.
    """
    kinds: dict[str, Entry] = {}
    folded: dict[str, str] = {}
    total = 0
    previous = ""
    for entry in manifest.entries:
        _lint_path(entry.p)
        if entry.p <= previous:
            raise WireError(entry.p, "entries must be sorted by path and each path stand once")
        previous = entry.p
        _lint_parent(entry.p, kinds)
        twin = folded.setdefault(_fold(entry.p), entry.p)
        if twin != entry.p:
            raise WireError(entry.p, f"collides with {twin!r} where case or Unicode form is not kept")
        kinds[entry.p] = entry
        if isinstance(entry, File):
            total += entry.s
    for entry in manifest.entries:
        if isinstance(entry, Link):
            _lint_chain(entry, kinds)
    if total != manifest.head.installed_bytes:
        raise WireError(
            "manifest", f"files sum to {total} bytes where the head announces {manifest.head.installed_bytes}"
        )


def _decode_line(line: bytes, where: str) -> Head | Entry:
    if len(line) > MAX_LINE_BYTES:
        raise WireError(where, f"is longer than {MAX_LINE_BYTES} bytes")
    return decode_document(line, _DECODER, where, MANIFEST_VERSION)


def _lint_path(path: str) -> None:
    if not path or path.startswith("/") or path.endswith("/"):
        raise WireError(path or "path", "must be relative, not empty, without a final slash")
    _lint_text(path)
    for name in path.split("/"):
        if name in ("", ".", ".."):
            raise WireError(path, "has an empty, '.' or '..' component")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise WireError(path, f"has a component of more than {MAX_NAME_BYTES} bytes")


def _lint_text(text: str) -> None:
    if text.isascii() and text.isprintable():
        pass
    elif _INVISIBLE.search(text) or any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in text):
        raise WireError(ascii(text[:80]), "holds control, invisible, surrogate or unassigned characters")
    if "\\" in text:
        raise WireError(text, "holds a backslash")
    if unicodedata.normalize("NFC", text) != text:
        raise WireError(text, "is not in Unicode form NFC")
    if len(text.encode()) > MAX_PATH_BYTES:
        raise WireError(text[:80], f"is longer than {MAX_PATH_BYTES} bytes")


def _lint_parent(path: str, kinds: dict[str, Entry]) -> None:
    parent = posixpath.dirname(path)
    if parent and not isinstance(kinds.get(parent), Directory):
        raise WireError(path, f"its parent {parent!r} is not listed before it as a directory")


def _fold(path: str) -> str:
    """Give what paths have in common where case and Unicode form are not kept (NFKC_Casefold, Unicode 3.13)."""
    if path.isascii():
        return path.lower()
    folded = unicodedata.normalize("NFKC", path).casefold()
    while (again := unicodedata.normalize("NFKC", folded).casefold()) != folded:
        folded = again
    return folded


def _lint_chain(link: Link, kinds: dict[str, Entry]) -> None:
    """Refuse a link that leads nowhere, outside, in a circle, or over more links than a system follows."""
    entry: Entry | None = link
    for _ in range(MAX_LINK_CHAIN):
        if not isinstance(entry, Link):
            return
        entry = kinds.get(_resolve(entry, kinds))
    if isinstance(entry, Link):
        raise WireError(link.p, f"its target {link.to!r} leads in a circle or over more than {MAX_LINK_CHAIN} links")


def _resolve(link: Link, kinds: dict[str, Entry]) -> str:
    """Give the path in the tree that a link's target names; empty for the tree itself."""
    _lint_text(link.to)
    if not link.to or link.to.startswith("/"):
        raise WireError(link.p, f"its target {link.to!r} must be relative")
    if any(name == "" for name in link.to.split("/")):
        raise WireError(link.p, f"its target {link.to!r} has an empty component")
    reached = posixpath.dirname(link.p)
    for name in link.to.split("/"):
        if name == ".":
            continue
        if reached and not isinstance(kinds.get(reached), Directory):
            raise WireError(link.p, f"its target {link.to!r} passes through {reached!r}, which is no directory")
        reached = _step(reached, name, link)
    if reached and reached not in kinds:
        raise WireError(link.p, f"its target {link.to!r} is not in the tree")
    return reached


def _step(reached: str, name: str, link: Link) -> str:
    if name == "..":
        if not reached:
            raise WireError(link.p, f"its target {link.to!r} leaves the tree")
        return posixpath.dirname(reached)
    return posixpath.join(reached, name)
