"""What all starters of servers need: a free port, waiting until a port answers, an end that is certain."""

import os
import pwd
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.netns import LoopbackNetwork

START_S = 60.0
_POLL_S = 0.02


def free_port() -> int:
    """Give a port of loopback that nobody listens at just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    argv: Sequence[str | Path],
    is_ready: Callable[[], bool],
    log: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server, what it says going to ``log``, from the moment it is ready to the end of the block."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*map(str, argv)], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_ready():
            assert process.poll() is None, f"{argv[0]} ended: {log.read_text(errors='replace')[-2000:]}"
            assert time.monotonic() < deadline, f"{argv[0]} is not ready: {log.read_text(errors='replace')[-2000:]}"
            select.select([], [], [], _POLL_S)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int, network: LoopbackNetwork | None = None) -> bool:
    """Tell whether a server listens at a port, without connecting to it."""
    # A connection would be a session that some servers log, count or wait for. 0A is TCP_LISTEN.
    base = Path(f"/proc/{network.pid if network else 'self'}/net")
    lines = [line.split() for name in ("tcp", "tcp6") for line in (base / name).read_text().splitlines()[1:]]
    return any(words[1].endswith(f":{port:04X}") and words[3] == "0A" for words in lines)


def give_to(account: str, *paths: Path) -> None:
    """Make files and directories an account's own, where we are root."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(account)
        for path in paths:
            os.chown(path, entry.pw_uid, entry.pw_gid)
