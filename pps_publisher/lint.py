"""What of a directory tree may be published, and what was changed or left out on the way. Pure.

A tree as its author made it becomes a tree as every site can land it: files, directories and links
that stay inside, nothing else. Everything changed or dropped is a finding, so that nothing happens
silently.
"""

import posixpath
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

MAX_LINK_HOPS: Final = 40
"""As the kernel: more links than this on one way mean a loop."""


class Kind(Enum):
    """What an entry of a tree is; OTHER stands for devices, pipes and sockets."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of a tree: where it belongs (``path``) and where its content lies now (``source``).

    ``mode`` holds permission bits only; ``to`` is a link's text as found.
    """

    path: str
    kind: Kind
    source: Path
    mode: int = 0
    size_bytes: int = 0
    to: str = ""

    @property
    def executable(self) -> bool:
        """Whether anybody may execute the file: all that is kept of the mode."""
        return bool(self.mode & 0o111)


class Finding(Enum):
    """What happened to an entry that could not be published as found."""

    SPECIAL_DROPPED = "special file dropped"
    SETUID_STRIPPED = "setuid, setgid or sticky bit stripped"
    CAPABILITIES_DROPPED = "file capabilities dropped"
    LINK_RELATIVE = "absolute link made relative"
    LINK_STRAIGHTENED = "link made direct"
    LINK_DANGLING = "dangling link dropped"
    LINK_ESCAPING = "link that leaves the tree dropped"


@dataclass(frozen=True, slots=True)
class Found:
    """One finding: which path, what happened, and the detail, e.g. the old and new text of a link."""

    path: str
    finding: Finding
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree fit for publishing: nodes sorted by path, and what was done to make it fit."""

    nodes: tuple[Node, ...]
    found: tuple[Found, ...] = ()

    def files(self) -> tuple[Node, ...]:
        """Give the regular files in path order."""
        return tuple(node for node in self.nodes if node.kind is Kind.FILE)

    def has(self, path: str, kind: Kind) -> bool:
        """Say whether ``path`` stands in the tree as this kind."""
        return any(node.path == path and node.kind is kind for node in self.nodes)


def normalise(nodes: Iterable[Node], root: str = "/") -> Tree:
    """Give the publishable form of a tree that was read at the absolute path ``root``.

    Absolute links are followed below the tree's root, whether they name it (``root``) or not. Names
    are not judged here: ``pps_wire.manifest.lint_manifest`` does that, here as on every site.
    """
    by_path = {node.path: node for node in nodes}
    kept: list[Node] = []
    found: list[Found] = []
    for path in sorted(by_path):
        node = by_path[path]
        match node.kind:
            case Kind.OTHER:
                found.append(Found(path, Finding.SPECIAL_DROPPED, "only files, directories and links are published"))
                continue
            case Kind.LINK:
                straight, notes = _normalise_link(node, by_path, root)
                found += notes
                if straight is None:
                    continue
                node = straight  # the normalised form of the same entry
            case Kind.FILE | Kind.DIRECTORY:
                if node.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
                    found.append(Found(path, Finding.SETUID_STRIPPED, f"mode was {node.mode:04o}"))
        kept.append(node)
    return Tree(tuple(kept), tuple(found))


class _EscapeError(Exception):
    """The way of a link leaves the tree."""


def _normalise_link(node: Node, by_path: Mapping[str, Node], root: str) -> tuple[Node | None, list[Found]]:
    try:
        target = _walk(posixpath.dirname(node.path), node.to, by_path, root, follow_last=False)
        end = _walk(posixpath.dirname(node.path), node.to, by_path, root, follow_last=True)
    except _EscapeError:
        return None, [Found(node.path, Finding.LINK_ESCAPING, f"pointed to {node.to!r}")]
    if target is None or end is None or (end and by_path[end].kind is Kind.OTHER):
        return None, [Found(node.path, Finding.LINK_DANGLING, f"pointed to {node.to!r}")]
    if _is_direct(node, by_path):
        return node, []
    straight = replace(node, to=posixpath.relpath(target or ".", posixpath.dirname(node.path) or "."))
    finding = Finding.LINK_RELATIVE if node.to.startswith("/") else Finding.LINK_STRAIGHTENED
    return straight, [Found(node.path, finding, f"{node.to!r} became {straight.to!r}")]


def _is_direct(node: Node, by_path: Mapping[str, Node]) -> bool:
    """Say whether a link that is known to arrive is written as sites accept it."""
    names = node.to.split("/")
    if "" in names:
        return False
    reached = posixpath.dirname(node.path)
    for name in names[:-1]:
        reached = posixpath.normpath(posixpath.join(reached, name))
        if reached != "." and by_path[reached].kind is not Kind.DIRECTORY:
            return False
    return True


def _walk(start: str, text: str, by_path: Mapping[str, Node], root: str, *, follow_last: bool) -> str | None:
    """Follow a link's text from the directory ``start``; None when the way ends in nothing or in a loop."""
    reached = "" if text.startswith("/") else start
    waiting = _split(text, root)[::-1]
    hops = 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            if not reached:
                raise _EscapeError
            reached = posixpath.dirname(reached)
            continue
        step = posixpath.join(reached, name)
        node = by_path.get(step)
        if node is None:
            return None
        if node.kind is Kind.LINK and (waiting or follow_last):
            hops += 1
            if hops > MAX_LINK_HOPS:
                return None
            reached = "" if node.to.startswith("/") else reached
            waiting += _split(node.to, root)[::-1]
            continue
        if waiting and node.kind is not Kind.DIRECTORY:
            return None
        reached = step
    return reached


def _split(text: str, root: str) -> list[str]:
    inner = text
    prefix = root.rstrip("/") + "/"
    if text.startswith("/") and (text + "/").startswith(prefix):
        inner = text[len(prefix) - 1 :]
    return [name for name in inner.split("/") if name not in ("", ".")]
