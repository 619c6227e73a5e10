"""One probe's directory: read as it is, refused when somebody else could change it.

A probe is ``probe.toml`` and ``run``, both plain files of the directory itself. ``Mark`` is how they looked:
as long as it stays the same nobody wrote them, since a file's change time cannot be set back.
"""

import errno
import grp
import hashlib
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.definition_file import MAX_METADATA_BYTES, parse_definition, parse_names

METADATA: Final = "probe.toml"
PROGRAM: Final = "run"
Mark = bytes
"""What stat(2) says of a directory and its two files; empty when they cannot be looked at. Kept for each probe."""

_MARK: Final = struct.Struct("=" + 3 * "QQq")
_MAX_PROGRAM_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one probe's directory gave: a definition, or the faults that speak against it.

    ``names`` are the name and aliases it claims, as far as they can be read.
    """

    path: Path
    mark: Mark
    definition: ProbeDefinition | None
    names: tuple[str, ...]
    faults: tuple[str, ...] = ()
    metadata_sha256: str = ""
    program_sha256: str = ""


def read_probe(path: Path, *, signed: bool = False) -> Read:
    """Read one probe's directory. ``signed``: its bytes are judged by a signature, not by who may write them."""
    faults: list[str] = []
    metadata, run = path / METADATA, path / PROGRAM
    mark = mark_of(path)
    content = program = b""
    try:
        faults.extend(filter(None, map(_link_fault, (path, metadata, run))))
        if not signed:
            faults.extend(filter(None, map(foreign_hand, (path, metadata, run))))
        content = _read_bytes(metadata, MAX_METADATA_BYTES)
        program = _read_bytes(run, _MAX_PROGRAM_BYTES)
        if not run.stat().st_mode & 0o111:
            faults.append(f"{run}: is not executable: chmod 755 it")
    except OSError as exc:
        faults.append(f"{exc.filename}: {exc.strerror}: a probe needs a readable probe.toml and an executable run")
        return Read(path, mark, None, parse_names(content), tuple(faults))
    if len(program) > _MAX_PROGRAM_BYTES:
        faults.append(f"{run}: larger than {_MAX_PROGRAM_BYTES} bytes")
    definition = parse_definition(content, path, faults)
    names = (definition.name, *definition.aliases) if definition else parse_names(content)
    if definition is not None:
        definition = replace(definition, digest=digest_of(content, program)) if not faults else None
    sums = (hashlib.sha256(content).hexdigest(), hashlib.sha256(program).hexdigest())
    return Read(path, mark, definition, names, tuple(faults), *sums)


def mark_of(path: Path) -> Mark:
    """Look at a probe's directory and its two files without reading them: a change of any kind shows in the ctime."""
    base = str(path)
    try:
        seen = os.lstat(base), os.lstat(f"{base}/{METADATA}"), os.lstat(f"{base}/{PROGRAM}")
    except OSError:
        return b""
    return _MARK.pack(*[value for status in seen for value in (status.st_dev, status.st_ino, status.st_ctime_ns)])


def digest_of(metadata: bytes, program: bytes) -> str:
    """Give the sha256 (hex) by which a probe's two files are known."""
    return hashlib.sha256(hashlib.sha256(metadata).digest() + hashlib.sha256(program).digest()).hexdigest()


def foreign_hand(path: Path) -> str:
    """Tell who else could change a file or directory; empty when nobody can. Raises: OSError."""
    status = path.stat()
    if fault := _owner_fault(path, status):
        return fault
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private_group(status)):
        return f"{path}: others can write it: chmod go-w it, and check what it does now"
    return ""


def find_unsafe_way(path: Path) -> Iterator[str]:
    """Give each directory above ``path`` in which others could put another one in its place. Raises: OSError."""
    for directory in sorted({*path.absolute().parents, *path.resolve().parents}):
        status = directory.stat()
        if fault := _owner_fault(directory, status):
            yield fault
        is_open = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _is_private_group(status))
        # In a sticky directory as /tmp nobody renames what is another's.
        if is_open and not status.st_mode & stat.S_ISVTX:
            yield f"{directory}: others can write it, and replace {path.name} in it: chmod go-w it"


def _owner_fault(path: Path, status: os.stat_result) -> str:
    # Whoever owns this program's own code need not change a probe to make the agent do something else.
    if status.st_uid not in (0, os.geteuid(), Path(__file__).stat().st_uid):
        return f"{path}: belongs to user {status.st_uid}: chown it to root or to the agent's user"
    return ""


def _link_fault(path: Path) -> str:
    if stat.S_ISLNK(path.lstat().st_mode):
        return f"{path}: is a symbolic link: put the file itself there, so that nothing else decides what runs"
    return ""


def _read_bytes(path: Path, limit: int) -> bytes:
    # Without blocking: a pipe in the file's place would never answer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        return stream.read(limit + 1)


def _is_private_group(status: os.stat_result) -> bool:
    """Tell whether the group is its owner's alone (accounts with a group each, umask 002)."""
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and not set(group.gr_mem) - {owner.pw_name}
