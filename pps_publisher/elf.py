"""What the ELF files of a tree need: architecture, glibc, libraries; and where they shall look for them.

Instead of a global LD_LIBRARY_PATH, which would push preview libraries into production programs,
each ELF file gets a library path relative to itself. Sources: System V ABI, chapter 5 (DT_NEEDED,
DT_RPATH, $ORIGIN); ld.so(8) (order of search); LSB 5.0, clause 10.7 (symbol versions).
"""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from elftools.elf.segments import InterpSegment

from pps_publisher.errors import PublishError, SiteError
from pps_publisher.lint import Kind, Node, Tree
from pps_wire.names import Platform
from pps_wire.release import Requires

ORIGIN: Final = "$ORIGIN"
NO_GLIBC: Final = (0, 0)
"""Stated by trees that hold no ELF file, or only static ones."""

_MAGIC: Final = b"\x7fELF"
_ARCHES: Final[Mapping[tuple[str, bool], str]] = {
    ("EM_X86_64", True): "x86_64",
    ("EM_AARCH64", True): "aarch64",
    ("EM_PPC64", True): "ppc64le",
}
_GLIBC: Final = re.compile(r"^GLIBC_(\d+)\.(\d+)(?:\.\d+)?$")
_RELR: Final = "GLIBC_ABI_DT_RELR"
"""Marks relative relocations in DT_RELR form, which glibc reads since 2.36."""
_HARD_PATH: Final = re.compile(rb"/usr/(?:lib|lib64|libexec|bin|sbin|share)/|/etc/[a-z]")
_PATCH_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class ElfFile:
    """One ELF file: what it is called, what it needs, where it looks."""

    node: Node
    arch: str
    glibc: tuple[int, int]
    dynamic: bool
    soname: str = ""
    needed: tuple[str, ...] = ()
    runpath: str = ""
    rpath: str = ""
    """The old form, which counts only where there is no RUNPATH."""
    interpreter: str = ""
    asks: tuple[tuple[str, str], ...] = ()
    """Symbol versions it asks of libraries, as (library, version)."""
    defines: frozenset[str] = frozenset()
    """Symbol versions it defines itself."""


def read_elfs(tree: Tree) -> tuple[ElfFile, ...]:
    """Give the ELF files of a tree in path order.

    Raises: PublishError for a damaged ELF file or one of an architecture no platform name knows.
    """
    found = (read_elf(node) for node in tree.files())
    return tuple(elf for elf in found if elf is not None)


def read_elf(node: Node) -> ElfFile | None:
    """Read one file's ELF facts, or give None when it is no ELF program or library. Raises: PublishError."""
    with node.source.open("rb") as stream:
        if stream.read(4) != _MAGIC:
            return None
        stream.seek(0)
        try:
            elf = ELFFile(stream)
            if elf["e_type"] not in {"ET_EXEC", "ET_DYN"}:
                return None
            asks, defines = _versions_of(elf)
            facts = ElfFile(
                node,
                _arch_of(elf, node),
                max((glibc_version(version) for _, version in asks), default=NO_GLIBC),
                dynamic=False,
                interpreter=_interpreter_of(elf),
                asks=asks,
                defines=defines,
            )
            dynamic = next((part for part in elf.iter_sections() if isinstance(part, DynamicSection)), None)
            return facts if dynamic is None else _with_dynamic(facts, dynamic)
        except (ELFError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as exc:
            # pyelftools answers damaged files with any of these
            raise PublishError(f"{node.path}: is a damaged ELF file ({exc}); leave it out of the tree") from exc


def requires_of(elfs: Iterable[ElfFile]) -> Requires:
    """Give what a node must offer: one architecture and the highest glibc any file needs.

    Raises: PublishError when a tree mixes architectures.
    """
    by_arch: dict[str, str] = {}
    glibc = NO_GLIBC
    for elf in elfs:
        by_arch.setdefault(elf.arch, elf.node.path)
        glibc = max(glibc, elf.glibc)
    if len(by_arch) > 1:
        mixed = ", ".join(f"{path} ({arch})" for arch, path in by_arch.items())
        raise PublishError(f"the tree mixes architectures: {mixed}; publish one tree for each")
    return Requires(arch=next(iter(by_arch), "noarch"), glibc=f"{glibc[0]}.{glibc[1]}")


def platform_of(requires: Requires) -> Platform:
    """Give the platform name that states these requirements."""
    os_suffix = f"-{requires.os}" if requires.os else ""
    return Platform(f"{requires.arch}-glibc{requires.glibc}{os_suffix}")


def plan_runpaths(elfs: Iterable[ElfFile], tree: Tree) -> dict[str, str]:
    """Give the library path of each dynamic ELF file by its path, for those whose present one differs.

    It is set as DT_RPATH, which is searched before LD_LIBRARY_PATH: where production is found by that
    variable, as with many grid tarballs, a preview with DT_RUNPATH would load production's libraries.

    First the directories that hold what the file itself needs, then the tree's other library
    directories, for plugins opened by bare name. A file that finds nothing in the tree keeps what it has.
    """
    known = tuple(elfs)
    places = library_places(known, tree)
    shared = {places[name] for elf in known for name in elf.needed if name in places}
    plan: dict[str, str] = {}
    for elf in known:
        if not elf.dynamic or not shared:
            continue
        own = [places[name] for name in elf.needed if name in places]
        directories = dict.fromkeys([*own, *sorted(shared)])
        runpath = ":".join(_from_origin(elf.node.path, directory) for directory in directories)
        if elf.runpath or runpath != elf.rpath:
            plan[elf.node.path] = runpath
    return plan


def outside_libraries(elfs: Iterable[ElfFile], tree: Tree) -> tuple[str, ...]:
    """Give the libraries that files need and the tree does not hold: the site's base system must."""
    known = tuple(elfs)
    places = library_places(known, tree)
    return tuple(sorted({name for elf in known for name in elf.needed if name not in places}))


def set_runpaths(tree: Tree, plan: Mapping[str, str], work: Path) -> Tree:
    """Give the tree with library paths set; changed files lie in ``work``, the originals stay as they are.

    Raises: SiteError when patchelf is missing or fails.
    """
    if not plan:
        return tree
    program = find_patchelf()
    work.mkdir(parents=True, exist_ok=True)

    def patch(numbered: tuple[int, Node]) -> Node:
        number, node = numbered
        return _patch(program, node, plan[node.path], work / str(number))

    chosen = [node for node in tree.files() if node.path in plan]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        patched = {node.path: node for node in pool.map(patch, enumerate(chosen))}
    return replace(tree, nodes=tuple(patched.get(node.path, node) for node in tree.nodes))


def find_patchelf() -> Path:
    """Give the patchelf program: that of this Python's environment, else the system's. Raises: SiteError."""
    own = Path(sys.executable).parent / "patchelf"
    found = str(own) if own.exists() else shutil.which("patchelf")
    if found is None:
        raise SiteError("patchelf is not installed; install the 'publisher' extra or your system's package")
    return Path(found)


def hard_paths(tree: Tree) -> tuple[str, ...]:
    """Give the files that name absolute system paths, interpreter lines not counted: they may look outside."""
    return tuple(node.path for node in tree.files() if _HARD_PATH.search(_without_shebang(node.source.read_bytes())))


def _with_dynamic(facts: ElfFile, dynamic: DynamicSection) -> ElfFile:
    needed: list[str] = []
    soname = runpath = rpath = ""
    tags: Iterable[Any] = dynamic.iter_tags()  # a tag's text is an attribute made at run time
    for tag in tags:
        match tag.entry.d_tag:
            case "DT_NEEDED":
                needed.append(tag.needed)
            case "DT_SONAME":
                soname = tag.soname
            case "DT_RUNPATH":
                runpath = tag.runpath
            case "DT_RPATH":
                rpath = tag.rpath
    return replace(facts, dynamic=True, soname=soname, needed=tuple(needed), runpath=runpath, rpath=rpath)


def _arch_of(elf: ELFFile, node: Node) -> str:
    arch = _ARCHES.get((elf["e_machine"], elf.little_endian))
    if arch is None:
        known = ", ".join(_ARCHES.values())
        raise PublishError(f"{node.path}: is for machine {elf['e_machine']}; platforms are known for {known}")
    return arch


def _versions_of(elf: ELFFile) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    asks: list[tuple[str, str]] = []
    defines: set[str] = set()
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for library, symbols in section.iter_versions():
                asks += [(str(library.name), symbol.name) for symbol in symbols]
        elif isinstance(section, GNUVerDefSection):
            for _, names in section.iter_versions():
                defines |= {names_of.name for names_of in names}
    return tuple(asks), frozenset(defines)


def _interpreter_of(elf: ELFFile) -> str:
    segment = next((part for part in elf.iter_segments() if isinstance(part, InterpSegment)), None)
    return "" if segment is None else str(segment.get_interp_name())


def glibc_version(symbol_version: str) -> tuple[int, int]:
    """Give the glibc release a symbol version asks for, e.g. ``GLIBC_2.34``; (0, 0) for other libraries'."""
    if symbol_version == _RELR:
        return (2, 36)
    match = _GLIBC.match(symbol_version)
    return (int(match[1]), int(match[2])) if match else NO_GLIBC


def library_places(elfs: Iterable[ElfFile], tree: Tree) -> dict[str, str]:
    """Give the directory of each library a program may ask for by name: files and links count alike."""
    libraries = {elf.node.path for elf in elfs if elf.dynamic}
    links = {node.path: node.to for node in tree.nodes if node.kind is Kind.LINK}
    places: dict[str, str] = {}
    for node in tree.nodes:
        directory, name = posixpath.split(node.path)
        if ".so" in name and end_of(node.path, links) in libraries:
            places.setdefault(name, directory)
    return places


def end_of(path: str, links: Mapping[str, str]) -> str:
    """Give where a path of the tree arrives over its links."""
    while path in links:  # this ends: normalise() dropped links that reach nothing
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), links[path]))
    return path


def _from_origin(path: str, directory: str) -> str:
    relative = posixpath.relpath(directory or ".", posixpath.dirname(path) or ".")
    return ORIGIN if relative == "." else f"{ORIGIN}/{relative}"


def _patch(program: Path, node: Node, runpath: str, output: Path) -> Node:
    command = [str(program), "--force-rpath", "--set-rpath", runpath, "--output", str(output), str(node.source)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATCH_TIMEOUT_S
    )
    if result.returncode != 0:
        raise SiteError(f"patchelf failed on {node.path}: {result.stderr.strip()[:500]}; try --keep-runpath")
    return replace(node, source=output, size_bytes=output.stat().st_size)


def _without_shebang(content: bytes) -> bytes:
    return content.partition(b"\n")[2] if content.startswith(b"#!") else content
