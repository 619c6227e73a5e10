"""Reading directory trees from disk: what is there, exactly as found. ``lint.normalise`` judges it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pps_publisher.errors import UsageError
from pps_publisher.lint import Kind, Node, Tree, normalise


def load_tree(root: Path, overlays: tuple[Path, ...] = ()) -> Tree:
    """Read the tree below ``root``, lay each overlay over it in order, and normalise the whole.

    An overlay's files and links replace those of the same path; nothing is ever taken away.
    Raises: UsageError when a directory does not exist; OSError when something cannot be read.
    """
    nodes = {node.path: node for node in observe_tree(root)}
    for overlay in overlays:
        lay_over(nodes, observe_tree(overlay))
    return normalise(nodes.values(), os.path.abspath(root))  # noqa: PTH100  # without '..', but links unresolved


def observe_tree(root: Path) -> Iterator[Node]:
    """Give every entry below ``root``, parents before children, following no link.

    Raises: UsageError when ``root`` is not a directory; OSError when something cannot be read.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: is not a directory; name the top of the tree to publish")
    yield from _observe_directory(root, "")


def lay_over(nodes: dict[str, Node], overlay: Iterator[Node]) -> None:
    """Put the nodes of an overlay over ``nodes``; a path that changes its kind loses what stood below it."""
    for node in overlay:
        old = nodes.get(node.path)
        if old is not None and old.kind is Kind.DIRECTORY and node.kind is not Kind.DIRECTORY:
            for path in [path for path in nodes if path.startswith(node.path + "/")]:
                del nodes[path]
        nodes[node.path] = node


def _observe_directory(directory: Path, prefix: str) -> Iterator[Node]:
    with os.scandir(directory) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        node = _observe_entry(entry, prefix + entry.name)
        yield node
        if node.kind is Kind.DIRECTORY:
            yield from _observe_directory(node.source, node.path + "/")


def _observe_entry(entry: os.DirEntry[str], path: str) -> Node:
    source = Path(entry.path)
    status = entry.stat(follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Node(path, Kind.LINK, source, to=os.readlink(source))  # noqa: PTH115  # the exact text: Path would tidy it
    if stat.S_ISDIR(status.st_mode):
        return Node(path, Kind.DIRECTORY, source, mode)
    if stat.S_ISREG(status.st_mode):
        return Node(path, Kind.FILE, source, mode, status.st_size)
    return Node(path, Kind.OTHER, source, mode)
