"""The passive spool: results that other programs leave in a directory, taken once each.

A writer makes the file under a name that begins with a dot and renames it, as for a mail spool. One that writes in
place is tolerated: a file younger than SETTLE_S that is not whole is left for the next look.

What another account wrote is not believed: a file must belong to root, the agent's user, the directory's owner or,
where the directory's group may write, to a member of that group; nobody else may be able to change it or its name.
Names are opened beneath the directory, without following links, and never block. A metric that is not renewed in
time gives one result, STALE. A name of an installed probe is refused: nobody outside speaks for it.
"""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from pps_agent.probes.spool_file import (
    MAX_SPOOL_BYTES,
    Spooled,
    SpoolName,
    is_whole,
    parse_spool_name,
    read_spooled,
    stale_result,
)
from pps_wire.errors import WireError
from pps_wire.names import ProbeName

MAX_ENTRIES: Final = 4096
MAX_METRICS: Final = 1000
SETTLE_S: Final = 1.0

_SPEAKS: Final = "is an installed probe, which speaks for itself: choose another name"


@dataclass(frozen=True, slots=True)
class SpoolLook:
    """What a look found: results not given before by this process, and what is wrong, with what to do about it."""

    news: tuple[Spooled, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was taken of one metric: the file as it was, and whether it was told to be stale.

    ``below`` are the further metrics of which the file spoke.
    """

    name: SpoolName
    mark: tuple[int, int, int]
    written_at: datetime
    below: tuple[ProbeName, ...] = ()
    is_stale: bool = False

    @property
    def good_until(self) -> datetime:
        return self.written_at + timedelta(seconds=self.name.max_age_s)


class Spool:
    """Looks at the directory again and again; each state of a file gives its results once.

    ``newest`` gives when the newest known result of a metric is from, so that a new start takes nothing twice.
    """

    def __init__(self, directory: Path, newest: Callable[[ProbeName], datetime | None]) -> None:
        self._directory, self._newest = directory, newest
        self._seen: dict[ProbeName, _Seen] = {}

    def look(self, now: datetime, installed: Collection[str]) -> SpoolLook:
        """Take what is new. ``installed`` are the names and aliases of probes, which no file may bear.

        What cannot be read is a problem, never an error: it says nothing of the other files.
        """
        problems: list[str] = []
        news: list[Spooled] = []
        files = self._find_files(installed, problems)
        for metric, file in files.items():
            news += self._take(metric, file, now, installed, problems)
        for metric in self._seen.keys() - files.keys():
            news += self._expire(metric, now, is_gone=True)
        return SpoolLook(tuple(news), tuple(problems))

    def _take(
        self, metric: ProbeName, file: "_File", now: datetime, installed: Collection[str], problems: list[str]
    ) -> Iterator[Spooled]:
        if file.content is None:  # as it was at the last look
            yield from self._expire(metric, now, is_gone=False)
            return
        raw = file.content
        if len(raw) > MAX_SPOOL_BYTES:
            problems.append(f"{self._directory / file.text}: larger than {MAX_SPOOL_BYTES} bytes: write less")
            raw = b""
        if now - file.written_at < timedelta(seconds=SETTLE_S) and not is_whole(file.name, raw):
            return
        newest = self._newest(metric) if metric not in self._seen else None
        self._seen[metric] = seen = _Seen(file.name, file.mark, min(file.written_at, now))
        if seen.good_until < now:
            # What is known may be the result that was left then, or that nobody renewed it.
            is_known = newest is not None and newest > file.written_at
            yield from (replace(spooled, is_known=is_known) for spooled in self._expire(metric, now, is_gone=False))
            return
        is_known = newest is not None and newest >= file.written_at
        metrics: list[ProbeName] = []
        for spooled in read_spooled(file.name, raw, file.written_at, now):
            if spooled.result.probe in installed:
                problems.append(f"{self._directory / file.text}: {spooled.result.probe} {_SPEAKS}")
            else:
                metrics.append(spooled.result.probe)
                yield replace(spooled, is_known=is_known)
        self._seen[metric] = replace(seen, below=tuple(metrics[1:]))

    def _expire(self, metric: ProbeName, now: datetime, *, is_gone: bool) -> Iterator[Spooled]:
        """Give the one result of a metric, and of those below it, that says that it was not renewed in time."""
        seen = self._seen[metric]
        if seen.good_until < now and not seen.is_stale:
            self._seen[metric] = replace(seen, is_stale=True)
            stale = stale_result(seen.name, seen.written_at, now, is_gone=is_gone)
            yield stale
            for below in seen.below:
                yield replace(stale, result=replace(stale.result, probe=below, parent=metric))

    def _find_files(self, installed: Collection[str], problems: list[str]) -> dict[ProbeName, "_File"]:
        """Give the newest good file of each metric."""
        found: dict[ProbeName, _File] = {}
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            problems.append(f"{self._directory}: {exc.strerror}: correct probes.spool or let the agent's user read it")
            return found
        try:
            status = os.fstat(descriptor)
            if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                problems.append(f"{self._directory}: anybody can rename files in it: chmod o-w it, or chmod +t it")
                return found
            opened = _Directory(descriptor, status, _find_owners(status))
            for text in self._list(descriptor, problems):
                file = self._read(opened, text, installed, problems)
                if file is not None and (len(found) < MAX_METRICS or file.name.metric in found):
                    self._keep_newest(found, file, problems)
        finally:
            os.close(descriptor)
        return found

    def _keep_newest(self, found: dict[ProbeName, "_File"], file: "_File", problems: list[str]) -> None:
        other = found.setdefault(file.name.metric, file)
        if other is not file:
            older, newer = sorted((other, file), key=lambda one: one.written_at)
            found[file.name.metric] = newer
            problems.append(f"{self._directory / older.text}: a newer file speaks for it too: remove this one")

    def _list(self, descriptor: int, problems: list[str]) -> list[str]:
        with os.scandir(descriptor) as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_ENTRIES + 1) if not entry.name.startswith("."))
        if len(names) > MAX_ENTRIES:
            problems.append(f"{self._directory}: more than {MAX_ENTRIES} files: remove what no program renews")
        return names[:MAX_ENTRIES]

    def _read(self, opened: "_Directory", text: str, installed: Collection[str], problems: list[str]) -> "_File | None":
        """Read one file, if it may speak; else note why not."""
        shown = self._directory / ascii(text)[1:-1]
        try:
            name = parse_spool_name(text)
            if name.metric in installed:
                raise WireError("spool", f"{name.metric} {_SPEAKS}")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with os.fdopen(os.open(text, flags, dir_fd=opened.descriptor), "rb") as stream:
                status = os.fstat(stream.fileno())
                if fault := _find_fault(status, opened):
                    raise WireError("spool", fault)
                mark = (status.st_ino, status.st_mtime_ns, status.st_size)
                seen = self._seen.get(name.metric)
                content = None if seen is not None and seen.mark == mark else stream.read(MAX_SPOOL_BYTES + 1)
        except FileNotFoundError:
            return None  # renamed or removed since the list was made
        except WireError as exc:
            problems.append(f"{shown}: {exc.problem}")
            return None
        except OSError as exc:
            problems.append(f"{shown}: {exc.strerror}: make it a file that the agent's user can read")
            return None
        try:
            written_at = datetime.fromtimestamp(status.st_mtime, UTC)
        except (ValueError, OverflowError, OSError):  # file systems keep times that are beyond the calendar's end
            problems.append(f"{shown}: was written at no time in the calendar's years 1 to 9999: write it again")
            return None
        return _File(text, name, mark, written_at, content)


@dataclass(frozen=True, slots=True)
class _Directory:
    """The spool while one look lasts, and whose files in it are believed."""

    descriptor: int
    status: os.stat_result
    owners: frozenset[int]


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the spool as it was read; ``content`` None: nothing of it changed since the last look."""

    text: str
    name: SpoolName
    mark: tuple[int, int, int]
    written_at: datetime
    content: bytes | None


def _find_owners(directory: os.stat_result) -> frozenset[int]:
    """Give the accounts whose files are believed."""
    owners = {0, os.geteuid(), directory.st_uid}
    if directory.st_mode & stat.S_IWGRP:
        try:
            members = grp.getgrgid(directory.st_gid).gr_mem
            owners |= {entry.pw_uid for entry in map(pwd.getpwnam, members)}
        except KeyError:
            pass  # a group or a member that this machine does not know adds nobody
    return frozenset(owners)


def _find_fault(status: os.stat_result, opened: _Directory) -> str:
    """Tell why a file is not believed; empty when it is."""
    if not stat.S_ISREG(status.st_mode):
        return "is no file: remove it"
    if status.st_uid not in opened.owners:
        return f"belongs to user {status.st_uid}, who is neither the directory's owner nor of its group: remove it"
    if status.st_nlink > 1:
        return "has another name elsewhere: remove it and write a file of its own"
    is_shared = opened.status.st_mode & stat.S_IWGRP and status.st_gid == opened.status.st_gid
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not is_shared):
        return "others can write it: chmod go-w it"
    return ""
