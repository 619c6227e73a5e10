"""``cli-start``: what the command line costs beside an interpreter that does nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Claim, alternate, claim_at_most, process

_PEER = "python -c pass, same interpreter"


def measure() -> Iterator[Claim]:
    """Measure ``pps-agent --version`` (target 1.3) and ``--help`` (target 5)."""
    program = str(Path(sys.executable).with_name("pps-agent"))
    nothing = process([sys.executable, "-c", "pass"])
    floor, version, help_ = alternate(nothing, process([program, "--version"]), process([program, "--help"]), rounds=31)
    yield claim_at_most("cli-start --version", version * 1e3, floor * 1e3, unit="ms", peer=_PEER, limit=1.3)
    yield claim_at_most("cli-start --help", help_ * 1e3, floor * 1e3, unit="ms", peer=_PEER, limit=5.0)
