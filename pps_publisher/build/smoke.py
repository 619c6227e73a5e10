"""Runs commands of a tree in a clean root, and sees which libraries they load.

bubblewrap makes the root: the base system and the tree read-only, its own processes, no network, no
other file of this machine. The loader itself writes down what it loads. Source: ld.so(8), LD_DEBUG.
"""

import contextlib
import json
import os
import re
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pps_publisher.build.clean_root import PROGRAM_PATH, CleanRoot
from pps_publisher.errors import SiteError, UsageError
from pps_wire.release import Overlay

TIMEOUT_S: Final = 120
MAX_OUTPUT_BYTES: Final = 16 * 1024
NOT_FOUND: Final = 127
"""What a shell answers for a command that is not there."""
TREE: Final = "/pps-tree"
"""Where the tree stands in the clean root: a place no package was built for."""

_TRACE: Final = "/pps-trace"
_MAX_TRACE_BYTES: Final = 64 * 1024**2
_LOADED: Final = re.compile(rb"calling init: (/\S+)$", re.MULTILINE)
_LEFT_OUT: Final = frozenset(("proc", "sys", "dev", "tmp", "run"))
_BLOCK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SmokeRun:
    """One run: ``exit_code`` is None when it did not end in time; libraries as paths in the clean root."""

    command: str
    exit_code: int | None
    output: str
    tree_libraries: tuple[str, ...]
    base_libraries: tuple[str, ...]


def parse_command(text: str) -> tuple[str, ...]:
    """Read a command line into its arguments, as a shell splits it; no shell runs it. Raises: UsageError."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as exc:
        raise UsageError(f"--smoke {text!r}: {exc}; write e.g. --smoke 'xrdcp --version'") from exc
    if not words:
        raise UsageError("--smoke is empty; write e.g. --smoke 'xrdcp --version'")
    return words


def compose(overlay: Overlay) -> dict[str, str]:
    """Give the environment of a smoke run: the release's own over an empty one; nothing of this machine. Pure."""
    lists = {"PATH": tuple(f"/{directory}" for directory in PROGRAM_PATH)}
    composed = {"HOME": "/tmp", "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp"}  # noqa: S108  # the clean root's own
    for name in {**lists, **overlay.prepend}:
        own = tuple(f"{TREE}/{path}" for path in overlay.prepend.get(name, ()))
        composed[name] = ":".join((*own, *lists.get(name, ())))
    return composed | {name: f"{TREE}/{path}" for name, path in overlay.assign.items()}


def find_bwrap() -> str:
    """Give the bubblewrap program. Raises: SiteError naming the package."""
    found = shutil.which("bwrap")
    if found is None:
        raise SiteError("bwrap is not on this machine; install the package bubblewrap, or say --no-clean-root")
    return found


def run_smoke(text: str, tree: Path, overlay: Overlay, root: CleanRoot, trace: Path) -> SmokeRun:
    """Run one command in the clean root; ``trace`` is a directory for the loader's notes, which is made.

    Raises: SiteError where bubblewrap is missing or may not make a root; UsageError; OSError.
    """
    words = parse_command(text)
    trace.mkdir()
    told, writer = os.pipe()
    environment = compose(overlay) | {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": f"{_TRACE}/ld"}
    command = [find_bwrap(), "--json-status-fd", str(writer), *_view(root, tree, trace), *_settings(environment), "--"]
    with os.fdopen(told, "rb") as status:
        try:
            process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/bin:/bin"},
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        output, ended = _watch(process)
        code = _exit_code(status.read())
    if ended and code is None and output.startswith("bwrap: execvp "):
        code = NOT_FOUND  # the root was made, the command is not in it
    if ended and code is None:
        raise SiteError(
            f"bwrap could not make a clean root: {output.strip()[-300:]}; allow unprivileged user namespaces, "
            "or say --no-clean-root"
        )
    loaded = sorted(_loaded(trace))
    return SmokeRun(
        command=text,
        exit_code=code if ended else None,
        output=output,
        tree_libraries=tuple(path for path in loaded if path.startswith(TREE + "/")),
        base_libraries=tuple(path for path in loaded if not path.startswith(TREE + "/")),
    )


def _view(root: CleanRoot, tree: Path, trace: Path) -> Iterator[str]:
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000", "--gid", "1000")
    yield from ("--hostname", "clean-root", "--cap-drop", "ALL")
    for entry in sorted(root.path.iterdir()):
        if entry.name in _LEFT_OUT:
            continue
        if entry.is_symlink():
            yield from ("--symlink", str(entry.readlink()), f"/{entry.name}")
        elif entry.is_dir():
            yield from ("--ro-bind", str(entry), f"/{entry.name}")
    yield from ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run")  # noqa: S108
    yield from ("--ro-bind", str(tree), TREE, "--bind", str(trace), _TRACE, "--chdir", "/tmp")  # noqa: S108


def _settings(environment: Mapping[str, str]) -> Iterator[str]:
    yield from ("--unsetenv", "PATH")
    for name, value in sorted(environment.items()):
        yield from ("--setenv", name, value)


def _watch(process: subprocess.Popen[bytes]) -> tuple[str, bool]:
    """Give a process's output, its end cut off, and whether it ended in time; afterwards it has ended."""
    if process.stdout is None:
        raise AssertionError("the output is a pipe")
    ends_at = time.monotonic() + TIMEOUT_S
    kept = bytearray()
    with process.stdout as stream:
        for block in _blocks(stream, ends_at):
            kept += block[: MAX_OUTPUT_BYTES - len(kept)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, ends_at - time.monotonic()))
    ended = process.poll() is not None
    if not ended:
        process.kill()  # bwrap's end takes everything in its process namespace along
        process.wait()
    return kept.decode(errors="replace"), ended


def _blocks(stream: IO[bytes], ends_at: float) -> Iterator[bytes]:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while (left := ends_at - time.monotonic()) > 0 and selector.select(left):
            block = os.read(stream.fileno(), _BLOCK)
            if not block:
                return
            yield block


def _exit_code(status: bytes) -> int | None:
    """Give the command's exit code; None when bubblewrap ended before it could start anything."""
    for line in status.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and isinstance(told.get("exit-code"), int):
                return int(told["exit-code"])
    return None


def _loaded(trace: Path) -> set[str]:
    """Give the libraries that the loader's notes name."""
    found: set[str] = set()
    left = _MAX_TRACE_BYTES
    for file in sorted(trace.iterdir()):
        if left <= 0 or file.is_symlink() or not file.is_file():
            continue
        with file.open("rb") as stream:
            content = stream.read(left)
        left -= len(content)
        found |= {os.path.normpath(match.decode(errors="replace")) for match in _LOADED.findall(content)}
    return found
