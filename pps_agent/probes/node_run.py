"""Runs probes where jobs run: the code of the payload that the agent sends through the site's batch system.

One file, standard library only, Python >= 3.9 (an older one hands over to a newer one on the node). It reads a
request, runs the probes in it one after the other as whatever account the job has, and writes one document of
raw facts between two marker lines. It judges nothing: the head does. Formats: docs/reference/formats.md.

    node_run.py REQUEST.json [DOCUMENT]     or, in a payload, with the request inside and no arguments

Each probe gets a session of its own, a private directory, the request's environment, limits and a time limit
(TERM, grace, KILL). It has ended when its first process has; then its output is read for 200 ms more, and what
it left behind is killed. Exit: 0 document written, 1 could not, 2 usage, 3 the payload is damaged or late.
"""

import os
import sys

REQUEST = ""
"""In a payload: the request as JSON, zlib, base64."""
DIGEST = ""
"""In a payload: sha256 of the text above without its line ends."""


def _hand_over():  # type: ignore[no-untyped-def]  # what follows must be understood by Python 3.6 too
    directories = ["/usr/bin", "/usr/local/bin", "/usr/libexec", "/bin"]
    names = [f"python3.{minor}" for minor in range(20, 8, -1)] + ["platform-python"]
    tried = os.environ.get("PPS_NODE_PYTHON", "").split(":")
    for path in [directory + "/" + name for name in names for directory in directories]:
        if path not in tried and os.access(path, os.X_OK):
            os.environ["PPS_NODE_PYTHON"] = ":".join([*tried, path])
            os.execv(path, [path, "-IS", os.path.abspath(__file__), *sys.argv[1:]])  # noqa: PTH100, S606
    sys.exit(f"pps node run: {sys.executable} is older than Python 3.9 and no newer one is here: set nodes.python")


if sys.version_info < (3, 9):
    _hand_over()

import base64
import calendar
import contextlib
import ctypes
import hashlib
import json
import platform
import resource
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Final, NoReturn, Optional

VERSION: Final = 1
HEAD_BYTES: Final = 48 * 1024
TAIL_BYTES: Final = 16 * 1024
STDERR_BYTES: Final = 32 * 1024
BEGIN: Final = "-----BEGIN PPS NODE DOCUMENT {}-----"
END: Final = "-----END PPS NODE DOCUMENT {}-----"

_DRAIN_S: Final = 0.2
_SWEEP_S: Final = 2.0
_UNKILLABLE_S: Final = 5.0
_LOOK_S: Final = 0.02
_MEASURE_S: Final = 0.5
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_FROM_JOB: Final = ("X509_USER_PROXY", "BEARER_TOKEN_FILE", "KRB5CCNAME")
"""Credentials that the batch system gives each job: the node's are the ones that are valid there."""
_LIMITS: Final = {
    "cpu_s": resource.RLIMIT_CPU,
    "memory_bytes": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "file_bytes": resource.RLIMIT_FSIZE,
}
"""Not "processes": the kernel counts all of the account's, other people's jobs among them."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Damaged(Exception):  # noqa: N818 - named for what it says
    """The payload cannot be run: damaged, of a newer format, or too late."""


class Ended(BaseException):
    """The batch system told the job to end."""


# --- the request ----------------------------------------------------------------------------------


def load_request(arguments: list[str]) -> dict[str, Any]:
    """Give the request inside this payload, or that of the file named first. Raises: Damaged, OSError."""
    raw = Path(arguments[0]).read_bytes() if arguments else _unpack(REQUEST)
    try:
        request = json.loads(raw)
        if not isinstance(request, dict) or request.get("v", 1) > VERSION:
            raise Damaged("the request is of a newer format: this payload and its agent do not fit")
        moment = time.strptime(request["not_after"].partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise Damaged(f"the request cannot be read: {exc}") from exc
    if time.time() > calendar.timegm(moment):
        raise Damaged(f"started after {request['not_after']}: nobody waits for the answer any more")
    return request


def _unpack(text: str) -> bytes:
    packed = "".join(text.split())
    if hashlib.sha256(packed.encode()).hexdigest() != DIGEST:
        raise Damaged("this payload was changed on its way")
    return zlib.decompress(base64.b64decode(packed))


# --- one probe ------------------------------------------------------------------------------------


class Stream:
    """Keeps head and tail of what one pipe gives and counts the rest."""

    def __init__(self, pipe: int, head_bytes: int, tail_bytes: int) -> None:
        self.pipe, self.total_bytes = pipe, 0
        self._head_bytes, self._tail_bytes = head_bytes, tail_bytes
        self._head, self._tail = bytearray(), bytearray()

    def read(self) -> bool:
        """Take one chunk; False at the end."""
        chunk = os.read(self.pipe, 65_536)
        self.total_bytes += len(chunk)
        room = max(0, self._head_bytes - len(self._head))
        self._head += chunk[:room]
        self._tail += chunk[room:]
        del self._tail[: max(0, len(self._tail) - self._tail_bytes)]
        return bool(chunk)

    def kept(self) -> str:
        """Give what was kept, as base64."""
        return base64.b64encode(bytes(self._head + self._tail)).decode()


class Run:
    """One probe under way, from its start to its facts."""

    def __init__(self, probe: dict[str, Any], environment: dict[str, str], directory: Path) -> None:
        """Start it. Raises: OSError."""
        self.facts: dict[str, Any] = {"timed_out": False, "failure": "", "killed_by": ""}
        self._probe, self._directory = probe, directory
        limits = {_LIMITS[name]: value for name, value in probe.get("limits", {}).items() if name in _LIMITS}
        self._directory_bytes = probe.get("limits", {}).get("directory_bytes", 0)
        self._started = time.monotonic()
        self._process = _start(directory, base64.b64decode(probe["run"]), environment, limits)
        self._group = self._process.pid
        out, error = self._process.stdout, self._process.stderr
        if out is None or error is None:
            raise AssertionError("both are pipes")
        self._out = Stream(out.fileno(), HEAD_BYTES, TAIL_BYTES)
        self._error = Stream(error.fileno(), STDERR_BYTES, 0)
        self._selector = selectors.DefaultSelector()
        for stream in (self._out, self._error):
            os.set_blocking(stream.pipe, False)
            self._selector.register(stream.pipe, selectors.EVENT_READ, stream)

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """Wait for its end, at most so long and the grace; give its facts."""
        if not self._listen(self._started + timeout_s):
            self.facts["timed_out"] = not self.facts["killed_by"]
            self._signal(signal.SIGTERM)
            if not self._listen(time.monotonic() + self._probe["grace_s"]):
                self._signal(signal.SIGKILL)
                if not self._listen(time.monotonic() + _UNKILLABLE_S):
                    self.facts["failure"] = "does not end even when killed (waits for a dead file system or device?)"
        self._drain()
        return self._account()

    def end(self) -> None:
        """Kill it and all it left, at once."""
        self._signal(signal.SIGKILL)
        _sweep(set())

    def _listen(self, deadline: float) -> bool:
        """Read until the first process has ended; False when it has not by then, or its directory is too large."""
        measure_at = 0.0
        while True:
            now = time.monotonic()
            if os.waitid(os.P_PID, self._group, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            if now >= deadline:
                return False
            if self._directory_bytes and now >= measure_at and not self.facts["killed_by"]:
                measure_at = now + _MEASURE_S
                if _size_of(self._directory) > self._directory_bytes:
                    self.facts["killed_by"] = "directory"
                    return False
            self._read(min(_LOOK_S, deadline - now))

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while self._selector.get_map() and time.monotonic() < deadline:
            self._read(deadline - time.monotonic())

    def _read(self, wait_s: float) -> None:
        if not self._selector.get_map():
            time.sleep(max(0.0, wait_s))
            return
        for key, _ in self._selector.select(max(0.0, wait_s)):
            with contextlib.suppress(BlockingIOError):
                if not key.data.read():
                    self._selector.unregister(key.fd)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, number)

    def _account(self) -> dict[str, Any]:
        # It stays unreaped until here, so that its group's number stays ours.
        leftovers = _sweep({self._group})
        self._signal(signal.SIGKILL)
        pid, status, usage = os.wait4(self._group, os.WNOHANG)
        self._process.returncode = 0  # waited for here: subprocess must not try again
        code = os.WEXITSTATUS(status) if pid and os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if pid and os.WIFSIGNALED(status) else None
        self._selector.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        return {
            **self.facts,
            "exit": code,
            "signal": number,
            "stdout": self._out.kept(),
            "stdout_bytes": self._out.total_bytes,
            "stderr": self._error.kept(),
            "stderr_bytes": self._error.total_bytes,
            "leftovers_killed": leftovers,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "duration_s": time.monotonic() - self._started,
        }


def _start(
    directory: Path, content: bytes, environment: dict[str, str], limits: dict[int, int]
) -> "subprocess.Popen[bytes]":
    """Write the probe's file and start it there. Raises: OSError."""
    file = directory / "run"
    file.write_bytes(content)
    file.chmod(0o500)
    (directory / "tmp").mkdir()

    def bound() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for kind, value in limits.items():
            _limit(kind, value)

    def start(command: list[str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=directory / "tmp",
            env=environment | {"HOME": str(directory / "tmp"), "TMPDIR": str(directory / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=bound,  # one thread here, so nothing can be held that the child would wait for
        )

    try:
        return start([str(file)])
    except PermissionError:
        # Many sites mount scratch noexec: its interpreter may read what may not be executed.
        interpreter = _interpreter_of(content)
        if not interpreter:
            raise
        return start([*interpreter, str(file)])


def _interpreter_of(content: bytes) -> list[str]:
    first = content.partition(b"\n")[0][:256]
    return os.fsdecode(first[2:]).strip().split(None, 1) if first.startswith(b"#!") else []


def _limit(kind: int, value: int) -> None:
    """Lower a limit; never above what the job has. A second more for CPU, so that SIGXCPU says why."""
    _, ceiling = resource.getrlimit(kind)
    hard = value + 1 if kind == resource.RLIMIT_CPU else value
    if ceiling != resource.RLIM_INFINITY:
        hard = min(hard, ceiling)
    resource.setrlimit(kind, (min(value, hard), hard))


def _size_of(directory: Path) -> int:
    """Give the bytes on disk below a directory, as far as they can be seen."""
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512  # noqa: PTH118 - a million names
    return total


def _children() -> set[int]:
    """List our children, those we adopted and the dead ones included."""
    found = set()
    for entry in os.listdir("/proc"):  # noqa: PTH208 - task/children is not in every kernel
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(entry))
    return found


def _sweep(spared: set[int]) -> int:
    """Kill what a probe left behind until nothing is left or time is up; give how many processes that were.

    Whatever escaped its session was adopted by us, and we run one probe at a time.
    """
    killed = set()
    deadline = time.monotonic() + _SWEEP_S
    while True:
        left = set()
        for pid in _children() - spared:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)
                    left.add(pid)
        killed |= left
        if not left or time.monotonic() > deadline:
            return len(killed)
        time.sleep(0.005)


def _remove(directory: Path) -> None:
    """Remove a directory whatever a probe made of it: as deep as it likes, and closed to us."""
    for command in (["chmod", "-R", "u+rwx", "--"], ["rm", "-rf", "--one-file-system", "--"]):
        subprocess.run([*command, str(directory)], env={"PATH": _PATH}, stderr=subprocess.DEVNULL, check=False)


# --- all probes -----------------------------------------------------------------------------------


def run_request(request: dict[str, Any]) -> dict[str, Any]:
    """Run all probes of a request, one after the other; give the document. Raises: Ended, OSError."""
    started_at, started = time.gmtime(), time.monotonic()
    deadline = started + request["time_limit_s"]
    base = _make_base()
    try:
        runs = [_run_probe(probe, request, base, deadline) for probe in request["probes"]]
    finally:
        _sweep(set())
        _remove(base)
    return {
        "v": VERSION,
        "nonce": request["nonce"],
        "node": platform.node() or "localhost",
        "python": platform.python_version(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", started_at),
        "took_s": time.monotonic() - started,
        "runs": runs,
    }


def _run_probe(probe: dict[str, Any], request: dict[str, Any], base: Path, deadline: float) -> dict[str, Any]:
    facts = {"probe": probe["probe"], "digest": hashlib.sha256(base64.b64decode(probe["run"])).hexdigest()}
    environment = {
        "PATH": _PATH,
        **request["env"],
        **probe.get("env", {}),
        **{name: os.environ[name] for name in _FROM_JOB if os.environ.get(name)},
        "LC_ALL": "C.UTF-8",
        "LC_NUMERIC": "C",
        "PPS_RUN": request["nonce"],
    }
    missing = _missing(probe, environment)
    if missing:
        return {**facts, "missing": missing}
    left_s = deadline - time.monotonic() - probe["grace_s"]
    if left_s <= 0:
        return {**facts, "skipped": "the job's time was used up before it could start"}
    run: Optional[Run] = None
    directory = base / hashlib.sha256(probe["probe"].encode()).hexdigest()[:16]
    try:
        directory.mkdir(0o700)
        run = Run(probe, environment, directory)
        facts.update(run.finish(min(probe["timeout_s"], left_s)))
    except OSError as exc:
        facts["failure"] = f"could not be started: {exc.strerror or exc}"
    except Ended:
        if run is not None:
            run.end()
        raise
    _remove(directory)
    if facts.get("timed_out") and left_s < probe["timeout_s"]:
        facts["skipped"] = "the job's time was used up while it ran"
    return facts


def _missing(probe: dict[str, Any], environment: dict[str, str]) -> list[str]:
    """List what a probe needs and this node does not have."""
    commands = [name for name in probe.get("commands", ()) if shutil.which(name, path=environment["PATH"]) is None]
    found = [f"command {name} is not in PATH" for name in commands]
    variables = probe.get("variables", {})
    found += [f"variable {name} ({variables[name]})"[:512] for name in variables if not environment.get(name)]
    proxy = environment.get("X509_USER_PROXY", "")
    if probe.get("needs_proxy") and not os.access(proxy, os.R_OK):
        found.append("a proxy: X509_USER_PROXY of the job names no readable file")
    return found


def _make_base() -> Path:
    """Make the private directory of this job where one can be made. Raises: OSError."""
    places = [os.environ.get(name, "") for name in ("_CONDOR_SCRATCH_DIR", "TMPDIR")] + ["/tmp", "/var/tmp", "."]  # noqa: S108
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="pps-node-", dir=Path(place).resolve()))
    raise OSError(0, "no directory here can be written: TMPDIR, /tmp, /var/tmp and the job's own were tried")


def _contain_self() -> None:
    """Bound this process and all it will start. What the kernel does not permit is done without."""
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_DUMPABLE, 0)):
        _libc.prctl(option, value, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)


def _end(_number: int, _frame: object) -> NoReturn:
    raise Ended


def write_document(document: dict[str, Any], output: int) -> None:
    """Write a document between its marker lines. Raises: OSError."""
    nonce = document["nonce"]
    lines = ("", BEGIN.format(nonce), json.dumps(document, separators=(",", ":")), END.format(nonce), "")
    left = "\n".join(lines).encode()
    while left:
        left = left[os.write(output, left) :]
    with contextlib.suppress(OSError):  # a pipe has nothing to flush
        os.fsync(output)


def main(arguments: list[str]) -> int:
    """Run the request inside this file or the one named; give the exit code."""
    if len(arguments) > 2 or (not arguments and not REQUEST):
        sys.stderr.write("usage: node_run.py REQUEST.json [DOCUMENT]\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        request = load_request(arguments)
        _contain_self()
        document = run_request(request)
        output = os.open(arguments[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if len(arguments) > 1 else 1
        write_document(document, output)
    except Damaged as exc:
        sys.stderr.write(f"pps node run: {exc}\n")
        return 3
    except OSError as exc:
        sys.stderr.write(f"pps node run: {exc.strerror or exc}\n")
        return 1
    except Ended:
        sys.stderr.write("pps node run: told to end before all probes had run\n")
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
