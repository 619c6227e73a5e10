"""Runs other programs: an argument list, a small environment, a time limit, no standard input."""

import subprocess
from pathlib import Path
from typing import Final

from pps_publisher.errors import SiteError

ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def call(command: list[str], timeout_s: int, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever it answers. Raises: SiteError when it takes too long; OSError."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            cwd=cwd,
            env=ENVIRONMENT,
        )
    except subprocess.TimeoutExpired as exc:
        raise SiteError(f"{command[0]} took more than {timeout_s} s; look at the machine and try again") from exc


def demand(command: list[str], timeout_s: int, cwd: Path | None = None) -> str:
    """Give what a program printed. Raises: SiteError when it failed or took too long; OSError."""
    result = call(command, timeout_s, cwd)
    if result.returncode:
        raise SiteError(f"{' '.join(command[:3])} … failed: {last_lines(result.stderr)}; try it by hand")
    return result.stdout


def last_lines(text: str) -> str:
    """Give the last three lines as one, at most 500 characters."""
    return " / ".join(text.strip().splitlines()[-3:])[:500]
