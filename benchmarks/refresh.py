"""``refresh-noop``: what a look at a repository that has nothing new costs."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.measure import Claim, claim_at_most
from benchmarks.site import Site, open_site
from benchmarks.versions import Versions
from demo.programs import find_program

_REQUESTS: Final = 2
"""The next root, which is not there, and the timestamp: TUF 1.0, clauses 5.3 and 5.4, asks for both."""
_CALLS: Final = (
    "trace=openat,open,creat,rename,renameat,renameat2,link,linkat,fsync,fdatasync,unlink,unlinkat,write,sendto"
)
_OPENED: Final = re.compile(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", [^)]*O_(?:WRONLY|RDWR)')
_MOVED: Final = re.compile(r'(?:rename|link)\w*\(.*"([^"]+)"')


def measure() -> Iterator[Claim]:
    """Count requests by what is sent, and what is written to files that stay, both seen by strace."""
    first = Versions().build_first()
    with open_site() as site:
        site.publish(first)
        site.refresh()
        before = _picture(site)
        text = _trace(site)
        after = _picture(site)
        changed = sum(1 for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        asked = len(re.findall(r'"GET /', text))
        written = _written(text, site.base)
    yield claim_at_most("refresh-noop", asked, _REQUESTS, unit="requests", peer="what TUF requires", limit=1)
    yield claim_at_most(
        "refresh-noop writes",
        changed + written,
        1,
        unit="files",
        peer="one file",
        limit=0,
        note="kept files with another inode or time, and those opened for writing, renamed or linked, scratch apart",
    )


def _picture(site: Site) -> dict[Path, tuple[int, int]]:
    """Give inode and time of everything the agent keeps but directories, in which scratch comes and goes."""
    state = site.base / "state"
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in state.rglob("*") if path.is_file()}


def _trace(site: Site) -> str:
    log = site.base / "strace"
    command = [find_program("pps-agent"), "--config", str(site.config), "job", "refresh"]
    subprocess.run(
        ["strace", "-f", "-s", "200", "-o", log, "-e", _CALLS, *command], check=True, stdout=subprocess.DEVNULL
    )
    return log.read_text(errors="replace")


def _written(trace: str, base: Path) -> int:
    """Count files below ``base`` that are written and stay: neither python-tuf's scratch nor the empty lock."""
    touched = [*_OPENED.findall(trace), *_MOVED.findall(trace)]
    return sum(path.startswith(f"{base}/") and "/work." not in path and not path.endswith("/lock") for path in touched)
