"""The process of a runner of our own: started for whom it shall become, ended with all it started."""

import contextlib
import hashlib
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.errors import ConfigError, SiteError
from pps_agent.probes import contain, marks
from pps_agent.probes.scratch import make_scratch, remove_tree, scratch_prefix, sweep_scratch

_STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs probes."""

    uid: int
    gid: int


@contextlib.contextmanager
def run_process(
    user: str, state: Path | None, temporary: Path | None, options: Sequence[str]
) -> Iterator[socket.socket]:
    """Give a connected socket of a runner that lives for as long as the context lasts, see ``start_runner``.

    Raises: ConfigError for an unknown user, SiteError when it cannot be started.
    """
    account = _account(user)
    uid = account.uid if account else os.geteuid()
    owner = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16] if state else secrets.token_hex(8)
    contain.become_subreaper()
    marks.sweep(owner, uid)  # we may see more than the runner, which has given up its rights
    with _base_directory(owner, account, temporary) as base:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = _spawn(theirs, base, owner, account, options)
            try:
                yield ours
            finally:
                ours.close()
                _end(process)
                marks.sweep(owner, uid)


def _account(user: str) -> _Account | None:
    """Give whom the runner must become; None when it stays what we are."""
    if not user or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError([f"probes.user: no account {user!r} on this machine: create it or leave it empty"]) from None
    return _Account(entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None


@contextlib.contextmanager
def _base_directory(owner: str, account: _Account | None, temporary: Path | None) -> Iterator[Path]:
    """Make the directory in which runs get theirs; another user's runs can neither list nor replace it."""
    try:
        parent, kind = str(temporary or tempfile.gettempdir()), f"pps-probes-{owner}"
    except FileNotFoundError as exc:  # neither TMPDIR nor /tmp nor the working directory can be written
        raise SiteError(f"{exc.strerror}: give the agent a TMPDIR that it may write") from exc
    sweep_scratch(parent, kind)
    key = contain.process_key(os.getpid())
    if key is None:
        raise SiteError("/proc is not mounted: mount it, probes cannot be contained without")
    try:
        base = Path(make_scratch(scratch_prefix(parent, kind, key)))
    except OSError as exc:
        raise SiteError(f"{parent}: {exc.strerror}: free space, or give the agent another TMPDIR") from exc
    try:
        if account:
            base.chmod(0o1733)
        yield base
    finally:
        with contextlib.suppress(OSError):  # a stray that could not be killed may still write there
            remove_tree(str(base))


def _spawn(
    theirs: socket.socket, base: Path, owner: str, account: _Account | None, options: Sequence[str]
) -> "subprocess.Popen[bytes]":
    runner = Path(__file__).with_name("runner.py")
    command = [sys.executable, "-I", "-S", str(runner), "--base", str(base), "--owner", owner]
    command += ["--fd", str(theirs.fileno()), *options]
    if account:
        command += ["--uid", str(account.uid), "--gid", str(account.gid)]
    try:
        return subprocess.Popen(
            command,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as exc:
        raise SiteError(f"the probe runner could not be started: {exc}: check {sys.executable}") from exc


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a runner whose socket we have closed; one that does not end by itself is killed."""
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
