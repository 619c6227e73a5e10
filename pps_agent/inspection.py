"""Every byte of an installed release beside what was signed: contents, modes, links, and things nobody signed.

Looks and changes nothing. The tree is judged by the manifest kept with it, the manifest by the verified
metadata, as long as that still lists the release.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from pps_agent.distributed import verify_tree
from pps_agent.errors import BusyError, SiteError, TrustError
from pps_agent.frames import SignedManifest
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.store import DESCRIPTION, MANIFEST, Store
from pps_agent.tree import DIRECTORY_MODE, mode_of
from pps_wire.errors import WireError
from pps_wire.manifest import Directory, Entry, File, Link
from pps_wire.names import ReleaseId

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Flaw(Enum):
    """What is wrong with one path."""

    CONTENT = "content"
    MODE = "mode"
    KIND = "kind"
    LINK = "link"
    MISSING = "missing"
    FOREIGN = "foreign"
    """The manifest does not know it."""
    MANIFEST = "manifest"
    DESCRIPTION = "description"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as signed; ``path`` is relative to the tree, or a file beside it."""

    path: str
    flaw: Flaw
    detail: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a release turned out to be. ``note`` says what its manifest could not be compared with."""

    release: ReleaseId
    findings: tuple[Finding, ...] = ()
    files: int = 0
    size_bytes: int = 0
    note: str = ""


Advance = Callable[[int], None]
"""Called with the bytes of each file that was read."""


def inspect(store: Store, release: ReleaseId, offered: ReleaseSet | Unknown, advance: Advance) -> Inspection:
    """Read everything of one installed release. Raises: SiteError when it is not installed or changes meanwhile."""
    path = store.path(release)
    try:
        before = path.stat()
        findings, note = _inspect_signed(store, release, offered)
        try:
            manifest = store.manifest(release)
        except WireError as exc:
            unreadable = Finding(MANIFEST, Flaw.MANIFEST, str(exc))
            return Inspection(release, (unreadable, *(f for f in findings if f.flaw is not Flaw.MANIFEST)), note=note)
        if store.trees:
            findings += _inspect_distributed(store.tree(release), manifest)
        else:
            findings += inspect_tree(store.tree(release), manifest, advance)
        after = path.stat()
    except FileNotFoundError as exc:
        raise SiteError(f"{release}: is not installed; see pps-agent release list") from exc
    except OSError as exc:
        raise SiteError(f"{exc.filename or path}: {exc.strerror}; check that disk and the file's owner") from exc
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        raise SiteError(f"{release}: was replaced while it was read; verify it again")
    return Inspection(release, tuple(findings), _count_files(manifest), manifest.head.installed_bytes, note)


def inspect_tree(tree: Path, manifest: SignedManifest, advance: Advance) -> list[Finding]:
    """Compare a whole tree with its manifest. Raises: OSError when something that is there cannot be read."""
    findings: list[Finding] = []
    there = 0
    hidden: list[str] = []
    if not stat.S_ISDIR(tree.lstat().st_mode):
        return [Finding(".", Flaw.KIND, "the tree is no directory")]
    for entry in manifest.entries():
        if any(entry.p.startswith(parent) for parent in hidden):
            finding: Finding | None = Finding(entry.p, Flaw.MISSING, "is missing")
        else:
            finding = _inspect_entry(tree, entry)
            there += finding is None or finding.flaw is not Flaw.MISSING
        if finding is not None:
            findings.append(finding)
            if isinstance(entry, Directory) and finding.flaw in (Flaw.KIND, Flaw.MISSING):
                hidden.append(f"{entry.p}/")
        if isinstance(entry, File):
            advance(entry.s)
    if _count_entries(tree) != there:
        findings += _find_foreign(tree, manifest)
    return findings


def _inspect_distributed(tree: Path, manifest: SignedManifest) -> list[Finding]:
    """Read all of a tree that others distribute; its owners and modes are theirs, so the first fault is all."""
    try:
        verify_tree(tree, manifest)
    except (TrustError, BusyError) as exc:
        return [Finding(".", Flaw.CONTENT, str(exc))]
    return []


def inspect_file(path: Path, file: File) -> Finding | None:
    """Compare one file with its entry: kind, content, then mode. Raises: OSError."""
    seen = path.lstat()
    if not stat.S_ISREG(seen.st_mode):
        return Finding(file.p, Flaw.KIND, "is no regular file")
    if seen.st_size != file.s:
        return Finding(file.p, Flaw.CONTENT, f"has {seen.st_size} of {file.s} bytes")
    with os.fdopen(os.open(path, _READ), "rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.h:
            return Finding(file.p, Flaw.CONTENT, "has another sha256 than signed")
    return _judge_mode(file.p, seen, mode_of(file))


def find_offer(release: ReleaseId, offered: ReleaseSet | Unknown) -> Offer | None:
    """Give what verified metadata says of a release, if it still lists it."""
    offers = () if isinstance(offered, Unknown) else offered.offers
    return next((offer for offer in offers if offer.release.id == release), None)


def _inspect_signed(store: Store, release: ReleaseId, offered: ReleaseSet | Unknown) -> tuple[list[Finding], str]:
    """Compare manifest and description with the verified metadata."""
    offer = find_offer(release, offered)
    raw = (store.path(release) / MANIFEST).read_bytes()
    description = store.description(release)
    findings = []
    if description is None:
        findings.append(Finding(DESCRIPTION, Flaw.DESCRIPTION, "cannot be read"))
    if offer is None:
        reason = offered.reason if isinstance(offered, Unknown) else "the repository no longer lists it"
        return findings, f"its manifest could not be compared with a signature: {reason}"
    if hashlib.sha256(raw).hexdigest() != offer.manifest.sha256:
        findings.append(Finding(MANIFEST, Flaw.MANIFEST, "is not the signed one"))
    if description is not None and description != offer.release:
        findings.append(Finding(DESCRIPTION, Flaw.DESCRIPTION, "differs from the signed one"))
    return findings, ""


def _inspect_entry(tree: Path, entry: Entry) -> Finding | None:
    path = tree / entry.p
    try:
        match entry:
            case File():
                return inspect_file(path, entry)
            case Link():
                return _inspect_link(path, entry)
            case Directory():
                seen = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Finding(entry.p, Flaw.MISSING, "is missing")
    except PermissionError as exc:
        return Finding(entry.p, Flaw.MISSING, f"cannot be reached: {exc.strerror}")
    if not stat.S_ISDIR(seen.st_mode):
        return Finding(entry.p, Flaw.KIND, "is no directory")
    return _judge_mode(entry.p, seen, DIRECTORY_MODE)


def _inspect_link(path: Path, link: Link) -> Finding | None:
    if not stat.S_ISLNK(path.lstat().st_mode):
        return Finding(link.p, Flaw.KIND, "is no symbolic link")
    target = os.fspath(path.readlink())
    return None if target == link.to else Finding(link.p, Flaw.LINK, f"points to {target!r} instead of {link.to!r}")


def _judge_mode(path: str, seen: os.stat_result, wanted: int) -> Finding | None:
    mode = stat.S_IMODE(seen.st_mode)
    return None if mode == wanted else Finding(path, Flaw.MODE, f"has mode {mode:04o} instead of {wanted:04o}")


def _count_files(manifest: SignedManifest) -> int:
    return sum(1 for _ in manifest.files())


def _count_entries(tree: Path) -> int:
    return sum(1 for _ in _walk(tree, lambda _: True))


def _find_foreign(tree: Path, manifest: SignedManifest) -> list[Finding]:
    """Name what is in the tree and not in the manifest; what such a directory holds is not named."""
    known = {entry.p: isinstance(entry, Directory) for entry in manifest.entries()}
    foreign = (path for path in _walk(tree, lambda path: known.get(path, False)) if path not in known)
    return [Finding(path, Flaw.FOREIGN, "is not in the manifest") for path in sorted(foreign)]


def _walk(tree: Path, enters: Callable[[str], bool]) -> Iterator[str]:
    """Give every path below ``tree``; directories are entered where ``enters`` says so, links never."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(tree / folder))
        except PermissionError:
            continue  # its entries are told as ones that cannot be reached
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            yield path
            if entry.is_dir(follow_symlinks=False) and enters(path):
                waiting.append(path)
