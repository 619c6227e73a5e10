"""The file of tags in GLUE 2 that a BDII reads by itself, so that it need not start a provider.

It is replaced as a whole, and only where something but the time of its making is another. What is in it stays valid
for ``VALIDITY_S``, so it is made anew after half of that although nothing changed.
"""

import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from pps_agent.files import save_bytes
from pps_agent.tags.areas import Area
from pps_agent.tags.errors import TagFileError
from pps_agent.tags.glue2 import VALIDITY_S, Place, render_glue2
from pps_agent.tags.snapshot import take_snapshot

_MODE: Final = 0o644
"""The BDII's account reads it."""
_MADE: Final = b"GLUE2EntityCreationTime:"


def keep_ldif(area: Area, cache: Path, host: str, now: datetime) -> tuple[str, ...]:
    """Bring an area's file up to date, if it has one; give what kept newer tags away.

    On trouble with the lists it holds the last good ones. Raises: TagFileError when it cannot be written; WireError
    when an id of the settings cannot stand in LDIF.
    """
    if area.ldif is None:
        return ()
    snapshot = take_snapshot(area.open(), cache, area.name_of(area.subclusters))
    place = Place(area.service, area.manager)
    content = "".join(
        render_glue2(subcluster, tags, place, host, now) for subcluster, tags in snapshot.tags.items()
    ).encode()
    try:
        if not _is_fresh(area.ldif, content):
            save_bytes(area.ldif, content, mode=_MODE)
    except OSError as exc:
        raise TagFileError(
            f"cannot write {area.ldif}: {exc.strerror}; give this account write access to its directory"
        ) from exc
    return snapshot.problems


def _is_fresh(path: Path, content: bytes) -> bool:
    """Tell whether the file says the same and was not made long ago.

    The directory is the BDII's: a pipe, a link or a file of another length is not read. Raises: OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        age_s = time.time() - status.st_mtime
        if not stat.S_ISREG(status.st_mode) or status.st_size != len(content) or not 0 <= age_s < VALIDITY_S / 2:
            return False
        before = os.pread(descriptor, len(content), 0)
    finally:
        os.close(descriptor)
    return list(_said(before)) == list(_said(content))


def _said(content: bytes) -> Iterator[bytes]:
    return (line for line in content.split(b"\n") if not line.startswith(_MADE))
