"""What a site would have run its checks instead, from Debian's packages, with the same check at the same rhythm."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.site import await_port, free_port

METRICS: Final = 1000
INTERVAL_S: Final = 10
_SUBREAPER: Final = 36
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_HERE: Final = Path(__file__).parent


def compile_program(name: str, base: Path) -> Path:
    """Compile one of the C programs beside this file."""
    target = base / name
    subprocess.run(["gcc", "-O2", "-o", target, _HERE / f"{name}.c"], check=True)
    target.chmod(0o755)
    return target


def cpu_s(pids: Sequence[int]) -> float:
    """Give the processor time of processes and of the children they waited for."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / _TICKS
    return total


def rss_mib(pids: Sequence[int]) -> float:
    """Give the resident memory of processes, shared pages counted for each."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / 1024**2


def forget_peak(pids: Sequence[int]) -> float:
    """Have the kernel forget how large processes once were; give their resident memory now, in MiB. proc(5)."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mib(pids)


def peak_mib(pids: Sequence[int]) -> float:
    """Give how large processes were at most, each for itself, in MiB."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def children_of(pid: int) -> list[int]:
    """Give the living children of a process."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


@dataclass(frozen=True, slots=True)
class Load:
    """What is scheduled: a check for each of so many metrics. ``check`` gets a file in which to note its start.

    ``at_once``: all first checks are due together. ``noted``: the scheduler notes each result.
    """

    check: Path
    interval_s: int
    metrics: int = METRICS
    limit_s: int = 60
    at_once: bool = False
    noted: bool = False


class Peer:
    """A scheduler under way: its processes, and the files in which starts and results (a ``mark`` each) are noted."""

    def __init__(self, process: "subprocess.Popen[bytes]", starts: Path, results: Path, mark: bytes) -> None:
        self.process, self._starts, self._results, self._mark = process, starts, results, mark

    @property
    def pids(self) -> list[int]:
        """The scheduler's own processes: those that stay, a child that is about to become a check does not."""
        found = self._family()
        time.sleep(0.5)
        return [pid for pid in found if pid in self._family()]

    def _family(self) -> list[int]:
        family = [self.process.pid]
        for pid in family:
            with contextlib.suppress(OSError):  # it ended meanwhile
                family += children_of(pid)
        return family

    def starts_s(self) -> list[float]:
        """Give when each check started, on the monotonic clock."""
        raw = self._starts.read_bytes() if self._starts.exists() else b""
        return [number / 1e6 for number in memoryview(raw[: len(raw) // 8 * 8]).cast("Q")]

    def await_start(self, count: int = 1) -> None:
        """Wait until so many checks were started. Raises: TimeoutError."""
        self._await(lambda: len(self.starts_s()), count, "checks were started", 0.1)

    def await_result(self, count: int = 1) -> float:
        """Wait until so many results are there; give the time on the monotonic clock. Raises: TimeoutError."""

        def count_results() -> int:
            return self._results.read_bytes().count(self._mark) if self._results.exists() else 0

        self._await(count_results, count, "results are there", 0.002)
        return time.monotonic()

    def _await(self, find: Callable[[], int], count: int, what: str, pause_s: float) -> None:
        deadline = time.monotonic() + 120
        while (found := find()) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{self.process.args}: {found} {what}")
            time.sleep(pause_s)


@contextmanager
def serve_nagios(base: Path, load: Load) -> Iterator[Peer]:
    """Run Nagios 4 with Debian's settings but for the paths."""
    base.mkdir()
    for name in ("archives", "spool"):
        (base / name).mkdir()
    starts = base / "starts"
    settings = {
        **{name: base / name for name in ("log_file", "object_cache_file", "precached_object_file", "status_file")},
        **{name: base / name for name in ("command_file", "lock_file", "temp_file", "state_retention_file")},
        "debug_file": base / "debug",
        "query_socket": base / "socket",
        "cfg_file": base / "objects.cfg",
        "temp_path": base,
        "log_archive_path": base / "archives",
        "check_result_path": base / "spool",
        "nagios_user": "root",
        "nagios_group": "root",
        "interval_length": 1,
        "use_syslog": 0,
        "check_for_updates": 0,
        "max_service_check_spread": 1,
        "service_check_timeout": load.limit_s,
    }
    if load.at_once:
        settings |= {"service_inter_check_delay_method": "n", "service_interleave_factor": 1}
    if load.noted:
        settings |= {"process_performance_data": 1, "service_perfdata_command": "note"}
    dropped = {*settings, "cfg_dir", "resource_file"}
    lines = Path("/etc/nagios4/nagios.cfg").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("#") and line.partition("=")[0] not in dropped]
    config = base / "nagios.cfg"
    config.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items())]) + "\n")
    (base / "objects.cfg").write_text(_nagios_objects(load, starts, base / "results"))
    with _run(["nagios4", config], base) as process:
        yield Peer(process, starts, base / "results", b"\n")


def _nagios_objects(load: Load, starts: Path, results: Path) -> str:
    days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    hours = "\n".join(f"{day} 00:00-24:00" for day in days)
    nobody = "".join(
        f"{kind}_notifications_enabled 0\n{kind}_notification_period always\n{kind}_notification_commands nothing\n"
        for kind in ("host", "service")
    )
    common = "contacts nobody\nnotification_period always\ncheck_period always\nmax_check_attempts 1\n"
    objects = [
        f"define command {{\ncommand_name run\ncommand_line {load.check} {starts}\n}}",
        f"define command {{\ncommand_name note\ncommand_line echo $SERVICESTATE$ >> {results}\n}}",
        "define command {\ncommand_name nothing\ncommand_line /bin/true\n}",
        f"define timeperiod {{\ntimeperiod_name always\nalias always\n{hours}\n}}",
        f"define contact {{\ncontact_name nobody\n{nobody}}}",
        f"define host {{\nhost_name node\naddress 127.0.0.1\n{common}}}",
    ]
    objects += [
        f"define service {{\nhost_name node\nservice_description metric{number}\ncheck_command run\n{common}"
        f"check_interval {load.interval_s}\nretry_interval {load.interval_s}\n}}"
        for number in range(load.metrics)
    ]
    return "\n".join(objects) + "\n"


@contextmanager
def serve_icinga(base: Path, load: Load) -> Iterator[Peer]:
    """Run Icinga 2 with its checker and a log of warnings, or where results are noted, of notices."""
    base.mkdir()
    starts = base / "starts"
    directories = {f"{name}Dir": base / name for name in ("Data", "Log", "Cache", "Spool", "InitRun")}
    for directory in directories.values():
        directory.mkdir()
    config, severity = base / "icinga2.conf", "notice" if load.noted else "warning"
    config.write_text(
        'const PluginDir = "/"\nconst NodeName = "node"\nconst ZoneName = "node"\n'
        'object Endpoint NodeName { }\nobject Zone ZoneName { endpoints = [ NodeName ] }\nlibrary "checker"\n'
        'object CheckerComponent "checker" { }\n'
        f'object FileLogger "log" {{ severity = "{severity}", path = "{base}/icinga2.log" }}\n'
        f'object CheckCommand "run" {{ command = [ "{load.check}", "{starts}" ]\n timeout = {load.limit_s}s }}\n'
        'object Host "node" { check_command = "run", enable_active_checks = false }\n'
        f'for (i in range({load.metrics})) {{ object Service "metric" + i {{ host_name = "node", check_command = "run",'
        f" check_interval = {load.interval_s}s, retry_interval = {load.interval_s}s, max_check_attempts = 1 }} }}\n"
    )
    overrides = {**directories, "RunAsUser": "root", "RunAsGroup": "root", "PidPath": base / "pid"}
    command = ["icinga2", "daemon", "-c", config, "-x", severity]
    for name, value in overrides.items():
        command += ["-D", f"Configuration.{name}={value}"]
    with _run(command, base) as process:
        yield Peer(process, starts, base / "output", b"terminated with ")


@contextmanager
def serve_nrpe(base: Path, check: Path, *, tls: bool = False, limit_s: int = 60) -> Iterator[list[str]]:
    """Run NRPE on the loopback; give the command line that asks it for the check."""
    base.mkdir()
    port = free_port()
    config = base / "nrpe.cfg"
    config.write_text(
        f"server_port={port}\nserver_address=127.0.0.1\nnrpe_user=nobody\nnrpe_group=nogroup\n"
        f"allowed_hosts=127.0.0.1\npid_file={base}/pid\ncommand_timeout={limit_s}\ncommand[run]={check}\n"
    )
    plain = [] if tls else ["-n"]
    ask = ["/usr/lib/nagios/plugins/check_nrpe", "-H", "127.0.0.1", "-p", str(port), *plain, "-c", "run"]
    with _run(["nrpe", "-c", config, "-f", *plain], base) as process:
        await_port(port, process)
        yield [*ask, "-t", str(limit_s)]


def measure_nrpe(base: Path, check: Path, *, tls: bool, runs: int = 200) -> float:
    """Give the processor milliseconds of one check through NRPE, client and server together."""
    # NRPE's children are orphans when they end: as their reaper we get their time too.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    before = _children_s()
    with serve_nrpe(base, check, tls=tls) as ask:
        for _ in range(runs):
            subprocess.run(ask, check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    ctypes.CDLL(None).prctl(_SUBREAPER, 0)
    return (_children_s() - before) * 1e3 / runs


def measure_floor(base: Path, check: Path, runs: int = 1000) -> tuple[float, float]:
    """Give the processor milliseconds of one check started by a C loop: the loop's own, and the check's."""
    program = compile_program("floor", base)
    rate = METRICS // INTERVAL_S
    done = subprocess.run([program, str(runs), str(rate), check], check=True, capture_output=True, text=True)
    own, child = map(float, done.stdout.split())
    return own / 1e3, child / 1e3


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _run(command: Sequence[str | Path], base: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server in a session of its own until the end, its words in a file."""
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(f"{command[0]} is missing: ./run bench as root installs it")
    with (base / "output").open("wb") as output:
        process = subprocess.Popen(
            [program, *command[1:]], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
