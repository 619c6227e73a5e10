"""A network of its own with nothing but loopback, for servers that bind every interface."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HOLD = "ip link set lo up && echo ready && exec cat"


@dataclass(frozen=True, slots=True)
class LoopbackNetwork:
    """A network namespace held open by one idle process."""

    pid: int

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Give the command that runs ``argv`` inside."""
        return ["nsenter", "-t", str(self.pid), "-n", "--", *map(str, argv)]

    def run(
        self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside to its end and give what it said."""
        return subprocess.run(
            self.command(argv), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )


def missing_reason() -> str:
    """Say what this machine lacks for such a network; empty when nothing."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return "a network of its own needs: apt-get install util-linux iproute2"
    if os.geteuid() != 0:
        return "needs root: these servers refuse to be the only user of a namespace"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace here: {probe.stderr.strip()}" if probe.returncode else ""


@contextmanager
def loopback_network() -> Iterator[LoopbackNetwork]:
    """Make the network; its processes must be stopped before it is left."""
    # cat ends when its standard input closes, so nothing is left even when this process is killed.
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield LoopbackNetwork(holder.pid)
