"""The last good tags of an account that publishes: ``<cache>/tags/<uid>/<name>.json``, a directory for each.

The accounts of information systems may not write the agent's cache: ``pps-agent setup --publisher`` makes theirs.
"""

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from pps_agent.tags import disk
from pps_agent.tags.errors import TagError
from pps_agent.tags.layout import KEPT

_MAX_BYTES: Final = 1024**3
"""It is our own, and holds the lists of all VOs: one that is long must not make it useless for the others."""


class Keeper:
    """Keeps bytes in a file of the account that runs this. It belongs to that account, or it is not there.

    ``name`` says what is kept, and must be fit for a file.
    """

    def __init__(self, cache: Path, name: str) -> None:
        self._uid = os.geteuid()
        self._directory = cache / KEPT / str(self._uid)
        self._path = self._directory / f"{name}.json"

    def used_at(self) -> float:
        """Give when it was last in use, in seconds since 1970; 0 without one."""
        try:
            return self._path.lstat().st_mtime if self._is_ours() else 0.0
        except OSError:
            return 0.0

    def keep(self, content: bytes, now_s: float) -> str:
        """Keep bytes, if they are others than before; note when they were in use. Give what stands in the way of it."""
        try:
            self._make_directory()
            if self._is_ours() and self._path.stat().st_size == len(content) and self._path.read_bytes() == content:
                os.utime(self._path, (now_s, now_s))
            else:
                self._replace(content, now_s)
        except OSError as exc:
            return (
                f"cannot keep the tags for when they cannot be read: {exc.filename or self._path}: {exc.strerror};"
                f" check space, name a directory of this account with --cache, or have root run"
                f" pps-agent setup --publisher {_name(self._uid)}"
            )
        return ""

    def load(self) -> bytes:
        """Give what was kept; nothing where there is no sound file."""
        try:
            return (disk.load_list(self._path, _MAX_BYTES) or b"") if self._is_ours() else b""
        except (OSError, TagError):
            return b""

    def _replace(self, content: bytes, now_s: float) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
                stream.write(content)
            os.utime(temporary, (now_s, now_s))
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_directory(self) -> None:
        if self._has_directory():
            return
        with contextlib.suppress(FileExistsError):
            self._directory.parent.mkdir(mode=0o755)
        self._directory.mkdir(mode=0o700)

    def _is_ours(self) -> bool:
        try:
            status = self._path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_uid == self._uid and self._has_directory()

    def _has_directory(self) -> bool:
        try:
            status = self._directory.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_uid == self._uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
