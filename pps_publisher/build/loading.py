"""Which library each program of a tree would load, found as the loader finds it, without running it. Pure.

Search order of ld.so(8): DT_RPATH where there is no RUNPATH, LD_LIBRARY_PATH, DT_RUNPATH, then the
system's directories. A tree is at fault where a library is nowhere, where the system's copy would be
taken of a library that the tree carries, or where the one found lacks a symbol version.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pps_publisher.elf import ORIGIN, ElfFile, end_of, library_places
from pps_publisher.lint import Kind, Tree
from pps_wire.release import Overlay


class FaultKind(Enum):
    """Why a tree does not stand on its own over the base system."""

    MISSING = "missing library"
    HOST_COPY = "the system's copy of a library that the tree carries"
    VERSION = "library too old or too new"
    INTERPRETER = "missing interpreter"
    FAILED = "smoke run failed"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: which file of the tree (or which smoke run), what, and the detail."""

    path: str
    fault: FaultKind
    detail: str


@dataclass(frozen=True, slots=True)
class Base:
    """What a base system offers: libraries by name and interpreters by path, as far as the tree asks for them."""

    libraries: Mapping[str, ElfFile]
    programs: frozenset[str]


def judge_loading(
    elfs: Iterable[ElfFile], scripts: Mapping[str, str], tree: Tree, overlay: Overlay, base: Base
) -> tuple[Fault, ...]:
    """Give every fault; ``scripts`` are interpreters by path, as ``#!`` lines name them."""
    known = tuple(elfs)
    judge = _Judge(known, tree, overlay, base)
    loading = (fault for elf in known for fault in judge.faults_of(elf))
    return (*loading, *_script_faults(scripts, tree, overlay, base))


def is_own_interpreter(name: str, tree: Tree, overlay: Overlay) -> bool:
    """Say whether a bare program name, as after ``#!/usr/bin/env``, is found in the tree's part of PATH."""
    paths = {node.path for node in tree.nodes}
    return any(f"{directory}/{name}" in paths for directory in overlay.prepend.get("PATH", ()))


class _Judge:
    def __init__(self, elfs: tuple[ElfFile, ...], tree: Tree, overlay: Overlay, base: Base) -> None:
        self._base = base
        self._carried = library_places(elfs, tree)
        self._links = {node.path: node.to for node in tree.nodes if node.kind is Kind.LINK}
        self._by_path = {elf.node.path: elf for elf in elfs}
        self._global = overlay.prepend.get("LD_LIBRARY_PATH", ())

    def faults_of(self, elf: ElfFile) -> Iterator[Fault]:
        path = elf.node.path
        if elf.interpreter and elf.interpreter not in self._base.programs:
            yield Fault(path, FaultKind.INTERPRETER, elf.interpreter)
        for name in elf.needed if elf.dynamic else ():
            own = self._own(elf, name)
            if own is None and name not in self._base.libraries:
                yield Fault(path, FaultKind.MISSING, name)
                continue
            if own is None and name in self._carried:
                yield Fault(path, FaultKind.HOST_COPY, f"{name}, carried in {self._carried[name]}")
            found = self._base.libraries[name] if own is None else own
            absent = [version for library, version in elf.asks if library == name and version not in found.defines]
            if absent and found.defines:
                yield Fault(path, FaultKind.VERSION, f"{name} lacks {', '.join(sorted(absent))}")

    def _own(self, elf: ElfFile, name: str) -> ElfFile | None:
        for directory in self._directories(elf):
            found = self._by_path.get(end_of(posixpath.normpath(posixpath.join(directory, name)), self._links))
            if found is not None and found.dynamic and found.arch == elf.arch:
                return found
        return None

    def _directories(self, elf: ElfFile) -> Iterator[str]:
        """Give the directories of the tree that are searched; others' are the base system's affair."""
        here = posixpath.dirname(elf.node.path)
        if elf.rpath and not elf.runpath:
            yield from _inside(elf.rpath, here)
        yield from self._global
        yield from _inside(elf.runpath, here)


def _inside(search: str, here: str) -> Iterator[str]:
    for entry in search.split(":"):
        plain = entry.replace("${ORIGIN}", ORIGIN)
        if plain == ORIGIN or plain.startswith(ORIGIN + "/"):
            yield posixpath.normpath(posixpath.join(here, plain.removeprefix(ORIGIN).lstrip("/")))


def _script_faults(scripts: Mapping[str, str], tree: Tree, overlay: Overlay, base: Base) -> Iterator[Fault]:
    for path, interpreter in scripts.items():
        if interpreter in base.programs or is_own_interpreter(interpreter, tree, overlay):
            continue
        yield Fault(path, FaultKind.INTERPRETER, interpreter)
