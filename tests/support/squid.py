"""A real squid on loopback that caches everything it may."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import free_port, listens, running

_CONFIG = """
http_port 127.0.0.1:{port}
http_access {access} all
cache_mem 64 MB
maximum_object_size_in_memory 32 MB
{more}
# an eager cache: whatever states no life of its own is fresh for an hour
refresh_pattern . 60 100% 60
connect_timeout 2 seconds
shutdown_lifetime 0 seconds
access_log none
cache_log /dev/null
cache_store_log none
pid_filename none
pinger_enable off
"""


def missing_reason() -> str:
    """Say what this machine lacks for the proxy; empty when nothing."""
    return "" if _program() else "the proxy needs: apt-get install squid"


@contextmanager
def start_squid(directory: Path, *, access: str = "allow", more: str = "") -> Iterator[str]:
    """Start squid and give its address; ``access`` ``deny`` refuses everybody, ``more`` are further directives."""
    port = free_port()
    config = directory / "squid.conf"
    config.write_text(_CONFIG.format(port=port, access=access, more=more))
    for path in (directory, *directory.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)  # it gives up root and reads its settings again
    config.chmod(0o644)
    log = directory / "squid.out"
    with running([_program(), "-N", "-f", config], lambda: listens(port), log) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()  # it has nothing to save


def _program() -> str:
    return shutil.which("squid") or shutil.which("squid", path="/usr/sbin") or ""
