"""Files of a release on disk: written only through directory descriptors, checked by what lstat says.

Names, kinds and sizes come from the signed manifest alone. Nothing that exists is ever opened for
writing (O_EXCL), no link is followed (O_NOFOLLOW), and links are made when everything else is there.
"""

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pps_agent.frames import Block, SignedManifest
from pps_wire.manifest import Directory, Entry, File, Link

FILE_MODE: Final = 0o444
PROGRAM_MODE: Final = 0o555
"""Read-only, since hard links share content and mode with other releases."""
DIRECTORY_MODE: Final = 0o755

_MAX_OPEN: Final = 64
_COPY_BYTES: Final = 256 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_EXISTING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CANNOT_LINK: Final = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def mode_of(file: File) -> int:
    """Give the permissions a file lands with."""
    return PROGRAM_MODE if file.x else FILE_MODE


class TreeWriter:
    """Fills one empty directory. With ``sync`` each file is made durable as it is written.

    Paths are a linted manifest's. One thread's; two may fill one tree with a writer each. Every method raises OSError.
    """

    def __init__(self, root: Path, *, sync: bool = False) -> None:
        self._sync = sync
        self._root = os.open(root, _DIRECTORY)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._buffer = memoryview(bytearray(_COPY_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (*self._open.values(), self._root):
            os.close(descriptor)
        self._open.clear()

    def make_directory(self, path: str) -> None:
        """Make a directory; its parent must exist."""
        parent, name = self._parent(path)
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        os.chmod(name, DIRECTORY_MODE, dir_fd=parent)

    def make_link(self, path: str, to: str) -> None:
        """Make a symbolic link."""
        parent, name = self._parent(path)
        os.symlink(to, name, dir_fd=parent)

    def write(self, file: File, blocks: Iterable[Block]) -> None:
        """Write a new file. When ``blocks`` fail, it is removed again."""
        parent, name = self._parent(file.p)
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, mode_of(file))
            if self._sync:
                os.fsync(descriptor)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)

    def adopt(self, file: File, source: str | Path) -> bool:
        """Take over an existing file if it has the promised content: by hard link, else as a copy.

        Its content is hashed first, whatever was known of it. False when it is not usable.
        """
        try:
            descriptor = os.open(source, _EXISTING)
        except OSError:
            return False
        try:
            seen = os.fstat(descriptor)
            if not stat.S_ISREG(seen.st_mode) or seen.st_size != file.s or not self._has_content(descriptor, file):
                return False
            if stat.S_IMODE(seen.st_mode) != mode_of(file) or not self._try_link(file, source, seen.st_ino):
                os.lseek(descriptor, 0, os.SEEK_SET)
                self.write(file, iter(lambda: os.read(descriptor, _COPY_BYTES), b""))
        finally:
            os.close(descriptor)
        return True

    def _has_content(self, descriptor: int, file: File) -> bool:
        digest = hashlib.sha256()
        while size := os.readv(descriptor, (self._buffer,)):
            digest.update(self._buffer[:size])
        return digest.hexdigest() == file.h

    def sync_directories(self, paths: Iterable[str]) -> None:
        """Make the names in these directories, and in the root, durable."""
        for path in paths:
            os.fsync(self._directory(path))
        os.fsync(self._root)

    def _try_link(self, file: File, source: str | Path, inode: int) -> bool:
        parent, name = self._parent(file.p)
        try:
            os.link(source, name, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in _CANNOT_LINK:
                return False
            raise
        if os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino == inode:
            return True
        os.unlink(name, dir_fd=parent)
        return False

    def _parent(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._directory(folder), name

    def _directory(self, path: str) -> int:
        """Give a descriptor of a directory in the tree, reached step by step without following links."""
        if not path:
            return self._root
        if path not in self._open:
            parent, name = self._parent(path)
            self._open[path] = os.open(name, _DIRECTORY, dir_fd=parent)
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]


def find_fault(root: Path, manifest: SignedManifest) -> str:
    """Give the first thing in a tree that is not as the manifest says, by lstat only; empty when all is right.

    Contents are not read. Things the manifest does not know are not looked for. Raises: OSError other
    than a missing entry.
    """
    base = os.fspath(root)
    for entry in manifest.entries():
        path = f"{base}/{entry.p}"
        try:
            fault = _fault_of(path, entry, os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            fault = "is missing"
        if fault:
            return f"{entry.p}: {fault}"
    return ""


def _fault_of(path: str, entry: Entry, seen: os.stat_result) -> str:
    match entry:
        case Directory():
            return "" if stat.S_ISDIR(seen.st_mode) else "is no directory"
        case Link():
            if not stat.S_ISLNK(seen.st_mode):
                return "is no symbolic link"
            return "" if os.readlink(path) == entry.to else f"does not point to {entry.to!r}"  # noqa: PTH115
        case File():
            if not stat.S_ISREG(seen.st_mode):
                return "is no regular file"
            if seen.st_size != entry.s:
                return f"has {seen.st_size} of {entry.s} bytes"
            mode = stat.S_IMODE(seen.st_mode)
            return "" if mode == mode_of(entry) else f"has mode {mode:04o} instead of {mode_of(entry):04o}"
