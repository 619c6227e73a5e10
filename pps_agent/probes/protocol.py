"""What agent and runner say to each other: JSON objects, one a line, over a stream socket.

::

    runner  {"protocol":1,"pid":4711,"uid":990}                                        greeting
    agent   {"run":"a1","argv":["/…/run"],"env":{"PATH":"/usr/bin"},"timeout_s":60,
             "grace_s":5,"limits":{"cpu_s":30}}                                        one run
    runner  {"run":"a1","exit":0,"signal":null,"timed_out":false,"failure":"",
             "stdout":"<base64>","stdout_bytes":12,"stderr":"","stderr_bytes":0,
             "leftovers_killed":0,"cpu_s":0.01,"max_rss_bytes":9437184,"duration_s":0.2}

Several runs may be under way at once; answers come in the order in which runs end. Of a stream longer
than its limit the head and (stdout) the tail are kept, ``*_bytes`` tells the whole length. ``failure``
says why a run could not be started or ended; ``exit`` and ``signal`` are both null then. Closing the
socket ends all its runs. A line that is too long, not JSON, or not as described here is answered by
closing the connection. Standard library only: the runner reads this module under ``python -I -S``.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from pps_wire.errors import WireError

PROTOCOL: Final = 1
MAX_LINE_BYTES: Final = 1024**2
MAX_TIMEOUT_S: Final = 86_400.0
MAX_GRACE_S: Final = 60.0
MAX_ARGUMENTS: Final = 64
STDOUT_HEAD_BYTES: Final = 48 * 1024
STDOUT_TAIL_BYTES: Final = 16 * 1024
STDERR_HEAD_BYTES: Final = 32 * 1024

LIMIT_NAMES: Final = ("cpu_s", "memory_bytes", "files", "file_bytes", "processes")
_MAX_LIMIT: Final = 2**62
_RUN_ID: Final = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Greeting:
    """The runner's first line: its protocol version, process id and user id."""

    pid: int
    uid: int


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One program to run.

    ``argv[0]`` is an absolute path; ``env`` is the whole environment but for what the runner sets itself
    (HOME, TMPDIR, LC_ALL, PPS_RUN). ``limits`` has keys of LIMIT_NAMES.
    """

    run: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    timeout_s: float
    grace_s: float
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResponse:
    """What came of one run. ``stdout`` and ``stderr`` are the kept bytes, ``*_bytes`` the whole lengths.

    ``cpu_s`` and ``max_rss_bytes`` cover the program and the children it waited for; the latter is never
    below the runner's own size, since Linux counts the memory before the exec.
    """

    run: str
    exit: int | None = None
    signal: int | None = None
    timed_out: bool = False
    failure: str = ""
    stdout: bytes = b""
    stdout_bytes: int = 0
    stderr: bytes = b""
    stderr_bytes: int = 0
    leftovers_killed: int = 0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    duration_s: float = 0.0


class LineBuffer:
    """Cuts a byte stream into lines of at most MAX_LINE_BYTES."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Give the lines that are complete now. Raises: WireError when one is too long."""
        self._pending += chunk
        while (end := self._pending.find(b"\n")) >= 0:
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            if len(line) > MAX_LINE_BYTES:
                _refuse(f"a line of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
            yield line
        if len(self._pending) > MAX_LINE_BYTES:
            _refuse(f"a line of more than {MAX_LINE_BYTES} bytes")


def render_greeting(greeting: Greeting) -> bytes:
    """Give the runner's first line."""
    return _line({"protocol": PROTOCOL, "pid": greeting.pid, "uid": greeting.uid})


def parse_greeting(line: bytes) -> Greeting:
    """Read the runner's first line. Raises: WireError and nothing else."""
    fields = _Fields(line, "greeting")
    if (version := fields.integer("protocol")) != PROTOCOL:
        _refuse(f"the runner speaks protocol {version}, this agent {PROTOCOL}: install both from one package")
    greeting = Greeting(pid=fields.integer("pid"), uid=fields.integer("uid"))
    fields.finish()
    return greeting


def render_request(request: RunRequest) -> bytes:
    """Give the line that asks for one run. Raises: WireError when it is longer than a line may be."""
    line = _line(
        {
            "run": request.run,
            "argv": list(request.argv),
            "env": dict(request.env),
            "timeout_s": request.timeout_s,
            "grace_s": request.grace_s,
            "limits": dict(request.limits),
        }
    )
    if len(line) > MAX_LINE_BYTES:
        _refuse(f"arguments and environment take {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
    return line


def parse_request(line: bytes) -> RunRequest:
    """Read one request. Untrusted. Raises: WireError and nothing else, for any bytes."""
    fields = _Fields(line, "request")
    request = RunRequest(
        run=fields.text("run"),
        argv=fields.texts("argv"),
        env=fields.text_map("env"),
        timeout_s=fields.number("timeout_s"),
        grace_s=fields.number("grace_s"),
        limits=fields.limits(),
    )
    fields.finish()
    if _RUN_ID.fullmatch(request.run) is None:
        _refuse("'run' must be 1 to 64 letters and digits")
    if not 1 <= len(request.argv) <= MAX_ARGUMENTS or not request.argv[0].startswith("/"):
        _refuse(f"'argv' must be 1 to {MAX_ARGUMENTS} texts, the first an absolute path")
    if any(not name or "=" in name for name in request.env):
        _refuse("a name in 'env' is empty or holds '='")
    if not 0 < request.timeout_s <= MAX_TIMEOUT_S or not 0 <= request.grace_s <= MAX_GRACE_S:
        _refuse(f"'timeout_s' must be in (0, {MAX_TIMEOUT_S:.0f}], 'grace_s' in [0, {MAX_GRACE_S:.0f}]")
    return request


def render_response(response: RunResponse) -> bytes:
    """Give the line that answers one run."""
    return _line(
        {
            "run": response.run,
            "exit": response.exit,
            "signal": response.signal,
            "timed_out": response.timed_out,
            "failure": response.failure,
            "stdout": base64.b64encode(response.stdout).decode(),
            "stdout_bytes": response.stdout_bytes,
            "stderr": base64.b64encode(response.stderr).decode(),
            "stderr_bytes": response.stderr_bytes,
            "leftovers_killed": response.leftovers_killed,
            "cpu_s": response.cpu_s,
            "max_rss_bytes": response.max_rss_bytes,
            "duration_s": response.duration_s,
        }
    )


def parse_response(line: bytes) -> RunResponse:
    """Read one answer. Raises: WireError and nothing else, for any bytes."""
    fields = _Fields(line, "response")
    response = RunResponse(
        run=fields.text("run"),
        exit=fields.optional_integer("exit"),
        signal=fields.optional_integer("signal"),
        timed_out=fields.truth("timed_out"),
        failure=fields.text("failure"),
        stdout=fields.octets("stdout"),
        stdout_bytes=fields.integer("stdout_bytes"),
        stderr=fields.octets("stderr"),
        stderr_bytes=fields.integer("stderr_bytes"),
        leftovers_killed=fields.integer("leftovers_killed"),
        cpu_s=fields.number("cpu_s"),
        max_rss_bytes=fields.integer("max_rss_bytes"),
        duration_s=fields.number("duration_s"),
    )
    fields.finish()
    return response


class _Fields:
    """One decoded object; every reader takes a key out and checks its type."""

    __slots__ = ("_left", "_where")

    def __init__(self, line: bytes, where: str) -> None:
        self._where = where
        try:
            decoded = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as exc:
            raise WireError(f"runner {where}", f"not JSON: {exc}") from exc
        if not isinstance(decoded, dict):
            _refuse(f"the {where} is not an object")
        self._left: dict[str, object] = decoded

    def _take(self, key: str) -> object:
        if key not in self._left:
            _refuse(f"the {self._where} has no {key!r}")
        return self._left.pop(key)

    def finish(self) -> None:
        if self._left:
            _refuse(f"the {self._where} has unknown keys: {', '.join(sorted(self._left))[:200]}")

    def text(self, key: str) -> str:
        return _checked_text(self._take(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list):
            _refuse(f"{key!r} is not a list")
        return tuple(_checked_text(item, key) for item in value)

    def text_map(self, key: str) -> dict[str, str]:
        value = self._take(key)
        if not isinstance(value, dict):
            _refuse(f"{key!r} is not an object")
        return {_checked_text(name, key): _checked_text(item, key) for name, item in value.items()}

    def limits(self) -> dict[str, int]:
        value = self._take("limits")
        if not isinstance(value, dict) or any(name not in LIMIT_NAMES for name in value):
            _refuse(f"'limits' is not an object of {', '.join(LIMIT_NAMES)}")
        for limit in value.values():
            if type(limit) is not int or not 0 < limit <= _MAX_LIMIT:
                _refuse("a limit is not a positive whole number")
        return value

    def integer(self, key: str) -> int:
        value = self._take(key)
        if type(value) is not int or not 0 <= value <= _MAX_LIMIT:
            _refuse(f"{key!r} is not a whole number")
        return value

    def optional_integer(self, key: str) -> int | None:
        if self._left.get(key, 0) is None:
            self._left.pop(key)
            return None
        return self.integer(key)

    def number(self, key: str) -> float:
        value = self._take(key)
        if type(value) not in (int, float) or not math.isfinite(number := _as_float(value)):
            _refuse(f"{key!r} is not a number")
        return number

    def truth(self, key: str) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            _refuse(f"{key!r} is not true or false")
        return value

    def octets(self, key: str) -> bytes:
        try:
            return base64.b64decode(self.text(key), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise WireError("runner", f"{key!r} is not base64: {exc}") from exc


def _checked_text(value: object, key: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        _refuse(f"{key!r} holds something that is not text without NUL")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise WireError("runner", f"{key!r} holds a lone surrogate: {exc.reason}") from exc
    return value


def _as_float(value: object) -> float:
    if not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _refuse(problem: str) -> NoReturn:
    raise WireError("runner", problem)
