"""What comes out of a foreign archive: contents in numbered files of ours, names as values for the lint.

No name of an archive ever reaches the file system. Each content lies in the scratch directory under a
number; names, links and modes become nodes, which ``lint.normalise`` and ``lint_manifest`` judge as
they judge any tree. So no archive can write outside, however it names its members.
"""

import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pps_publisher.errors import ArchiveError
from pps_publisher.lint import Kind, Node
from pps_wire.manifest import MAX_ENTRIES, MAX_FILE_BYTES
from pps_wire.paths import MAX_DEPTH, MAX_NAME_BYTES, MAX_PATH_BYTES

MAX_TREE_BYTES: Final = 16 * 1024**3


class Harvest:
    """Collects the members of one archive (``where`` in errors) below the directory ``scratch``, which is made."""

    def __init__(self, scratch: Path, where: str) -> None:
        scratch.mkdir(mode=0o700, parents=True)
        self._scratch = scratch
        self._where = where
        self._nodes: dict[str, Node] = {}
        self._total_bytes = 0
        self._files = 0

    def nodes(self) -> tuple[Node, ...]:
        """Give everything collected, with the directories that members only implied."""
        found = dict(self._nodes)
        for path in self._nodes:
            parent = posixpath.dirname(path)
            while parent and parent not in found:
                found[parent] = Node(parent, Kind.DIRECTORY, self._scratch, 0o755)
                parent = posixpath.dirname(parent)
            if parent and found[parent].kind is not Kind.DIRECTORY:
                raise self._fault(path, f"lies below {parent}, which is no directory")
        if len(found) > MAX_ENTRIES:
            raise ArchiveError(f"{self._where}: holds more than {MAX_ENTRIES:,} entries; split the client")
        return tuple(found.values())

    def add_file(self, name: str, mode: int, size_bytes: int, blocks: Iterable[bytes]) -> Node:
        """Take a regular file's content from ``blocks``. Raises: ArchiveError, OSError."""
        path = self._new(name)
        self._total_bytes += size_bytes
        if size_bytes > MAX_FILE_BYTES or self._total_bytes > MAX_TREE_BYTES:
            raise self._fault(name, f"{size_bytes:,} bytes are too many for a release")
        self._files += 1
        place = self._scratch / f"{self._files:08d}"
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for block in blocks:
                stream.write(block)
        node = Node(path, Kind.FILE, place, stat.S_IMODE(mode), size_bytes)
        self._nodes[path] = node
        return node

    def add_directory(self, name: str, mode: int) -> None:
        """Take a directory; one that stands again keeps its first mode. Raises: ArchiveError."""
        path = self._path(name)
        if not path:
            return
        if path in self._nodes and self._nodes[path].kind is not Kind.DIRECTORY:
            raise self._fault(name, "stands twice, as a directory and as something else")
        self._nodes.setdefault(path, Node(path, Kind.DIRECTORY, self._scratch, stat.S_IMODE(mode)))

    def add_link(self, name: str, to: str) -> None:
        """Take a symbolic link with its text as found. Raises: ArchiveError."""
        path = self._new(name)
        if not to or "\0" in to or len(to.encode()) > MAX_PATH_BYTES:
            raise self._fault(name, "is a link without a usable target")
        self._nodes[path] = Node(path, Kind.LINK, self._scratch, to=to)

    def add_other(self, name: str, mode: int) -> None:
        """Take note of a device, pipe or socket, which the lint drops with a finding. Raises: ArchiveError."""
        path = self._new(name)
        self._nodes[path] = Node(path, Kind.OTHER, self._scratch, stat.S_IMODE(mode))

    def add_twin(self, name: str, of: str) -> None:
        """Take a hard link to a member that was there before: it becomes a copy. Raises: ArchiveError."""
        twin = self._nodes.get(self._path(of))
        if twin is None or twin.kind is Kind.DIRECTORY:
            raise self._fault(name, f"is a hard link to {of!r}, which the archive does not hold before it")
        path = self._new(name)
        self._total_bytes += twin.size_bytes
        if self._total_bytes > MAX_TREE_BYTES:
            raise self._fault(name, "makes the tree too large for a release")
        self._nodes[path] = replace(twin, path=path)

    def _new(self, name: str) -> str:
        path = self._path(name)
        if not path:
            raise self._fault(name, "names the top of the tree")
        if path in self._nodes:
            raise self._fault(name, "stands twice; which one a tool keeps depends on the tool")
        if len(self._nodes) >= MAX_ENTRIES:
            raise ArchiveError(f"{self._where}: holds more than {MAX_ENTRIES:,} entries; split the client")
        return path

    def _path(self, name: str) -> str:
        if name.startswith("/"):
            raise self._fault(name, "has an absolute path")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._fault(name, "has '..' in its path")
        if "\0" in name or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
            raise self._fault(name, f"has a NUL or a component of more than {MAX_NAME_BYTES} bytes in its path")
        if len(parts) > MAX_DEPTH:
            raise self._fault(name, f"lies more than {MAX_DEPTH} directories deep")
        path = "/".join(parts)
        if len(path.encode()) > MAX_PATH_BYTES:
            raise self._fault(name, f"has a path of more than {MAX_PATH_BYTES} bytes")
        return path

    def _fault(self, name: str, what: str) -> ArchiveError:
        return ArchiveError(f"{self._where}: {name[:200]!r} {what}; pack it again without")
