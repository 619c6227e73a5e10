"""A real xrootd server on loopback, for the demonstration and for tests. Needs Debian's xrootd-server."""

import contextlib
import os
import pwd
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ACCOUNTS: Final = ("xrootd", "nobody")
"""Who the server becomes when we are root (it refuses to run as root): the first that exists."""
_ATTEMPTS: Final = 5
_START_S: Final = 20.0
_STOP_S: Final = 10.0
_HANDSHAKE: Final = struct.pack("!5i", 0, 0, 0, 4, 2012)
"""First bytes of every session. Source: XRootD protocol 5, section "Handshake"."""

# nodnr: no look-ups by name, so the rule below is by address; whoever matches none is refused.
_CONFIGURATION: Final = """\
xrd.port {port}
xrd.network nodnr
xrd.allow host 127.0.0.1
xrd.allow host [::1]
xrd.allow host [::ffff:127.0.0.1]
all.export {export}
oss.localroot {directory}/data
all.adminpath {directory}/admin
all.pidpath {directory}/run
xrootd.chksum adler32
"""


class XrootdError(Exception):
    """The server could not be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class XrootdServer:
    """A running server. ``url`` is a directory one may write in, ``data`` the place of its files on disk."""

    url: str
    port: int
    directory: Path
    process: "subprocess.Popen[bytes]"
    temporary: bool

    @property
    def data(self) -> Path:
        """The exported directory as it lies on disk."""
        return self.directory / "data" / "probe"

    def stop(self) -> None:
        """End the server and remove its files when the directory was made for it."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def missing_reason() -> str:
    """Say what is missing for a server on this machine; empty when nothing is."""
    if shutil.which("xrootd") is None:
        return "xrootd is not installed: apt-get install xrootd-server xrootd-client"
    if os.geteuid() == 0 and _account() is None:
        return f"none of the accounts {', '.join(ACCOUNTS)} exists: xrootd refuses to run as root"
    return ""


def start_xrootd(directory: Path | None = None, *, timeout_s: float = _START_S) -> XrootdServer:
    """Start a server on a free port and wait until it answers.

    It serves ``/probe`` with adler32 checksums to this machine only. ``directory`` holds its files and
    log; without one it gets a directory of its own, removed by ``stop``. Raises: XrootdError.
    """
    if reason := missing_reason():
        raise XrootdError(reason)
    temporary = directory is None
    home = directory if directory is not None else Path(tempfile.mkdtemp(prefix="pps-xrootd-"))
    problem = ""
    try:
        _prepare(home)
        for _ in range(_ATTEMPTS):
            port = _free_port()
            process = _spawn(home, port)
            if not (problem := _wait_until_answering(process, port, timeout_s)):
                url = f"root://localhost:{port}//probe"
                return XrootdServer(url, port, home, process, temporary)
            process.kill()
            process.wait()
        raise XrootdError(f"xrootd {problem}: {_last_words(home)}")
    except BaseException:
        if temporary:
            shutil.rmtree(home, ignore_errors=True)
        raise


def _account() -> pwd.struct_passwd | None:
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _prepare(home: Path) -> None:
    account = _account() if os.geteuid() == 0 else None
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (home / "data", home / "data" / "probe", home / "admin", home / "run"):
        path.mkdir(mode=0o755, exist_ok=True)
        if account:
            os.chown(path, account.pw_uid, account.pw_gid)
    if account:
        os.chown(home, account.pw_uid, account.pw_gid)
        home.chmod(0o755)
        closed = next((p for p in home.resolve().parents if not p.stat().st_mode & 0o001), None)
        if closed:
            raise XrootdError(f"user {account.pw_name} cannot pass {closed}: give a directory elsewhere, or none")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _spawn(home: Path, port: int) -> "subprocess.Popen[bytes]":
    configuration = home / "xrootd.cf"
    configuration.write_text(_CONFIGURATION.format(port=port, directory=home, export="/probe"))
    account = _account() if os.geteuid() == 0 else None
    with (home / "xrootd.log").open("ab") as log:
        return subprocess.Popen(
            [shutil.which("xrootd") or "xrootd", "-c", str(configuration), "-n", "pps"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def _wait_until_answering(process: "subprocess.Popen[bytes]", port: int, timeout_s: float) -> str:
    """Give what is wrong; empty once the server answers a handshake."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if _answers(port):
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"ended with {process.wait(0.05)}"
    return f"did not answer within {timeout_s:g} s"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(_HANDSHAKE)
            return len(connection.recv(16)) > 0
    except OSError:
        return False


def _last_words(home: Path) -> str:
    lines = (home / "xrootd.log").read_text("utf-8", "replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "no message"
