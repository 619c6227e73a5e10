"""The files beside a VO's tag lists that hold what the lists cannot: ``<base>/.pps-tags/<vo>/``.

``life.json`` (see ``life.py``), ``audit.jsonl`` (``audit.py``) and, in the middle of a change, ``intent.json``
(``intent.py``). One directory for each VO, so that a VO's software manager can change that VO's tags with all that
belongs to them, and nobody else's. Whoever writes holds the lock of the tag base.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.files import save_bytes, sync_directory
from pps_agent.tags import audit, disk, layout
from pps_agent.tags.audit import Entry, Head
from pps_agent.tags.errors import TagFileError
from pps_agent.tags.intent import Intent, parse_intent, render_intent
from pps_agent.tags.life import Lives, parse_lives, render_lives
from pps_agent.tags.replacement import sweep
from pps_wire.errors import WireError
from pps_wire.names import Vo

DIRECTORY: Final = layout.LEDGERS
_LIVES: Final = layout.LIVES
_AUDIT: Final = layout.AUDIT
_INTENT: Final = layout.INTENT
_MODE: Final = 0o664
"""The group is the VO's; providers of other accounts read."""
_CHUNK_BYTES: Final = 64 * 1024


class Ledger:
    """What is written down about one VO's tags. A directory that is not there is an empty ledger."""

    def __init__(self, base: Path, vo: Vo) -> None:
        self._base, self._vo, self._directory = base, vo, base / DIRECTORY / vo

    @property
    def audit_path(self) -> Path:
        """Where the log is."""
        return self._directory / _AUDIT

    @property
    def paths(self) -> tuple[Path, ...]:
        """What readers of tags read."""
        return self._directory / _INTENT, self._directory / _LIVES

    def mark(self) -> tuple[int, ...]:
        """Give what differs after any change: readers that saw two marks saw two states."""
        found: list[int] = []
        for name in (_INTENT, _LIVES, _AUDIT):
            with contextlib.suppress(OSError):
                status = (self._directory / name).stat()
                found += (status.st_ino, status.st_size, status.st_mtime_ns)
        return tuple(found)

    def lives(self) -> Lives:
        """Give the entries. Raises: TagFileError."""
        content = disk.load_list(self._directory / _LIVES, disk.MAX_LEDGER_BYTES)
        if content is None:
            return Lives()
        with self._explained(_LIVES):
            return parse_lives(content, self._vo)

    def intent(self) -> Intent | None:
        """Give the change that was begun and not finished, if there is one. Raises: TagFileError."""
        content = disk.load_list(self._directory / _INTENT, disk.MAX_LEDGER_BYTES)
        if content is None:
            return None
        with self._explained(_INTENT):
            return parse_intent(content, self._vo)

    def head(self) -> Head:
        """Give the end of the log, without a line that was cut off while it was written. Raises: TagFileError."""
        with self._understood():
            line = self._last_line()
            return Head() if line is None else audit.head_of(line)

    def begin(self, intent: Intent) -> None:
        """Write down a change durably. From here on it counts. Raises: TagFileError; nothing is changed then."""
        content = render_intent(intent)
        if len(content) > disk.MAX_LEDGER_BYTES:  # the next one could not read it, and every change waits for it
            raise TagFileError(
                f"a change of {len(content)} bytes is too large for {self._directory}: make several of it"
            )
        self._make_directory()
        self._check_log()
        self._save(_INTENT, content)

    def finish(self, intent: Intent) -> None:
        """Do what is left of a change once its lists are written. Done again, it does no more. Raises: TagFileError."""
        if intent.lives is not None:
            self._save(_LIVES, render_lives(intent.lives))
        self._append(intent.line)
        self.drop()

    def drop(self) -> None:
        """Forget the change that was begun. Raises: TagFileError."""
        with self._told(_INTENT):
            (self._directory / _INTENT).unlink(missing_ok=True)

    def lines(self) -> Iterator[bytes]:
        """Give the lines of the log, each with its newline, the oldest first. Raises: TagFileError."""
        descriptor = disk.open_list(self.audit_path)
        if descriptor is not None:
            with os.fdopen(descriptor, "rb") as stream:
                while line := stream.readline(audit.MAX_LINE_BYTES):
                    if len(line) == audit.MAX_LINE_BYTES and not line.endswith(b"\n"):
                        raise TagFileError(f"{self.audit_path} has a line without end: move the file away")
                    yield line

    def entries(self) -> Iterator[Entry]:
        """Give the changes, the oldest first; what is no entry is left out. Raises: TagFileError."""
        for line in self.lines():
            with contextlib.suppress(ValueError):
                yield audit.parse_entry(line)

    def _append(self, line: bytes) -> None:
        """Add a line to the log, unless it is its last one already; what was cut off before it goes."""
        with self._understood():
            last = self._last_line()
        if last == line:
            return
        with self._told(_AUDIT), self._understood():
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.audit_path, flags, _MODE)
            try:
                status = os.fstat(descriptor)
                self._refuse_second_name(status)
                is_new = status.st_size == 0  # also where its maker was killed before the next lines
                if is_new and status.st_uid == os.geteuid():
                    os.fchmod(descriptor, _MODE)  # whatever the umask: the VO's managers and the agent append in turn
                os.ftruncate(descriptor, _whole_bytes(descriptor))
                content = line + b"\n"
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_directory(self._directory)

    def _check_log(self) -> None:
        """See that the log can be written, before a change that could not be told of is begun. Raises: TagFileError."""
        with self._told(_AUDIT), contextlib.suppress(FileNotFoundError):
            descriptor = os.open(
                self.audit_path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            try:
                self._refuse_second_name(os.fstat(descriptor))
            finally:
                os.close(descriptor)

    def _refuse_second_name(self, status: os.stat_result) -> None:
        """Refuse a log that has another name, maybe in another VO's directory. Raises: TagFileError."""
        if status.st_nlink > 1:
            raise TagFileError(
                f"{self.audit_path} has {status.st_nlink} names (hard links): see who put it there and move it away"
            )

    def _last_line(self) -> bytes | None:
        """Give the last whole line, without its newline; None in an empty log. Raises: ValueError: it has no end."""
        descriptor = disk.open_list(self.audit_path)
        if descriptor is None:
            return None
        try:
            end = _whole_bytes(descriptor)
            begin = _find_newline(descriptor, end - 1) if end else 0
            return os.pread(descriptor, end - 1 - begin, begin) if end else None
        finally:
            os.close(descriptor)

    def _save(self, name: str, content: bytes) -> None:
        with self._told(name):
            sweep(self._directory / name)
            save_bytes(self._directory / name, content, mode=_MODE)

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            disk.make_directories(self._directory, self._base)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise TagFileError(
                f"cannot write {self._directory / name}: {exc.strerror}; check space and permissions,"
                " or have root run pps-agent setup"
            ) from exc

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError) as exc:
            raise TagFileError(
                f"{self.audit_path}: its last line is no entry: see pps-agent tag audit --verify"
            ) from exc

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except WireError as exc:
            raise TagFileError(f"{self._directory / name}: {exc}") from exc


def _whole_bytes(descriptor: int) -> int:
    """Give how many bytes of the log are whole lines."""
    return _find_newline(descriptor, os.fstat(descriptor).st_size)


def _find_newline(descriptor: int, end: int) -> int:
    """Give the place behind the last newline before ``end``; 0 where there is none.

    Raises: ValueError when none is near: a manager may have made the file as long as he likes, and the lock is held.
    """
    nearest = end - audit.MAX_LINE_BYTES
    while end > 0:
        if end < nearest:
            raise ValueError(f"a line of more than {audit.MAX_LINE_BYTES} bytes")
        begin = max(0, end - _CHUNK_BYTES)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
