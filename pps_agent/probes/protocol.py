"""What agent and runner say to each other: JSON objects, one a line, over a stream socket.

::

    runner  {"protocol":1,"pid":4711,"uid":990,"landlock":7,"cgroup":true}             greeting
    agent   {"base":"b1","env":{"PATH":"/usr/bin",…},"limits":{"cpu_s":30}}            what runs have in common
    agent   {"run":"a1","argv":["/…/run"],"base":"b1","timeout_s":60,"grace_s":5,      one run
             "env":{"PPS_CE":"ce01"},"secret_files":{"PPS_SE_TOKEN":"<base64>"}}
    runner  {"beat":1}                                                                 it lives, runs go on
    runner  {"run":"a1","exit":0,"stdout":"<base64>","stdout_bytes":12,"cpu_s":0.01,   one answer
             "max_rss_bytes":9437184,"duration_s":0.2}

Several runs may be under way at once; answers come in the order in which runs end. A run has the
environment of its base with ``env`` over it, and the base's limits. Of a stream longer than its limit
the head and (stdout) the tail are kept, ``*_bytes`` tells the whole length. In an answer what has its
default (see RunResponse) is left out. While an agent waits for an answer, it hears something at least
every BEAT_S seconds. Closing the socket ends all its runs. A line that is too long, not JSON, or not as
described here is answered by closing the connection. Standard library only: the runner reads this
module under ``python -I -S``.
"""

import base64
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pps_agent.probes.fields import Fields, check_names, checked_text, refuse, render_bounded, render_line

PROTOCOL: Final = 1
MAX_TIMEOUT_S: Final = 86_400.0
MAX_GRACE_S: Final = 60.0
MAX_ARGUMENTS: Final = 64
MAX_BASES: Final = 64
MAX_SECRET_FILES: Final = 32
STDOUT_HEAD_BYTES: Final = 48 * 1024
STDOUT_TAIL_BYTES: Final = 16 * 1024
STDERR_HEAD_BYTES: Final = 32 * 1024
BEAT_S: Final = 10.0

LIMIT_NAMES: Final = ("cpu_s", "memory_bytes", "files", "file_bytes", "processes", "directory_bytes")
KILLED_BY_DIRECTORY: Final = "directory"
KILLED_BY_MEMORY: Final = "cgroup memory"
KILLED_BY_PROCESSES: Final = "account processes"
_NAME: Final = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Greeting:
    """The runner's first line: its process and user id, and what bounds its runs.

    ``landlock``: the kernel's Landlock version by which runs are confined, 0 where it has none.
    ``cgroup``: whether each run gets a control group of its own.
    """

    pid: int
    uid: int
    landlock: int = 0
    cgroup: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """What many runs have in common, sent once; a later one of the same name takes its place.

    ``limits`` has keys of LIMIT_NAMES.
    """

    name: str
    env: Mapping[str, str]
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One program to run.

    ``argv[0]`` is an absolute path; ``base`` (none: an empty one) and ``env`` are the whole environment but
    for what the runner sets itself (HOME, TMPDIR, LC_ALL, PPS_RUN). ``secret_files``: variable → content of
    a file, which the runner writes into the run's directory and whose path the variable holds.
    """

    run: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    timeout_s: float
    grace_s: float
    base: str = ""
    secret_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResponse:
    """What came of one run. ``stdout`` and ``stderr`` are the kept bytes, ``*_bytes`` the whole lengths.

    ``failure`` says why a run could not be started or ended; ``exit`` and ``signal`` are both None then.
    ``killed_by`` names the limit over which the runner or the kernel ended the run, or which kept it from its work.
    ``oom``: the kernel killed a process of the run for want of memory in its control group, which the run
    may have survived; ``killed_by`` says what it did not survive. ``cpu_s`` and ``max_rss_bytes`` cover the
    program and the children it waited for; the latter is never below the runner's own size, since Linux
    counts the memory before the exec.
    """

    run: str
    exit: int | None = None
    signal: int | None = None
    timed_out: bool = False
    failure: str = ""
    killed_by: str = ""
    oom: bool = False
    stdout: bytes = b""
    stdout_bytes: int = 0
    stderr: bytes = b""
    stderr_bytes: int = 0
    leftovers_killed: int = 0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    duration_s: float = 0.0


_RESPONSE_DEFAULTS: Final = {item.name: item.default for item in dataclasses.fields(RunResponse)}


def render_greeting(greeting: Greeting) -> bytes:
    """Give the runner's first line."""
    return render_line(
        {
            "protocol": PROTOCOL,
            "pid": greeting.pid,
            "uid": greeting.uid,
            "landlock": greeting.landlock,
            "cgroup": greeting.cgroup,
        }
    )


def parse_greeting(line: bytes) -> Greeting:
    """Read the runner's first line. Raises: WireError and nothing else."""
    fields = Fields(line, "greeting")
    if (version := fields.integer("protocol")) != PROTOCOL:
        refuse(f"the runner speaks protocol {version}, this agent {PROTOCOL}: install both from one package")
    greeting = Greeting(
        pid=fields.integer("pid"),
        uid=fields.integer("uid"),
        landlock=fields.integer("landlock"),
        cgroup=fields.truth("cgroup"),
    )
    fields.finish()
    return greeting


def render_base(base: Base) -> bytes:
    """Give the line that makes a base known. Raises: WireError when no runner would take it."""
    _check_texts((), base.env)
    return render_bounded({"base": base.name, "env": dict(base.env), "limits": dict(base.limits)})


def render_request(request: RunRequest) -> bytes:
    """Give the line that asks for one run. Raises: WireError when no runner would take it."""
    _check_request(request)
    _check_texts(request.argv, request.env, dict.fromkeys(request.secret_files, ""))
    message: dict[str, object] = {
        "run": request.run,
        "argv": request.argv,
        "timeout_s": request.timeout_s,
        "grace_s": request.grace_s,
    }
    if request.env:
        message["env"] = dict(request.env)
    if request.base:
        message["base"] = request.base
    if request.secret_files:
        message["secret_files"] = {
            name: base64.b64encode(content).decode() for name, content in request.secret_files.items()
        }
    return render_bounded(message)


class Template:
    """The line of a request that differs from others in the name of its run only."""

    __slots__ = ("_after", "_before")

    def __init__(self, request: RunRequest) -> None:
        """Take a request; its own name does not matter. Raises: WireError when no runner would take it."""
        before, name, self._after = render_request(request).partition(f'"run":"{request.run}"'.encode())
        self._before = before + name[: len(b'"run":"')]

    def render(self, run: str) -> bytes:
        """Give the line with this name, of letters and digits."""
        return b'%b%b"%b' % (self._before, run.encode(), self._after)


def parse_agent_line(line: bytes) -> RunRequest | Base:
    """Read what an agent says. Untrusted. Raises: WireError and nothing else, for any bytes."""
    fields = Fields(line, "request")
    if "run" in fields:
        return _read_request(fields)
    base = Base(fields.text("base"), fields.variables("env"), fields.whole_map("limits", LIMIT_NAMES))
    fields.finish()
    if _NAME.fullmatch(base.name) is None:
        refuse("'base' must be 1 to 64 letters and digits")
    return base


def _read_request(fields: Fields) -> RunRequest:
    request = RunRequest(
        run=fields.text("run"),
        argv=fields.texts("argv"),
        env=fields.variables("env") if "env" in fields else {},
        timeout_s=fields.number("timeout_s"),
        grace_s=fields.number("grace_s"),
        base=fields.text("base", ""),
        secret_files=fields.octets_map("secret_files"),
    )
    fields.finish()
    _check_request(request)
    return request


def _check_request(request: RunRequest) -> None:
    if _NAME.fullmatch(request.run) is None:
        refuse("'run' must be 1 to 64 letters and digits")
    if not 1 <= len(request.argv) <= MAX_ARGUMENTS or not request.argv[0].startswith("/"):
        refuse(f"'argv' must be 1 to {MAX_ARGUMENTS} texts, the first an absolute path")
    if len(request.secret_files) > MAX_SECRET_FILES:
        refuse(f"more than {MAX_SECRET_FILES} secret files")
    if not 0 < request.timeout_s <= MAX_TIMEOUT_S or not 0 <= request.grace_s <= MAX_GRACE_S:
        refuse(f"'timeout_s' must be in (0, {MAX_TIMEOUT_S:.0f}], 'grace_s' in [0, {MAX_GRACE_S:.0f}]")


def _check_texts(argv: tuple[str, ...], *maps: Mapping[str, str]) -> None:
    """Refuse before it is sent what ``Fields`` refuses when it is read."""
    for text in argv:
        checked_text(text, "argv")
    for variables in maps:
        check_names(variables, "env")
        for name, value in variables.items():
            checked_text(name, "env")
            checked_text(value, "env")


def render_beat() -> bytes:
    """Give the line that says no more than that the runner lives."""
    return b'{"beat":1}\n'


def render_response(response: RunResponse) -> bytes:
    """Give the line that answers one run."""
    message: dict[str, object] = {}
    for name, default in _RESPONSE_DEFAULTS.items():
        if (value := getattr(response, name)) != default:
            message[name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return render_line(message)


def parse_runner_line(line: bytes) -> RunResponse | None:
    """Read an answer, or None for a beat. Raises: WireError and nothing else, for any bytes."""
    fields = Fields(line, "response")
    if "beat" in fields:
        fields.integer("beat")
        fields.finish()
        return None
    response = RunResponse(
        run=fields.text("run"),
        exit=fields.optional_integer("exit"),
        signal=fields.optional_integer("signal"),
        timed_out=fields.truth("timed_out"),
        failure=fields.text("failure", ""),
        killed_by=fields.text("killed_by", ""),
        oom=fields.truth("oom"),
        stdout=fields.octets("stdout"),
        stdout_bytes=fields.integer("stdout_bytes", 0),
        stderr=fields.octets("stderr"),
        stderr_bytes=fields.integer("stderr_bytes", 0),
        leftovers_killed=fields.integer("leftovers_killed", 0),
        cpu_s=fields.number("cpu_s", 0.0),
        max_rss_bytes=fields.integer("max_rss_bytes", 0),
        duration_s=fields.number("duration_s", 0.0),
    )
    fields.finish()
    return response
