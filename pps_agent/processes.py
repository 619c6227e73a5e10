"""Which releases are in use: by looking at every process's program, working directory, root and mapped files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pps_agent.state import Unknown


@dataclass(frozen=True, slots=True)
class Users:
    """Names of entries in use; ``unseen`` processes of this machine may not be looked into and may use any."""

    names: frozenset[str] = frozenset()
    unseen: int = 0


def observe_users(releases: Path, proc: Path = Path("/proc")) -> Users | Unknown:
    """Give the names of the entries of ``releases`` that some process of this machine uses.

    An agent can look into processes of its own account, as root into all but more privileged ones.
    The rest is not seen, always: were the answer Unknown because of them, nothing could ever be
    removed. The drain time is what protects their jobs, and those on other nodes of a shared store;
    how many they are is told.
    """
    prefix = os.fsencode(os.path.realpath(releases)) + b"/"
    used: set[str] = set()
    unseen = 0
    try:
        numbers = [name for name in os.listdir(proc) if name.isdigit()]  # noqa: PTH208 - names are all we want
    except OSError as exc:
        return Unknown(f"{proc}: {exc.strerror}")
    for number in numbers:
        try:
            for path in _paths_of(proc / number, prefix):
                used.add(os.fsdecode(path[len(prefix) :].split(b"/", 1)[0].removesuffix(b" (deleted)")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        except PermissionError:
            unseen += 1
        except OSError as exc:
            return Unknown(f"{exc.filename}: {exc.strerror}")
    return Users(frozenset(used), unseen)


def _paths_of(process: Path, prefix: bytes) -> Iterator[bytes]:
    for name in ("cwd", "root", "exe"):
        try:
            path = os.readlink(os.fsencode(process / name))  # noqa: PTH115 - bytes, since names may be anything
        except FileNotFoundError:
            continue  # threads of the kernel have no program
        if path.startswith(prefix):
            yield path
    maps = (process / "maps").read_bytes()
    if prefix in maps:
        for line in maps.splitlines():
            # address perms offset dev inode path; see proc_pid_maps(5)
            _, found, path = line.partition(prefix)
            if found:
                yield prefix + path
