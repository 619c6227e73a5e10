"""A Slurm cluster of a few nodes on this machine, on loopback: controller, munge, and a slurmd for each node."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.services import need

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "sinfo")
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
_CONFIG = """
ClusterName=pps
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={base}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool-%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=2
MinJobAge=300
PropagateResourceLimits=NONE
"""


@dataclass
class SlurmCluster:
    """A running cluster. ``env`` is what its commands need; ``shared`` is seen by head and nodes."""

    base: Path
    nodes: tuple[str, ...]
    env: dict[str, str]
    shared: Path
    _running: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _controller: "subprocess.Popen[bytes] | None" = None

    def command(self, *argv: str) -> str:
        """Run one of its commands and give what it printed."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def start_controller(self) -> None:
        """Start the controller, with the state it had."""
        command = ["slurmctld", "-D", "-f", str(self.base / "slurm.conf")]
        self._controller = self._start(command, "slurmctld")

    def stop_controller(self) -> None:
        """Kill the controller: jobs go on."""
        assert self._controller is not None
        _end(self._controller)
        self._running.remove(self._controller)

    def wait_idle(self) -> None:
        """Wait until every node takes jobs."""
        for _ in range(600):
            done = subprocess.run(
                ["sinfo", "-h", "-N", "-p", "pps", "-o", "%T"],
                env=self.env,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.stdout.split() == ["idle"] * len(self.nodes):
                return
            assert all(process.poll() is None for process in self._running), self.logs()
            select.select([], [], [], 0.1)
        raise AssertionError(f"the nodes are not idle: {done.stdout} {done.stderr} {self.logs()}")

    def logs(self) -> str:
        """Give what the daemons wrote."""
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in self.base.glob("*.log"))

    def queue(self) -> list[str]:
        """Give the ids of jobs that wait or run."""
        return self.command("squeue", "-h", "-o", "%i").split()

    def _start(self, command: list[str], name: str) -> "subprocess.Popen[bytes]":
        with (self.base / f"{name}.out.log").open("wb") as log:
            command = ["setpriv", "--pdeathsig", "TERM", *command]  # a test run that is killed leaves no daemon
            process = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def start(self) -> None:
        """Start everything."""
        munge = self.base / "munge"
        munge.mkdir(0o711)
        (munge / "key").touch(0o600)
        (munge / "key").write_bytes(os.urandom(128))
        files = {name: str(munge / name) for name in ("key", "socket", "pid", "log", "seed")}
        options = [f"--{option}-file={files[option]}" for option in ("key", "pid", "log", "seed")]
        self._start(["munged", "--foreground", f"--socket={files['socket']}", *options], "munged")
        for _ in range(200):
            if Path(files["socket"]).exists():
                break
            select.select([], [], [], 0.02)
        (self.base / "state").mkdir()
        ports = free_ports(1 + len(self.nodes))
        lines = [_CONFIG.format(base=self.base, port=ports[0])]
        for node, port in zip(self.nodes, ports[1:], strict=True):
            (self.base / f"spool-{node}").mkdir(0o755)
            lines.append(f"NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=256 State=UNKNOWN\n")
        names = ",".join(self.nodes)
        lines.append(
            f"PartitionName=pps Nodes={names} Default=YES MaxTime=60 DefaultTime=1 OverSubscribe=FORCE:8 State=UP\n"
        )
        lines.append(f"PartitionName=short Nodes={names} MaxTime=1 DefaultTime=1 State=UP\n")
        (self.base / "slurm.conf").write_text("".join(lines))
        self.start_controller()
        for node in self.nodes:
            self._start(["slurmd", "-D", "-N", node, "-f", str(self.base / "slurm.conf")], f"slurmd-{node}")
        self.wait_idle()

    def stop(self) -> None:
        """End all daemons, jobs first."""
        with contextlib.suppress(AssertionError):
            self.command("scancel", "--quiet", "--partition=pps")
        for process in reversed(self._running):
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Give ports nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def run_slurm(nodes: tuple[str, ...] = ("n1", "n2")) -> Iterator[SlurmCluster]:
    """Give a cluster for as long as the context lasts."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    need(f"{', '.join(missing)}: install slurmctld, slurmd, slurm-client, munge" if missing else "")
    need("" if os.geteuid() == 0 else "slurmd needs root")
    base = Path(tempfile.mkdtemp(prefix="pps-slurm-"))
    base.chmod(0o755)
    shared = base / "shared"
    shared.mkdir(0o755)
    cluster = SlurmCluster(base, nodes, {"PATH": _PATH, "SLURM_CONF": str(base / "slurm.conf")}, shared)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(base)
