"""The runs under way, kept on disk, so that the next start can tell which ones were lost.

One line of JSON each, ``["org.pps.sys.disk","",1790000000.5]``: metric, release (empty: production), start in
seconds since 1970. A start adds a line; after a commit the file holds again what is still open. Each change is
one pwrite(2) and nothing is flushed: what must survive is the end of this process, and the page cache does.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pps_agent.errors import SiteError
from pps_agent.probes.slots import Key
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId, parse_probe_name

FILE_NAME: Final = "running.jsonl"
_MAX_BYTES: Final = 4 * 1024**2
_MAX_S: Final = 253_402_300_800
"""The end of the year 9999: no start is later, whatever halves of two lines make together."""
_Line = tuple[str, str, float]


class OpenRun(NamedTuple):
    """A run that was started and has no result on record."""

    key: Key
    started_s: float


class RunningFile:
    """The file of one state directory; one daemon at a time has it, and with it the right to run probes."""

    def __init__(self, state: Path) -> None:
        """Raises: SiteError when it cannot be opened, or another daemon has it."""
        path = state / FILE_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise SiteError(f"{path}: {exc.strerror}: check owner, mode and space there") from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise SiteError(f"{path}: another daemon runs probes with this state: stop one of them") from None
        except OSError:
            pass  # a file system without locks: nothing tells two daemons apart there
        self._end = os.fstat(self._descriptor).st_size

    def load(self) -> tuple[OpenRun, ...]:
        """Give what an earlier daemon left open; lines that cannot be read are passed over."""
        content = os.pread(self._descriptor, _MAX_BYTES, 0)
        return tuple(run for line in content.splitlines() if (run := _read(line)) is not None)

    def add(self, runs: Iterable[OpenRun]) -> None:
        """Note runs that start now. Where there is no room for that, the run matters more than the note."""
        content = b"".join(map(_render, runs))
        if content:
            with contextlib.suppress(OSError):
                self._end += os.pwrite(self._descriptor, content, self._end)

    def keep(self, runs: Iterable[OpenRun]) -> None:
        """Hold these runs and no others."""
        content = b"".join(map(_render, runs))
        if not content and not self._end:
            return
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
            self._end = len(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _render(run: OpenRun) -> bytes:
    return msgspec.json.encode((run.key.metric, run.key.release or "", run.started_s)) + b"\n"


def _read(line: bytes) -> OpenRun | None:
    try:
        metric, release, started_s = msgspec.json.decode(line, type=_Line)
        if not 0 <= started_s < _MAX_S:
            return None
        return OpenRun(Key(parse_probe_name(metric), ReleaseId(release) if release else None), started_s)
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError):
        return None
