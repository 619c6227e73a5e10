"""Trees that others distribute read-only (CVMFS, an NFS export): looked at, hashed, never written.

The signed manifest is the judge, as for an install, but owners and modes are the distributor's: of a mode only
the executable bit counts. A tree was hashed once; that it still is the same is told by each entry's size,
mtime, ctime and, where CVMFS gives it, its own hash of the content.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.errors import BusyError, SiteError, TrustError
from pps_agent.frames import SignedManifest
from pps_wire.manifest import Directory, Entry, File, Link
from pps_wire.release import Release

_CATALOGUES: Final = frozenset({".cvmfscatalog", ".cvmfsdirtab", ".cvmfsautocatalog"})
"""What CVMFS itself wants to see in a tree: marks of its nested catalogues."""
_HASH: Final = "user.hash"
"""CVMFS's extended attribute: the content's hash, which is also its address. Source: CVMFS documentation."""
_NO_ATTRIBUTE: Final = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Survey:
    """What a walk over a tree gave: how many entries are missing, the first difference, what tells a change."""

    missing: int
    fault: str
    fingerprint: str


def tree_path(trees: str, release: Release) -> Path:
    """Give where a release's tree appears; ``trees`` is the setting ``store.trees``. Pure."""
    parts = {"release": release.id, "component": release.component, "version": release.version}
    parts["platform"] = release.platform
    for name, text in parts.items():
        trees = trees.replace(f"{{{name}}}", text)
    return Path(trees)


def is_there(trees: str, release: Release) -> bool:
    """Tell whether a release's tree has appeared. Raises: SiteError when that cannot be known.

    A base that is missing or empty is a file system that is not mounted: it tells nothing of its trees.
    """
    base = Path(trees.partition("{")[0].rpartition("/")[0] or "/")
    target = tree_path(trees, release)
    try:
        if target.is_dir():
            return True
        with os.scandir(base) as entries:
            mounted = next(entries, None) is not None
    except OSError as exc:
        raise SiteError(f"{exc.filename}: {exc.strerror}; check that it is mounted, see store.trees") from exc
    if not mounted:
        raise SiteError(f"{base}: is empty; check that it is mounted, see store.trees")
    return False


def survey(root: Path, manifest: SignedManifest) -> Survey:
    """Compare a tree with its manifest by lstat, names beyond the manifest's included. Raises: OSError."""
    base = os.fspath(root)
    digest = hashlib.sha256()
    missing, fault = 0, ""
    for entry in manifest.entries():
        path = f"{base}/{entry.p}"
        try:
            seen = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            missing += 1
            continue
        fault = fault or _difference(path, entry, seen)
        facts = (entry.p, seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, _attribute(path, entry))
        digest.update(repr(facts).encode())
    fault = fault or next(_find_strangers(base, manifest), "")
    return Survey(missing, fault, digest.hexdigest())


def find_change(root: Path, manifest: SignedManifest, fingerprint: str) -> str:
    """Give what is not as it was when the tree was verified; empty when all is. Raises: OSError."""
    seen = survey(root, manifest)
    if seen.missing:
        return f"{root}: {seen.missing} entries are missing"
    if seen.fault:
        return seen.fault
    return "" if seen.fingerprint == fingerprint else f"{root}: changed since it was verified"


def verify_tree(root: Path, manifest: SignedManifest) -> str:
    """Read every byte of a tree; give the fingerprint of what proved to be the manifest's.

    Raises: BusyError while it is incomplete or changing; TrustError when it differs; OSError.
    """
    before = survey(root, manifest)
    if before.fault:
        raise TrustError(f"{root} is not what was signed: {before.fault}; tell whoever distributes it")
    if before.missing:
        raise BusyError(f"{root}: {before.missing} entries are not there yet; the next round looks again")
    for file in manifest.files():
        path = f"{os.fspath(root)}/{file.p}"
        if _hash(path) != file.h:
            raise TrustError(f"{root} is not what was signed: {file.p} has other content; tell whoever distributes it")
    if survey(root, manifest) != before:
        raise BusyError(f"{root}: changed while it was read; the next round looks again")
    return before.fingerprint


def _difference(path: str, entry: Entry, seen: os.stat_result) -> str:
    match entry:
        case Directory():
            return "" if stat.S_ISDIR(seen.st_mode) else f"{entry.p}: is no directory"
        case Link():
            if not stat.S_ISLNK(seen.st_mode):
                return f"{entry.p}: is no symbolic link"
            to = os.readlink(path)  # noqa: PTH115 - beside its lstat
            return "" if to == entry.to else f"{entry.p}: does not point to {entry.to!r}"
        case File():
            if not stat.S_ISREG(seen.st_mode):
                return f"{entry.p}: is no regular file"
            if seen.st_size != entry.s:
                return f"{entry.p}: has {seen.st_size} of {entry.s} bytes"
            if seen.st_mode & (stat.S_ISUID | stat.S_ISGID):
                return f"{entry.p}: gives rights (setuid or setgid)"
            if bool(seen.st_mode & 0o111) != entry.x:
                return f"{entry.p}: is {'not ' if entry.x else ''}executable"
            return ""


def _attribute(path: str, entry: Entry) -> bytes:
    if not isinstance(entry, File):
        return b""
    try:
        return os.getxattr(path, _HASH, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTE:
            return b""
        raise


def _find_strangers(base: str, manifest: SignedManifest) -> Iterator[str]:
    """Give what the manifest does not name: a program among them would be found by its users' PATH."""
    known = {entry.p for entry in manifest.entries()}
    for folder in ("", *(f"{entry.p}/" for entry in manifest.directories())):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # counted as missing
            for name in sorted(os.listdir(f"{base}/{folder}")):  # noqa: PTH208 - names are all we want
                if f"{folder}{name}" not in known and name not in _CATALOGUES:
                    yield f"{folder}{name}: is not in the manifest"


def _hash(path: str) -> str:
    with os.fdopen(os.open(path, _OPEN), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
