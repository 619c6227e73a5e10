"""ARC's runtime environments, one for each tag: scripts below ``runtimedir``, made known by ``arcctl rte``.

All of ``<runtimedir>/APPS/PPS`` is ours. A script is there before it is enabled and disabled before it goes, so that
A-REX never offers what it cannot run. Source: arcctl(1), ARC 6.17.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.files import save_bytes
from pps_wire.requirement import RTE_PREFIX

_LIMIT_S: Final = 60
MAX_NAME_CHARS: Final = 230
"""Of a tag; a file's name has 255 bytes at most, some of them while it is written."""
_AT_ONCE: Final = 1000
"""Names on one command line: the kernel takes 2 MiB."""
_NOT_ENABLED: Final = "is not enabled"


@dataclass(frozen=True, slots=True)
class RuntimeChange:
    """What was (or would be) done: names that came or changed, and names that went."""

    written: tuple[str, ...]
    removed: tuple[str, ...]


def plan_runtimes(directory: Path, wanted: Mapping[str, str]) -> RuntimeChange:
    """Compare the scripts (text by name) with those that are there. Raises: SiteError."""
    there = _load(directory)
    written = tuple(name for name, text in sorted(wanted.items()) if there.get(name) != text)
    return RuntimeChange(written, tuple(sorted(there.keys() - wanted.keys())))


def carry_out(directory: Path, wanted: Mapping[str, str], change: RuntimeChange, arcctl: Sequence[str]) -> None:
    """Disable, remove, write and enable. ``arcctl`` empty: nothing is enabled. Every wanted one is enabled anew.

    Raises: SiteError; what was done before stays done, and the same again goes on.
    """
    for name in change.removed:
        if arcctl:
            _run([*arcctl, "rte", "disable", name], tolerate=_NOT_ENABLED)
        try:
            (directory / name).unlink(missing_ok=True)
        except OSError as exc:
            raise SiteError(f"{directory / name}: {exc.strerror}: let this account write there") from exc
    for name in change.written:
        path = directory / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(path, wanted[name].encode(), mode=0o755)
        except OSError as exc:
            raise SiteError(f"{path}: {exc.strerror}: let this account write there") from exc
    names = sorted(wanted)
    for begin in range(0, len(names) if arcctl else 0, _AT_ONCE):
        _run([*arcctl, "rte", "enable", *names[begin : begin + _AT_ONCE]])


def _load(directory: Path) -> dict[str, str]:
    if not directory.is_dir():
        raise SiteError(f"{directory}: no such directory: name the runtimedir of arc.conf, and create it")
    try:
        found = sorted((directory / RTE_PREFIX).iterdir())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise SiteError(f"{exc.filename}: {exc.strerror}: let this account read it") from exc
    return {RTE_PREFIX + path.name: _read(path) for path in found if not path.name.startswith(".")}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace") if path.is_file() and not path.is_symlink() else ""
    except OSError:
        return ""


def _run(command: Sequence[str], tolerate: str = "") -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SiteError(f"{command[0]}: {exc}: install nordugrid-arc-arcctl, or name it with --arcctl") from exc
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0 and not (tolerate and tolerate in said):
        raise SiteError(f"{' '.join(command[:4])}: {said.splitlines()[-1] if said else f'exit {done.returncode}'}")
