"""Which versions the site's own clients have, so that a preview can be handed over to production.

The commands are the administrator's; they run as probes do, contained and as the probe user, in the
environment the site's profile files make. What fails or prints no version is Unknown.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pps_agent.environment.values import BASE_PATH, NO_HOME, Captured
from pps_agent.probes.parse import clean_line
from pps_agent.probes.protocol import RunResponse
from pps_agent.settings import ProductionSettings
from pps_agent.state import Unknown
from pps_wire.names import Component

MAX_TEXT: Final = 16 * 1024
"""Characters in which a version is looked for."""
_MAX_VERSION: Final = 64

Run = Callable[[tuple[str, ...], Mapping[str, str], float], RunResponse | str]
"""Runs a command (arguments, environment, time limit in s); a reason instead of an answer where none came."""


def observe_production(
    sources: Mapping[Component, ProductionSettings], captured: Captured | Unknown, run: Run
) -> dict[Component, str | Unknown]:
    """Give the version of each production client that the settings tell how to find."""
    inherited = {} if isinstance(captured, Unknown) else captured.variables
    env = {"PATH": ":".join(BASE_PATH), "HOME": NO_HOME, **inherited, "LC_ALL": "C.UTF-8"}
    return {component: _observe(component, source, env, run) for component, source in sources.items()}


def find_version(text: str, pattern: str) -> str | None:
    """Give what the pattern's group matches first in a text; None when that is no version. Pure."""
    found = re.search(pattern, text[:MAX_TEXT])
    version = (found[1] or "").strip() if found else ""
    return version if 0 < len(version) <= _MAX_VERSION and version.isprintable() else None


def _observe(component: Component, source: ProductionSettings, env: Mapping[str, str], run: Run) -> str | Unknown:
    where = f"production.{component}"
    text = _read(source.file) if source.file is not None else _ask(source, env, run)
    if isinstance(text, Unknown):
        return Unknown(f"{text.reason}; see {where}")
    version = find_version(text, source.pattern)
    if version is None:
        return Unknown(f"{where}.pattern finds no version in {clean_line(text)[:80]!r}")
    return version


def _read(path: Path) -> str | Unknown:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TEXT).decode(errors="replace")
    except OSError as exc:
        return Unknown(f"{path}: {exc.strerror}")


def _ask(source: ProductionSettings, env: Mapping[str, str], run: Run) -> str | Unknown:
    program = shutil.which(source.command[0], path=env["PATH"])
    if program is None:
        return Unknown(f"{source.command[0]} is not in PATH")
    answer = run((str(Path(program).absolute()), *source.command[1:]), env, float(source.timeout_s))
    if isinstance(answer, str):
        return Unknown(answer)
    said = (answer.stdout + b"\n" + answer.stderr).decode(errors="replace")  # some print their version on stderr
    if answer.timed_out:
        return Unknown(f"{program}: not done after {source.timeout_s} s")
    if answer.exit != 0:
        ended = answer.failure or (f"signal {answer.signal}" if answer.exit is None else f"exit {answer.exit}")
        return Unknown(f"{program}: {ended}: {clean_line(said)[:200]}")
    return said
