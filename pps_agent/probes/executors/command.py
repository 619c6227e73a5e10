"""The site's own commands: argument lists, a small environment, a time limit, output cut to size."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.probes.parse import clean_line
from pps_agent.probes.verdict import signal_name

TIMEOUT_S: Final = 60.0
MAX_OUTPUT_BYTES: Final = 4 * 1024**2
_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Account:
    """Whose jobs they are, where that is not the agent's own user."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Done:
    """What one command said. ``complaint`` is the last line of its stderr, or of stdout where that is empty."""

    code: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """What it complains of, on one line."""
        lines = [line for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line.strip()]
        return clean_line(lines[-1])[:512] if lines else f"exit {self.code}"


class Commands:
    """Runs commands of the batch system as one account."""

    def __init__(self, env: Mapping[str, str], account: Account | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._account, self._timeout_s = account, timeout_s
        name = account.name if account else ""
        self._env = {"PATH": _PATH, "LC_ALL": "C.UTF-8", **({"USER": name, "LOGNAME": name} if name else {}), **env}

    def run(self, argv: Sequence[str], directory: str) -> Done:
        """Run a command in a directory, which is its HOME too unless the settings give one.

        Raises: SiteError when it cannot be started, does not end, or ends by a signal.
        """
        who = {"user": self._account.uid, "group": self._account.gid, "extra_groups": ()} if self._account else {}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            try:
                process = subprocess.Popen(
                    argv,
                    cwd=directory,
                    env={"HOME": directory, **self._env},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=error,
                    start_new_session=True,
                    **who,  # type: ignore[call-overload]
                )
            except OSError as exc:
                raise SiteError(f"{argv[0]}: {exc.strerror}: install it here, or set PATH in nodes.env") from exc
            code = _wait(process, argv[0], self._timeout_s)
            texts = []
            for stream in (out, error):
                stream.seek(0)
                texts.append(stream.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace"))
        if code < 0:
            raise SiteError(f"{argv[0]} was ended by {signal_name(-code)}: try it by hand")
        return Done(code, *texts)

    def must(self, argv: Sequence[str], directory: str) -> str:
        """Run a command that must succeed and give its stdout. Raises: SiteError with its own words."""
        done = self.run(argv, directory)
        if done.code != 0:
            raise SiteError(f"{argv[0]}: {done.complaint}")
        return done.stdout


def _wait(process: "subprocess.Popen[bytes]", name: str, timeout_s: float) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise SiteError(f"{name} did not end within {timeout_s:g} s: is its server up?") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
