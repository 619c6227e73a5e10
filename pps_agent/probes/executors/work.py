"""The directory of payloads and answers: one for each task, named after the process that made it.

What a dead process left behind is found by that name at the next start, and the jobs by the names of the
directories in it. Where jobs belong to another account, that account may write there: nothing in it is believed,
and no link in it is followed.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.contain import ProcessKey, is_alive, process_key
from pps_agent.probes.executors.command import Account
from pps_agent.probes.scratch import make_scratch, remove_tree, scratch_prefix

KIND: Final = "pps-nodes"
PAYLOAD: Final = "payload.py"

_RUN: Final = re.compile(rf"{KIND}-([0-9]{{1,10}})-([0-9]{{1,20}})-[0-9a-f]{{32}}", re.ASCII)
JOB_NAME: Final = re.compile(r"pps-[0-9a-f]{12}-[0-9a-f]{32}", re.ASCII)
"""``pps-<agent>-<nonce>``: the name of a job and of its directory."""


class Work:
    """The directory below which each task gets one of its own."""

    def __init__(self, base: Path, account: Account | None) -> None:
        self._base, self._account = base, account

    @contextlib.contextmanager
    def open_run(self) -> Iterator["RunDirectory"]:
        """Give a task's directory; it is removed in the end, unless ``keep`` was set. Raises: SiteError."""
        run = RunDirectory(self._make(), self._account)
        try:
            yield run
        finally:
            if not run.keep:
                _remove(run.path)

    def leftovers(self) -> dict[str, tuple[str, ...]]:
        """Give directories of dead processes, each with the names of the jobs that have theirs in it."""
        found: dict[str, tuple[str, ...]] = {}
        with contextlib.suppress(OSError):  # never used yet, or not readable: the next task says so
            for entry in list(os.scandir(self._base)):
                matched = _RUN.fullmatch(entry.name)
                if matched and not is_alive(ProcessKey(int(matched[1]), int(matched[2]))):
                    found[entry.path] = tuple(sorted(filter(JOB_NAME.fullmatch, _names(entry.path))))
        return found

    def remove(self, path: str) -> None:
        """Remove what a dead process left, once its jobs are ended."""
        _remove(path)

    def _make(self) -> str:
        key = process_key(os.getpid())
        if key is None:
            raise SiteError("/proc is not mounted: mount it")
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            path = make_scratch(scratch_prefix(str(self._base), KIND, key))
            Path(path).chmod(0o711 if self._account else 0o700)
        except OSError as exc:
            raise SiteError(f"{self._base}: {exc.strerror}: let the agent write there, or set nodes.work") from exc
        return path


class RunDirectory:
    """One task's directory: a directory for each of its jobs."""

    def __init__(self, path: str, account: Account | None) -> None:
        self.path, self.keep = path, False
        self._account = account

    def add_job(self, name: str, payload: str) -> str:
        """Make a job's directory with its payload and give its path. Raises: SiteError."""
        path = f"{self.path}/{name}"
        try:
            Path(path).mkdir(0o700)
            file = Path(path, PAYLOAD)
            file.write_text(payload)
            file.chmod(0o700)
            if self._account:  # last: from now on it is not ours alone
                for made in (file, Path(path)):
                    os.chown(made, self._account.uid, self._account.gid)
        except OSError as exc:
            raise SiteError(f"{path}: {exc.strerror}: free space there, or set nodes.work") from exc
        return path


def read_output(path: str, limit_bytes: int) -> bytes:
    """Give what is there of a file that a job wrote, at most ``limit_bytes``; nothing where it is no plain file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(limit_bytes)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - names are what is wanted
    except OSError:
        return []


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # a job may still write there: the next start tries again
        remove_tree(path)
