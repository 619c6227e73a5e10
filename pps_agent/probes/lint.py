"""Looks at a probe as a reviewer would: everything that would fail, surprise or stay unclear at a site."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pps_agent.errors import ConfigError
from pps_agent.probes.cases import load_cases
from pps_agent.probes.catalogue import Catalogue
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.directory import PROGRAM, read_probe
from pps_agent.probes.rules import (
    Finding,
    find_case_faults,
    find_metadata_faults,
    find_program_faults,
    find_readme_faults,
    is_shell,
)

_MAX_README_BYTES: Final = 1024**2
_SHELL_TIMEOUT_S: Final = 20


def lint_probe(path: Path, catalogue: Catalogue, max_timeout_s: int) -> tuple[str, ...]:
    """Give all faults of the probe in this directory, each with its file; ``catalogue`` are the installed ones."""
    path = path.absolute()
    read = read_probe(path)
    # What reading found has the whole path already, and a line where there is one.
    faults = list(read.faults)
    others = {
        name: other
        for other in catalogue.definitions
        if other.run.parent.resolve() != path.resolve()
        for name in (other.name, *other.aliases)
    }
    clashes = {others[name].run.parent: name for name in reversed(read.names) if name in others}
    faults += [f"{path}: {name} is also the name of {other}: rename one" for other, name in clashes.items()]
    try:
        program = (path / PROGRAM).read_bytes()
    except OSError:
        program = b""  # reading told it
    findings = (
        [*find_program_faults(program, sys.stdlib_module_names), *_find_interpreter_faults(path, program)]
        if program
        else []
    )
    if read.definition is not None:
        findings += find_metadata_faults(read.definition, path.name, others, max_timeout_s)
        findings += _find_readme_faults(path, read.definition)
    return (*faults, *(f"{path}/{finding}" for finding in findings), *_find_case_faults(path))


def _find_interpreter_faults(path: Path, program: bytes) -> Iterator[Finding]:
    first = program.partition(b"\n")[0].decode("utf-8", "replace")
    interpreter = (first[2:].split() or [""])[0]
    if not first.startswith("#!"):
        return
    if not os.access(interpreter, os.X_OK):
        yield Finding(PROGRAM, 1, f"{interpreter} cannot be executed on this machine")
    elif is_shell(first) and (refusal := _ask_shell(interpreter, path / PROGRAM)):
        yield Finding(PROGRAM, 0, f"{interpreter} -n refuses it: {refusal}")


def _ask_shell(shell: str, program: Path) -> str:
    """Have a shell read a program without running it; empty when it understands all of it."""
    try:
        done = subprocess.run(
            [shell, "-n", str(program)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SHELL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["syntax error"]
    return said[0] if done.returncode else ""


def _find_readme_faults(path: Path, definition: ProbeDefinition) -> Iterator[Finding]:
    try:
        with (path / "README.md").open("rb") as stream:
            text: str | None = stream.read(_MAX_README_BYTES).decode("utf-8", "replace")
    except OSError:
        text = None
    yield from find_readme_faults(text, definition, path.name)


def _find_case_faults(path: Path) -> Iterator[str]:
    try:
        cases = load_cases(path)
    except ConfigError as exc:
        yield from exc.faults
    else:
        yield from (f"{path}/{finding}" for finding in find_case_faults(cases))
