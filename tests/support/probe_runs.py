"""Runs of shipped probes by hand, as a scheduler starts them, under any Python that is here."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pps_agent.probes.catalogue import load_catalogue
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.parse import parse_perfdata
from pps_wire.report import Status

PATH: Final = "/usr/bin:/bin"
_OLDEST_MINOR, _NEWEST_MINOR = 9, 15


@dataclass(frozen=True, slots=True)
class Said:
    """What a probe said: its status, the text of its first line, the other lines, and its measures."""

    status: Status
    text: str
    lines: tuple[str, ...]
    perfdata: Mapping[str, float | None]
    output: str


def shipped(name: str) -> ProbeDefinition:
    """Give a shipped probe by name or alias."""
    definition = load_catalogue().find(name)
    assert definition is not None, name
    return definition


def run_probe(
    name: str, env: Mapping[str, str], *, before: Sequence[str] = (), cwd: Path | None = None, timeout_s: float = 60
) -> Said:
    """Run a shipped probe with this environment and no other; ``before`` are words before its path.

    Asserts what holds for every run: an exit from 0 to 3 that the first line repeats, readable
    performance data, nothing on stderr.
    """
    done = subprocess.run(
        [*before, str(shipped(name).run)],
        env={"PATH": PATH, "LC_ALL": "C.UTF-8", **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    output = done.stdout.decode("utf-8", "surrogateescape")
    assert (done.stderr, done.returncode in range(4)) == (b"", True), (done.returncode, output, done.stderr)
    first, *lines = output.rstrip("\n").split("\n")
    head, _, perf = first.partition(" | ")
    status = Status(done.returncode)
    _, word, text = head.split(" ", 2)
    assert word == status.name, first
    return Said(status, text.removeprefix("- "), tuple(lines), {d.label: d.value for d in parse_perfdata(perf)}, output)


@cache
def find_pythons() -> tuple[str, ...]:
    """Give the oldest and the newest Python from 3.9 on that is installed, as commands or as pyenv keeps them."""
    keeps = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in range(_OLDEST_MINOR, _NEWEST_MINOR + 1):
        named = shutil.which(f"python3.{minor}")
        candidates = [*([named] if named else []), *sorted(map(str, keeps.glob(f"3.{minor}.*/bin/python3")))]
        found += [path for path in candidates if _works(path)][:1]
    return tuple(dict.fromkeys([*found[:1], *found[-1:]])) or ("/usr/bin/python3",)


def _works(python: str) -> bool:
    # A command may be a shim that only tells which versions there are.
    done = subprocess.run([python, "-IS", "-c", "pass"], capture_output=True, check=False)
    return done.returncode == 0
