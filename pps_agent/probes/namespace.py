"""A view of the machine of the runner's own, where it starts as root.

Two things file modes cannot give to programs of one account: ``/proc`` shows a probe its own processes
only (a command line may hold the path of a private directory), and the runs' directories are on a file
system of their own, in memory, bounded as a whole, which nobody else sees and which goes with the runner.
The installed unit has the same from systemd (ProtectProc, TemporaryFileSystem). Mounts that others make
later, e.g. by autofs, still arrive where the mount of ``/`` is shared, as systemd has it. Standard
library only: the runner imports this module under ``python -I -S``.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x20000
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_SHARE_OF_MEMORY: Final = "25%"
_MOST_FILES: Final = 500_000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def enter_own_view(base: str) -> None:
    """Leave the machine's mounts for a copy of them with a private ``/proc`` and a private ``base``.

    Mode and owner of ``base`` stay. Raises: OSError where it is forbidden, as in many containers, or where
    what autofs mounts for us would not arrive; nothing has changed then.
    """
    status = Path(base).stat()
    if not mounts_arrive(Path("/proc/self/mountinfo").read_bytes()):
        raise OSError("autofs is used, and the mount of / is private")
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_SLAVE, None)
    options = f"size={_SHARE_OF_MEMORY},nr_inodes={_MOST_FILES},mode={status.st_mode & 0o7777:o}"
    options += f",uid={status.st_uid},gid={status.st_gid}"
    _mount("pps-probes", base, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "hidepid=ptraceable")


def mounts_arrive(mountinfo: bytes) -> bool:
    """Tell whether a copy of these mounts will get what is mounted on demand later. Pure."""
    lines = [line.split(b" - ") for line in mountinfo.splitlines()]
    shared = any(b" / / " in left and b" shared:" in left for left, _ in lines)
    return shared or not any(right.startswith(b"autofs ") for _, right in lines)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _checked(result, f"mount {target}")


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
