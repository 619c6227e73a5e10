"""What of a tree may look outside it, told and not changed: a release manager decides."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pps_publisher.elf import ElfFile
from pps_publisher.lint import Node, Tree

_HEAD_BYTES: Final = 64 * 1024
_BUILD_SUFFIXES: Final = (".la", ".pc", ".cmake", "-config")
_ABSOLUTE: Final = re.compile(rb"(?:^|[\s=:'\"])/[a-z][\w.-]*/", re.MULTILINE)
_SHEBANG: Final = re.compile(rb"^#![ \t]*(\S+)(?:[ \t]+(?:-S[ \t]+)?(\S+))?")


class HintKind(Enum):
    """What a hint is about."""

    BUILD_FILE = "build description with absolute paths"
    BYTECODE = "Python byte code, which a site does not use: the source's time differs"
    PROFILE = "profile script: sites do not source it; state its variables with --environment"
    SEARCH_PATH = "library search path that is absolute"


@dataclass(frozen=True, slots=True)
class Hint:
    """One hint: which path, what, and the detail."""

    path: str
    hint: HintKind
    detail: str = ""


def load_hints(tree: Tree, elfs: tuple[ElfFile, ...]) -> tuple[Hint, ...]:
    """Give the hints of a tree in path order. Raises: OSError."""
    searching = {elf.node.path: f"{elf.rpath}:{elf.runpath}".strip(":") for elf in elfs}
    found = [_hint_of(node, searching) for node in tree.files()]
    return tuple(hint for hint in found if hint is not None)


def load_scripts(tree: Tree) -> Mapping[str, str]:
    """Give the interpreter of each executable script by path; a bare name stands for ``env`` and that name.

    Raises: OSError.
    """
    found = {node.path: interpreter_of(_head(node, 256)) for node in tree.files() if node.executable}
    return {path: interpreter for path, interpreter in found.items() if interpreter}


def interpreter_of(head: bytes) -> str:
    """Give the interpreter that the first line of a script names; empty when it names none. For any bytes."""
    match = _SHEBANG.match(head.partition(b"\n")[0])
    if match is None:
        return ""
    program = match[1].decode(errors="replace")
    if program.endswith("/env") and match[2]:
        return match[2].decode(errors="replace")
    return program


def _hint_of(node: Node, searching: Mapping[str, str]) -> Hint | None:
    path = node.path
    if path.endswith(".pyc"):
        return Hint(path, HintKind.BYTECODE)
    if "etc/profile.d/" in path:
        return Hint(path, HintKind.PROFILE)
    if any(entry.startswith("/") for entry in searching.get(path, "").split(":")):
        return Hint(path, HintKind.SEARCH_PATH, searching[path])
    if path.endswith(_BUILD_SUFFIXES) and (match := _ABSOLUTE.search(_head(node, _HEAD_BYTES))):
        return Hint(path, HintKind.BUILD_FILE, match[0].decode(errors="replace").strip(" \t\n=:'\""))
    return None


def _head(node: Node, size: int) -> bytes:
    with node.source.open("rb") as stream:
        return stream.read(size)
