"""Probes written on the spot, and runners to run them."""

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.definition import ProbeDefinition
from pps_wire.names import ProbeName

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
WriteProbe = Callable[..., ProbeDefinition]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have two users")


@pytest.fixture
def write_probe(public_directory: Path) -> WriteProbe:
    """Give a function that writes an executable and defines it as a probe."""

    def write(body: str, *, name: str = "it", interpreter: str = "/bin/sh", **fields: object) -> ProbeDefinition:
        run = public_directory / name
        run.write_text(f"#!{interpreter}\n{body}\n")
        run.chmod(0o755)
        return ProbeDefinition(name=ProbeName(f"org.test.{name}"), run=run, **{"timeout_s": 20, **fields})  # type: ignore[arg-type]

    return write


@pytest.fixture(scope="module")
def runner() -> Iterator[RunnerClient]:
    """Give one runner for all tests of a module."""
    with start_runner() as client:
        yield client


def processes_with(marker: str) -> set[int]:
    """List living processes that were started with this text in their environment."""
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if marker.encode() in (directory / "environ").read_bytes():
                    found.add(int(directory.name))
            except OSError:
                continue
    return found - {os.getpid()}


def wait_for_processes(marker: str, count: int) -> set[int]:
    """Wait until so many processes were started with this text in their environment."""
    for _ in range(2000):
        if len(found := processes_with(marker)) >= count:
            return found
        select.select([], [], [], 0.01)
    raise AssertionError(f"there were never {count} processes with {marker}")


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for the end of any process; True when it has ended."""
    try:
        pinned = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pinned], [], [], seconds)[0])
    finally:
        os.close(pinned)


def wait_for_text(path: Path, lines: int, process_alive: Callable[[], bool]) -> list[str]:
    """Wait until a file (a FIFO is not possible across users) has this many lines."""
    for _ in range(2000):
        found = path.read_text().split("\n")[:-1] if path.exists() else []
        if len(found) >= lines:
            return found
        assert process_alive(), "the process that should write ended"
        select.select([], [], [], 0.01)
    raise AssertionError(f"{path} never had {lines} lines")
