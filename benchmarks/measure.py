"""How claims are measured: peer and project in turn, the median of the rounds, one JSON object each."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

ROUNDS: Final = 11


@dataclass(frozen=True, slots=True)
class Claim:
    """One measured claim; ``holds`` tells whether ``ratio`` keeps within ``target``."""

    claim: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    target: str
    holds: bool

    def render(self) -> str:
        """Give the claim as one line of JSON."""
        return json.dumps(asdict(self))


def claim_at_most(name: str, value: float, peer_value: float, *, unit: str, peer: str, limit: float) -> Claim:
    """Judge a claim of the form "at most ``limit`` times the peer"."""
    ratio = value / peer_value
    rounded = (round(value, 4), round(peer_value, 4), round(ratio, 3))
    return Claim(name, rounded[0], unit, peer, rounded[1], rounded[2], f"<= {limit}", ratio <= limit)


def alternate(*tasks: Callable[[], None], rounds: int = ROUNDS, reset: Callable[[], None] | None = None) -> list[float]:
    """Run the tasks in turn, ``rounds`` times, after one round that does not count; give each one's median seconds.

    ``reset`` runs before every task, in nobody's time.
    """
    taken: list[list[float]] = [[] for _ in tasks]
    for number in range(rounds + 1):
        for times, task in zip(taken, tasks, strict=True):
            if reset is not None:
                reset()
            started = time.perf_counter()
            task()
            if number:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


def process(command: Sequence[str], **env: str) -> Callable[[], None]:
    """Give a task that runs one process and insists on its success."""

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **env})

    return run
