"""``check-pps``: what a cached result costs a scheduler beside an interpreter that does nothing."""

import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from benchmarks.measure import Claim, alternate, claim_at_most, process

METRICS: Final = 1000


def measure() -> Iterator[Claim]:
    """Measure ``check_pps`` on the last of METRICS results, with details (target 2.5)."""
    program = str(Path(sys.executable).with_name("check_pps"))
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "results.jsonl"
        results.write_text("".join(f"{_line(number)}\n" for number in range(METRICS)))
        last = [program, f"org.pps.bench.m{METRICS - 1}", "--file", str(results), "-v"]
        floor, cached = alternate(process([sys.executable, "-c", "pass"]), process(last), rounds=31)
    peer = "python -c pass, same interpreter"
    yield claim_at_most("check-pps", cached * 1e3, floor * 1e3, unit="ms", peer=peer, limit=2.5)


def _line(number: int) -> str:
    now = datetime.now(UTC)
    fields = {
        "metric": f"org.pps.bench.m{number}",
        "release": "",
        "status": "OK",
        "cause": "verdict",
        "summary": "put, get and remove took 0.9 s",
        "perfdata": "'put'=0.4s;5;10;0 'get'=0.3s;5;10;0 'remove'=0.2s;5;10;0",
        "at": now.isoformat(),
        "fresh_until": (now + timedelta(hours=2)).isoformat(),
        "attempt": 1,
        "hard": True,
        "details": "copied 1 MiB\nchecksum agrees\nremoved\n" * 4,
        "duration_s": 0.9,
    }
    return json.dumps(fields, separators=(",", ":"))
