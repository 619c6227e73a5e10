"""A pool of HTCondor 23 in a root of its own (``./run test`` unpacks it) and in namespaces that nothing outside sees.

The pool's files lie below ``base``, which has the same name inside and outside. Its programs are reached through
small scripts in ``bin`` that enter the pool's namespaces: put ``bin`` first in PATH.
"""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.namespaces import end_namespace
from tests.support.services import need
from tests.support.trixie import ROOT, sandbox

COMMANDS = (
    "condor_submit",
    "condor_q",
    "condor_rm",
    "condor_hold",
    "condor_status",
    "condor_reconfig",
    "condor_history",
)
_CONFIG = """
RELEASE_DIR = /usr
LOCAL_DIR = {base}
LOG = {base}/log
LOCK = {base}/lock
SPOOL = {base}/spool
EXECUTE = {base}/execute
RUN = {base}/run
ETC = {base}/etc
BIN = /usr/bin
SBIN = /usr/sbin
LIB = /usr/lib/condor
LIBEXEC = /usr/libexec/condor
SHARE = /usr/share/condor
REQUIRE_LOCAL_CONFIG_FILE = false
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR = {base}/config.d
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:19618
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = lab
UID_DOMAIN = lab
FILESYSTEM_DOMAIN = lab
DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD STARTD
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
SEC_CLIENT_AUTHENTICATION_METHODS = FS
SEC_DEFAULT_ENCRYPTION = OPTIONAL
SEC_DEFAULT_INTEGRITY = OPTIONAL
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_ADMINISTRATOR = *
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
RUNBENCHMARKS = False
NUM_CPUS = 8
MEMORY = 4096
BASE_CGROUP =
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
POLLING_INTERVAL = 2
JOB_START_DELAY = 0
PERIODIC_EXPR_INTERVAL = 2
MAX_PERIODIC_EXPR_INTERVAL = 2
SYSTEM_PERIODIC_HOLD =
CONDOR_ADMIN =
"""


@dataclass
class CondorPool:
    """A running pool. ``env`` is what reaches its commands; ``work`` is seen by the pool under the same name."""

    base: Path
    work: Path
    env: dict[str, str]
    master: "subprocess.Popen[bytes]"

    def command(self, *argv: str) -> str:
        """Run one of its commands and give what it printed."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def configure(self, name: str, text: str) -> None:
        """Write a file of configuration and have the daemons read it."""
        (self.base / "config.d" / name).write_text(text)
        self.command("condor_reconfig")

    def queue(self) -> list[str]:
        """Give the ids of all jobs in the queue."""
        return self.command("condor_q", "-af:j", "JobStatus").split()[::2]

    def logs(self) -> str:
        """Give the ends of what the daemons wrote."""
        paths = sorted((self.base / "log").glob("*Log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in paths)


def _write_commands(base: Path, sandboxed: int) -> None:
    """Write the scripts that enter the namespaces of the process ``sandboxed``."""
    for name in COMMANDS:
        script = base / "bin" / name
        enter = f"nsenter --target {sandboxed} --user --preserve-credentials --mount --pid --net --ipc --uts"
        script.write_text(
            f"#!/bin/sh\ncd /\nexec {enter} env -i PATH=/usr/bin:/usr/sbin HOME=/home/submitter"
            f' USER=submitter CONDOR_CONFIG={base}/etc/condor_config {name} "$@"\n'
        )
        script.chmod(0o755)


@contextlib.contextmanager
def run_condor() -> Iterator[CondorPool]:
    """Give a pool for as long as the context lasts."""
    need("" if ROOT.is_dir() else "no HTCondor: ./run test as root unpacks it")
    need("" if shutil.which("bwrap") and shutil.which("nsenter") else "bubblewrap or util-linux is missing")
    need("" if os.geteuid() == 0 else "the pool's namespaces need root")
    base = Path(tempfile.mkdtemp(prefix="pps-condor-"))
    base.chmod(0o755)
    for name in ("log", "lock", "spool", "execute", "run", "etc", "config.d", "work", "bin"):
        (base / name).mkdir()
    (base / "etc" / "condor_config").write_text(_CONFIG.format(base=base))
    yield from _run(base)


def _run(base: Path) -> Iterator[CondorPool]:
    env = {"PATH": f"{base}/bin:/usr/bin:/bin"}
    with (base / "master.log").open("wb") as log:
        master = subprocess.Popen(
            sandbox(base, "condor_master", "-f"), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    pool = CondorPool(base, base / "work", env, master)
    try:
        _wait_ready(pool)
        yield pool
    finally:
        end_namespace(master)
        shutil.rmtree(base)


def _wait_ready(pool: CondorPool) -> None:
    for _ in range(600):
        select.select([], [], [], 0.1)
        assert pool.master.poll() is None, (pool.base / "master.log").read_text()
        inner = _descendant(pool.master.pid, "condor_master")
        if inner is None:
            continue
        _write_commands(pool.base, inner)
        done = subprocess.run(
            ["condor_status", "-af", "Name"], env=pool.env, capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            return
    raise AssertionError(f"no slot: {done.stdout} {done.stderr} {pool.logs()}")


def _descendant(pid: int, name: str) -> int | None:
    """Give the process of this name below another one."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == name:
            return int(child)
        if (found := _descendant(int(child), name)) is not None:
            return found
    return None
