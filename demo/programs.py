"""Runs our own programs as their users do: as processes, by their command lines."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TIME_LIMIT_S: Final = 1800
_STOP_S: Final = 15


class StepError(Exception):
    """A step did not do what it says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command gave."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Give stdout as JSON. Raises: StepError when it is none."""
        try:
            return json.loads(self.stdout)
        except ValueError as exc:
            raise StepError(
                f"no JSON came back (exit {self.code}): {self.stdout[-500:]} {self.stderr[-2000:]}"
            ) from exc


def find_program(name: str) -> str:
    """Give one of our commands as it is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def run(program: str, arguments: Sequence[object], *, codes: tuple[int, ...] = (0,), stdin: str = "") -> Answer:
    """Run one of our commands. Raises: StepError on another exit code than expected."""
    command = [find_program(program), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT_S)
    if done.returncode not in codes:
        said = f"{done.stdout[-500:]} {done.stderr[-2000:]}".strip()
        raise StepError(f"{program} {arguments[0]} ended with {done.returncode}: {said}")
    return Answer(done.returncode, done.stdout, done.stderr)


class Server:
    """One of our servers in the background, ended by its own pid."""

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=stream, text=True)

    def first_line(self) -> str:
        """Give the line the server prints once it answers. Raises: StepError when it ends before."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            self._process.wait()
            raise StepError(f"the server did not start: {self._log.read_text()[-2000:]}")
        return line.strip()

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
