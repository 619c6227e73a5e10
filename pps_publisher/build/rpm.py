"""A tree from RPM packages: read member by member, never installed, so that EL sites get what runs on EL.

The header, which the signature covers, is the only source of names, types, modes, sizes and link
targets; the payload gives contents, each checked against the header's digest. Scriptlets do not run.
"""

import hashlib
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from pps_publisher.build.cpio import Member, read_member
from pps_publisher.build.harvest import Harvest
from pps_publisher.build.inflate import Inflated
from pps_publisher.build.programs import call, last_lines
from pps_publisher.build.relocation import relocate, relocate_path
from pps_publisher.build.rpm_header import FileEntry, Package, read_package
from pps_publisher.errors import ArchiveError, SiteError, TrustError, UsageError
from pps_publisher.lint import Finding, Found, Node, Tree, normalise
from pps_publisher.tree import lay_over, observe_tree

_LIBRARY: Final = re.compile(r"\.so(?:[.(]|$)|^rtld\(")
"""Requirements for libraries, which are looked at in the programs themselves."""
_MAX_LINK_BYTES: Final = 4096
_CHECK_S: Final = 600


@dataclass(frozen=True, slots=True)
class RpmTree:
    """A tree of RPM packages, and what only they know: the distribution, and what else they ask for."""

    tree: Tree
    packages: tuple[str, ...]
    os: str
    requires: tuple[str, ...]
    """Requirements other than libraries that none of the packages meets: the site must."""
    signed_by: tuple[str, ...]
    """The keys all packages were checked with; none means that no signature was looked at."""


def load_rpm_tree(
    files: Iterable[Path], keys: tuple[Path, ...], work: Path, overlays: tuple[Path, ...] = (), os: str | None = None
) -> RpmTree:
    """Give the normalised tree of RPM packages, unpacked below ``work``; ``os`` overrides their dist tags.

    Raises: TrustError when keys are given and a signature fails; ArchiveError for a damaged or hostile
    package; UsageError; SiteError; PublishError when packages disagree.
    """
    chosen = tuple(_copy(file, work / "rpms" / f"{number:04d}.rpm") for number, file in enumerate(files))
    if keys:
        check_signatures(chosen, keys, work / "keyring")
    packages: list[Package] = []
    nodes: list[Node] = []
    for number, (file, copy) in enumerate(chosen):
        package, harvest = harvest_rpm(copy, str(file), work / "contents" / str(number))
        packages.append(package)
        nodes += harvest
    system = _os_of(packages) if os is None else os
    moved = relocate(nodes)
    for overlay in overlays:
        lay_over(moved, observe_tree(overlay))
    tree = normalise(moved.values())
    found = (*tree.found, *_dropped_capabilities(packages, tree))
    return RpmTree(
        tree=replace(tree, found=tuple(sorted(found, key=lambda one: one.path))),
        packages=tuple(sorted(package.id for package in packages)),
        os=system,
        requires=unmet_requires(packages),
        signed_by=tuple(key.name for key in keys),
    )


def harvest_rpm(file: Path, where: str, scratch: Path) -> tuple[Package, tuple[Node, ...]]:
    """Read one package; contents go below ``scratch``. Raises: ArchiveError, OSError."""
    harvest = Harvest(scratch, where)
    with file.open("rb") as stream:
        package = read_package(_exact(stream, where), where)
        _Payload(package, Inflated(stream, where), harvest).read()
    return package, harvest.nodes()


def unmet_requires(packages: Iterable[Package]) -> tuple[str, ...]:
    """Give the requirements, libraries left out, that no package of these meets by name or by file."""
    known = tuple(packages)
    met = {name for package in known for name in package.provides}
    met |= {f"/{entry.path}" for package in known for entry in package.files}
    asked = {name for package in known for name in package.requires}
    return tuple(sorted(name for name in asked - met if not _LIBRARY.search(name)))


def check_signatures(files: Iterable[tuple[Path, Path]], keys: Iterable[Path], keyring: Path) -> None:
    """Demand a good signature by one of ``keys`` of every file, a pair of name and copy.

    Raises: TrustError, SiteError, UsageError, OSError.
    """
    program = shutil.which("rpmkeys")
    if program is None:
        raise SiteError("rpmkeys is not on this machine; install the package rpm, or leave --rpm-key out")
    keyring.mkdir(mode=0o700)
    base = [program, "--dbpath", str(keyring.resolve())]
    for key in keys:
        if not key.is_file():
            raise UsageError(f"{key}: is not a file; name an armoured public key")
        done = call([*base, "--import", str(key.resolve())], _CHECK_S)
        if done.returncode:
            raise TrustError(f"{key}: rpmkeys cannot read it ({last_lines(done.stderr)}); name an armoured public key")
    for file, copy in files:
        done = call([*base, "--define", "_pkgverify_level all", "--checksig", "-v", str(copy)], _CHECK_S)
        if done.returncode or "signature" not in done.stdout.lower():
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()[1:]]
            told = "; ".join(line for line in lines if not line.endswith((": OK", ": NOTFOUND"))) or "it is not signed"
            raise TrustError(f"{file}: no good signature by a given key ({told[:300]}); ask whoever built it")


class _Payload:
    """Walks through one package's archive; the header says what has to be there."""

    def __init__(self, package: Package, stream: Inflated, harvest: Harvest) -> None:
        self._files = package.files
        self._digest_name = package.digest_name
        self._stream = stream
        self._harvest = harvest
        self._where = stream.where
        self._left: dict[str, FileEntry] = {}
        for entry in package.files:
            if entry.ghost:
                continue
            if entry.path in self._left:
                raise ArchiveError(f"{self._where}: lists /{entry.path} twice; fetch it again")
            self._left[entry.path] = entry
        self._shared: dict[int, int] = {}
        for entry in self._left.values():
            if stat.S_ISREG(entry.mode):
                self._shared[entry.inode] = self._shared.get(entry.inode, 0) + 1
        self._waiting: dict[int, list[FileEntry]] = {}

    def read(self) -> None:
        """Take every member. Raises: ArchiveError, OSError."""
        while (member := read_member(self._stream.read_exactly, self._where)) is not None:
            entry = self._entry_of(member)
            size = self._take(entry, entry.size_bytes if member.index is not None else member.size_bytes, member)
            self._stream.read_exactly(-size % 4)
        self._stream.demand_end()
        missing = next(iter(self._left), None)
        if missing is not None:
            raise ArchiveError(f"{self._where}: its payload lacks /{missing}, which its header lists; fetch it again")

    def _entry_of(self, member: Member) -> FileEntry:
        if member.index is None:
            path = member.path.removeprefix("./").removeprefix("/")
        else:
            path = self._files[member.index].path if member.index < len(self._files) else ""
        entry = self._left.pop(path, None)
        if entry is None:
            raise ArchiveError(
                f"{self._where}: {path[:200]!r} stands in its payload, but not (or once only) in its header; "
                "fetch it again"
            )
        return entry

    def _take(self, entry: FileEntry, size: int, member: Member) -> int:
        """Take one member and give how many bytes of data it had."""
        if stat.S_ISREG(entry.mode):
            return self._take_file(entry, size, stripped=member.index is not None)
        if stat.S_ISLNK(entry.mode):
            text = self._stream.read_exactly(min(size, _MAX_LINK_BYTES))
            if text != entry.to.encode():
                raise ArchiveError(f"{self._where}: /{entry.path} links elsewhere than its header says; fetch it again")
            self._harvest.add_link(entry.path, entry.to)
            return size
        if stat.S_ISDIR(entry.mode):
            self._harvest.add_directory(entry.path, entry.mode)
        else:
            self._harvest.add_other(entry.path, entry.mode)
        if size and member.index is None:
            raise ArchiveError(f"{self._where}: /{entry.path} has data that its type cannot have; fetch it again")
        return 0

    def _take_file(self, entry: FileEntry, size: int, *, stripped: bool) -> int:
        self._shared[entry.inode] -= 1
        last = not self._shared[entry.inode]
        if not last and (stripped or (not size and entry.size_bytes)):
            self._waiting.setdefault(entry.inode, []).append(entry)
            return 0
        if size != entry.size_bytes:
            raise ArchiveError(f"{self._where}: /{entry.path} has another size than its header says; fetch it again")
        digest = hashlib.new(self._digest_name, usedforsecurity=False)
        blocks = _hashed(self._stream.copy(size), digest.update)
        self._harvest.add_file(entry.path, entry.mode, size, blocks)
        for twin in (entry, *self._waiting.pop(entry.inode, [])):
            if twin.digest and twin.digest != digest.hexdigest():
                raise ArchiveError(
                    f"{self._where}: /{twin.path} has another digest than its header says; fetch it again"
                )
            if twin is not entry:
                self._harvest.add_twin(twin.path, entry.path)
        return size


def _hashed(blocks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block


def _exact(stream: BinaryIO, where: str) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        found = stream.read(size)
        if len(found) != size:
            raise ArchiveError(f"{where}: is cut off, or no RPM package; fetch it again")
        return found

    return read


def _copy(file: Path, place: Path) -> tuple[Path, Path]:
    """Copy a package, so that what is checked is what is read, whoever may write to it meanwhile."""
    if not file.is_file():
        raise UsageError(f"{file}: is not a file; name .rpm files")
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(file, place)
    return file, place


def _os_of(packages: Iterable[Package]) -> str:
    by_os: dict[str, str] = {}
    for package in packages:
        if package.os:
            by_os.setdefault(package.os, package.id)
    if len(by_os) > 1:
        named = ", ".join(f"{name} ({os})" for os, name in by_os.items())
        raise UsageError(f"the packages are of several distributions: {named}; leave some out, or state --os")
    if not by_os:
        raise UsageError("no package's release names its distribution (as 1.el9 does); state --os, e.g. --os el9")
    return next(iter(by_os))


def _dropped_capabilities(packages: Iterable[Package], tree: Tree) -> Iterator[Found]:
    kept = {node.path for node in tree.files()}
    for package in packages:
        for entry in package.files:
            path = relocate_path(entry.path)
            if entry.capabilities and path in kept:
                yield Found(path, Finding.CAPABILITIES_DROPPED, f"had {entry.capabilities}")
