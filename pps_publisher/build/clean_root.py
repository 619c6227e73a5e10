"""A clean root: the base system and nothing else, in a directory, for proofs that need no luck of the build host."""

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_publisher.build.loading import Base
from pps_publisher.elf import ElfFile, read_elf
from pps_publisher.errors import PublishError, UsageError
from pps_publisher.lint import MAX_LINK_HOPS, Kind, Node

PROGRAM_PATH: Final = ("usr/local/bin", "usr/bin", "bin", "usr/sbin", "sbin")
_LIBRARIES: Final = ("lib64", "usr/lib64", "lib/{triplet}", "usr/lib/{triplet}", "lib", "usr/lib")
_MAX_CONF_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class CleanRoot:
    """A base system in a directory; ``name`` tells which, for reports."""

    path: Path
    name: str

    def find(self, path: str) -> Path | None:
        """Give the regular file that an absolute path means inside the root, its links followed inside too."""
        reached = self.path
        waiting = [name for name in path.split("/") if name][::-1]
        hops = 0
        while waiting:
            name = waiting.pop()
            if name in (".", ".."):
                reached = reached.parent if name == ".." and reached != self.path else reached
                continue
            step = reached / name
            if step.is_symlink():
                hops += 1
                if hops > MAX_LINK_HOPS:
                    return None
                to = str(step.readlink())
                reached = self.path if to.startswith("/") else reached
                waiting += [part for part in to.split("/") if part][::-1]
                continue
            reached = step
        return reached if reached.is_file() else None


def open_clean_root(path: Path) -> CleanRoot:
    """Take a directory that holds a base system, e.g. an unpacked container image. Raises: UsageError."""
    if not (path / "usr").is_dir() or path.resolve() == Path("/"):
        raise UsageError(f"--clean-root {path}: is no base system of its own; name a directory that has usr/ and etc/")
    return CleanRoot(path.resolve(), path.name)


def load_base(root: CleanRoot, elfs: Iterable[ElfFile], interpreters: Iterable[str]) -> Base:
    """Look up in ``root`` all that the programs of a tree and, through them, its libraries ask for. Raises: OSError."""
    known = tuple(elfs)
    directories = tuple(_library_directories(root))
    libraries: dict[str, ElfFile] = {}
    waiting = {name for elf in known for name in elf.needed}
    arches = {elf.arch for elf in known}
    looked: set[str] = set()
    while waiting:
        name = waiting.pop()
        looked.add(name)
        found = _find_library(root, name, directories, arches)
        if found is not None:
            libraries[name] = found
            waiting |= set(found.needed) - looked
    asked = {elf.interpreter for elf in known if elf.interpreter} | set(interpreters)
    programs = frozenset(name for name in asked if _has_program(root, name))
    return Base(_whole(libraries), programs)


def _whole(libraries: dict[str, ElfFile]) -> dict[str, ElfFile]:
    """Give the libraries that find all they need in the root: they cannot count on the tree."""
    kept = libraries
    while len(fewer := {name: elf for name, elf in kept.items() if kept.keys() >= set(elf.needed)}) < len(kept):
        kept = fewer
    return kept


def _has_program(root: CleanRoot, name: str) -> bool:
    places = [name] if name.startswith("/") else [f"{directory}/{name}" for directory in PROGRAM_PATH]
    found = (root.find(place) for place in places)
    return any(file is not None and file.stat().st_mode & stat.S_IXUSR for file in found)


def _find_library(root: CleanRoot, name: str, directories: tuple[str, ...], arches: set[str]) -> ElfFile | None:
    for directory in directories:
        file = root.find(posixpath.join(directory, name))
        if file is None:
            continue
        try:
            elf = read_elf(Node(f"{directory}/{name}", Kind.FILE, file))
        except PublishError:
            continue  # of another architecture, or a linker script
        if elf is not None and elf.arch in arches:
            return elf
    return None


def _library_directories(root: CleanRoot) -> Iterator[str]:
    triplets = [f"{os.uname().machine}-linux-gnu"]
    for pattern in _LIBRARIES:
        yield from (pattern.format(triplet=triplet) for triplet in triplets)
    yield from _configured(root)


def _configured(root: CleanRoot) -> Iterator[str]:
    """Give the directories of the root's ld.so.conf, includes followed one level, as distributions use them."""
    main = _conf_lines(root, "etc/ld.so.conf")
    patterns = [line.split()[1] for line in main if line.startswith("include") and len(line.split()) > 1]
    included = [line for pattern in patterns for file in _glob(root, pattern) for line in _conf_lines(root, file)]
    yield from (line.lstrip("/") for line in (*main, *included) if line.startswith("/"))


def _glob(root: CleanRoot, pattern: str) -> list[str]:
    relative = pattern.lstrip("/") if pattern.startswith("/") else f"etc/{pattern}"
    return sorted(str(found.relative_to(root.path)) for found in root.path.glob(relative))


def _conf_lines(root: CleanRoot, path: str) -> list[str]:
    file = root.find(path)
    if file is None:
        return []
    with file.open("rb") as stream:
        text = stream.read(_MAX_CONF_BYTES).decode(errors="replace")
    return [line.partition("#")[0].strip() for line in text.splitlines()]
