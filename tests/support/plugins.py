"""Runs a shipped probe as a scheduler would and reads what it says."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from pps_agent.probes.catalogue import load_catalogue
from pps_agent.probes.parse import parse_perfdata
from pps_wire.report import Status
from tests.support.netns import LoopbackNetwork

SYSTEM_PATH = "/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Said:
    """What one run said on its only line."""

    status: Status
    text: str
    perfdata: Mapping[str, float | None]


def probe_path(name: str) -> Path:
    """Give the executable of a shipped probe."""
    definition = load_catalogue().find(name)
    assert definition is not None
    return definition.run


@cache
def load_probe(name: str) -> ModuleType:
    """Give a Python probe as a module, for properties that would take too many processes."""
    module = ModuleType(name.replace(".", "_"))
    path = probe_path(name)
    exec(compile(path.read_text(), path, "exec"), module.__dict__)
    return module


def run_plugin(name: str, network: LoopbackNetwork | None = None, *, python: str = "", **env: str | Path) -> Said:
    """Run a probe to its end, in a network of its own and under another Python where these are given."""
    argv = [*([python, "-IS"] if python else []), str(probe_path(name))]
    done = subprocess.run(
        network.command(argv) if network else argv,
        env={"PATH": SYSTEM_PATH, **{key: str(value) for key, value in env.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout.count("\n")) == ("", 1), done
    return read_plugin(done.returncode, done.stdout)


def read_plugin(code: int, output: str) -> Said:
    """Read a plugin's only line; its word and its exit code must agree."""
    match = re.fullmatch(r"[A-Z]+ (?P<word>[A-Z]+) - (?P<text>[^|\n]*[^|\n ])(?: \| (?P<perfdata>[^|\n]+))?\n", output)
    assert match is not None, output
    assert Status[match["word"]] == code
    perfdata = {datum.label: datum.value for datum in parse_perfdata(match["perfdata"] or "")}
    return Said(Status(code), match["text"], perfdata)


@cache
def oldest_python() -> str:
    """Give a Python 3.9 of this machine, or an empty text."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which("python3.9"), *sorted(map(str, versions.glob("3.9.*/bin/python3.9")))]
    for path in filter(None, found):
        if subprocess.run([path, "-IS", "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return ""
