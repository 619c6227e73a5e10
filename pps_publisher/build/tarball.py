"""A tree from a foreign tarball, read member by member under the lint and never extracted."""

import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pps_publisher.build.harvest import Harvest
from pps_publisher.build.inflate import Inflated
from pps_publisher.build.tar import harvest_tar
from pps_publisher.errors import UsageError
from pps_publisher.lint import Kind, Node, Tree, normalise
from pps_publisher.tree import lay_over, observe_tree

_OWN_DIRECTORIES: Final = frozenset(("bin", "etc", "include", "lib", "lib64", "libexec", "sbin", "share", "usr"))
"""A single directory of these names at the top is the tree's own, not its wrapping."""


@dataclass(frozen=True, slots=True)
class TarballTree:
    """A tree from a tarball, and how many leading directories were taken off its members' paths."""

    tree: Tree
    stripped: int


def load_tarball_tree(
    file: Path,
    work: Path,
    overlays: tuple[Path, ...] = (),
    *,
    strip: int | None = None,
    prefix: str = "/",
) -> TarballTree:
    """Give the normalised tree of a tarball, its contents below ``work``.

    ``strip`` leading directories are taken off; None takes one off when everything is below it.
    Absolute links are followed from ``prefix``, where the tarball was made to be unpacked. Raises:
    ArchiveError for a damaged or hostile archive; UsageError; OSError.
    """
    if not file.exists() or not stat.S_ISREG(file.stat().st_mode):
        raise UsageError(f"{file}: is not a file; name a .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst")
    if not prefix.startswith("/"):
        raise UsageError(f"--prefix {prefix}: write the absolute directory that the tarball was made for")
    harvest = Harvest(work / "contents", str(file))
    with file.open("rb") as stream:
        harvest_tar(Inflated(stream, str(file)), harvest)
    found = harvest.nodes()
    count = _wrapping(found) if strip is None else strip
    nodes = strip_directories(found, count)
    for overlay in overlays:
        lay_over(nodes, observe_tree(overlay))
    return TarballTree(normalise(nodes.values(), posixpath.normpath(prefix)), count)


def strip_directories(nodes: Iterable[Node], count: int) -> dict[str, Node]:
    """Give the nodes without the first ``count`` directories of their paths. Raises: UsageError."""
    kept: dict[str, Node] = {}
    for node in nodes:
        parts = node.path.split("/")[count:]
        if not parts:
            if node.kind is not Kind.DIRECTORY:
                raise UsageError(f"--strip-components {count} would lose {node.path}; strip fewer")
            continue
        path = "/".join(parts)
        twin = kept.get(path)
        if twin is not None and (twin.kind, node.kind) != (Kind.DIRECTORY, Kind.DIRECTORY):
            raise UsageError(f"--strip-components {count} puts two members at {path}; strip fewer")
        kept[path] = replace(node, path=path)
    return kept


def _wrapping(nodes: Iterable[Node]) -> int:
    tops = {node.path.partition("/")[0]: node for node in nodes if "/" not in node.path}
    if len(tops) != 1:
        return 0
    (name, node), *_ = tops.items()
    return int(node.kind is Kind.DIRECTORY and name not in _OWN_DIRECTORIES)
