"""``probe-flood`` and ``probe-daemon``: what a hostile check costs each scheduler, the daemon and its peers alike.

The check is harmless until a file is there, so that each scheduler is warm when it meets the other kind.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from benchmarks.daemon import Agent
from benchmarks.measure import Claim
from benchmarks.schedulers import (
    Load,
    Peer,
    compile_program,
    forget_peak,
    peak_mib,
    serve_icinga,
    serve_nagios,
    serve_nrpe,
)

_ROUNDS: Final = 3
_WARM: Final = 3
_INTERVAL_S: Final = 5
_LIMIT_S: Final = 4
_FLOOD: Final = "head -c 100000000 /dev/zero | tr '\\0' x"
_DAEMON: Final = "echo OK - done; sleep 30 &"
_OURS: Final = "agent"


def measure_flood() -> Iterator[Claim]:
    """Measure how much each scheduler grows while a check prints 100 MB on one line."""
    grown = [_meet(_FLOOD, 60, _grow_mib) for _ in range(_ROUNDS)]
    yield from _compare("probe-flood", "MiB", grown, 2.0)


def measure_daemon() -> Iterator[Claim]:
    """Measure the time until the result of a check that is done but leaves a child with its output open."""
    taken = [_meet(_DAEMON, _LIMIT_S, _time_s) | {"NRPE": _time_nrpe_s()} for _ in range(_ROUNDS)]
    yield from _compare("probe-daemon", "s", taken, 0.5, f"the time limit was {_LIMIT_S} s")


class _Watched:
    """A warm scheduler, seen from outside: its processes, and when it has the next result."""

    def __init__(self, pids: list[int], await_next_s: Callable[[], float]) -> None:
        self.pids = pids
        self.await_next_s = await_next_s
        """Waits for the next result and gives the seconds from the start of the check to it."""


def _grow_mib(watched: _Watched) -> float:
    before = forget_peak(watched.pids)
    watched.await_next_s()
    return peak_mib(watched.pids) - before


def _time_s(watched: _Watched) -> float:
    return watched.await_next_s()


def _meet(body: str, limit_s: int, take: Callable[[_Watched], float]) -> dict[str, float]:
    """Have each scheduler meet the hostile check once; give what was measured."""
    found = {}
    with _hostile(body) as (base, check, go):
        load = Load(check, _INTERVAL_S, metrics=1, limit_s=limit_s, noted=True)
        for name, serve in (("Nagios 4", serve_nagios), ("Icinga 2", serve_icinga)):
            with serve(base / name.partition(" ")[0], load) as peer:
                peer.await_result(_WARM)
                found[name] = _take(take, _Watched(peer.pids, lambda peer=peer: _await_peer_s(peer)), go)
        agent = Agent(base / _OURS, load)
        with agent.running():
            agent.await_results(_WARM)
            found[_OURS] = _take(take, _Watched(agent.pids, lambda: _await_agent_s(agent)), go)
    return found


def _take(take: Callable[[_Watched], float], watched: _Watched, go: Path) -> float:
    go.touch()
    try:
        return take(watched)
    finally:
        go.unlink()


def _await_peer_s(peer: Peer) -> float:
    number = len(peer.starts_s())
    ended_s = peer.await_result(number + 1)
    return ended_s - peer.starts_s()[number]


def _await_agent_s(agent: Agent) -> float:
    agent.await_results(agent.count() + 1)
    now = time.time()
    ((at,),) = agent.query("SELECT at FROM probe_result ORDER BY id DESC LIMIT 1")
    return now - datetime.fromisoformat(str(at)).timestamp()


def _time_nrpe_s() -> float:
    with _hostile(_DAEMON) as (base, check, go), serve_nrpe(base / "nrpe", check, limit_s=_LIMIT_S) as ask:
        go.touch()
        began = time.monotonic()
        subprocess.run(ask, check=False, capture_output=True)
        return time.monotonic() - began


@contextmanager
def _hostile(body: str) -> Iterator[tuple[Path, Path, Path]]:
    """Give a directory, a check, and the file whose presence makes it hostile."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        base = Path(scratch)
        base.chmod(0o755)
        plugin, check, go = compile_program("plugin", base), base / "check", base / "go"
        check.write_text(f'#!/bin/sh\n[ -e {go} ] || exec {plugin} "$@"\n{plugin} "$@" >/dev/null\n{body}\n')
        check.chmod(0o755)
        yield base, check, go


def _compare(claim: str, unit: str, rounds: list[dict[str, float]], limit: float, note: str = "") -> Iterator[Claim]:
    """Judge our own median by a limit, and show it beside each peer's."""
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    value = medians.pop(_OURS)
    for name, peer in medians.items():
        yield Claim(
            f"{claim} {name.partition(' ')[0].lower()}",
            round(value, 3),
            unit,
            name,
            round(peer, 2),
            round(value / peer, 4),
            f"<= {limit:g} {unit}",
            value <= limit,
            note=note,
        )
