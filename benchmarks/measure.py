"""How claims are measured: peer and project in turn, the median of the rounds, one JSON object each."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Final

ROUNDS: Final = 11


@dataclass(frozen=True, slots=True)
class Claim:
    """One measured claim; ``holds`` tells whether ``ratio`` keeps within ``target``.

    ``limit`` says, where a target may be out of reach, what the same machine needed for the bare steps in
    the same run; ``note`` what else a reader must know. A claim for information has no target and holds.
    """

    claim: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    target: str
    holds: bool
    limit: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def render(self) -> str:
        """Give the claim as one line of JSON."""
        return json.dumps(asdict(self))


def claim_at_most(
    name: str,
    value: float,
    peer_value: float,
    *,
    unit: str,
    peer: str,
    limit: float | None,
    physical: Mapping[str, float] | None = None,
    note: str = "",
) -> Claim:
    """Judge a claim of the form "at most ``limit`` times the peer"; without a limit it is for information."""
    ratio = value / peer_value
    return Claim(
        claim=name,
        value=round(value, 4),
        unit=unit,
        peer=peer,
        peer_value=round(peer_value, 4),
        ratio=round(ratio, 3),
        target="for information" if limit is None else f"<= {limit}",
        holds=limit is None or ratio <= limit,
        limit={key: round(number, 4) for key, number in (physical or {}).items()},
        note=note,
    )


def alternate(
    *tasks: Callable[[], object], rounds: int = ROUNDS, reset: Callable[[], None] | None = None
) -> list[float]:
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


def timed(command: Sequence[str | Path]) -> float:
    """Give the seconds one process takes; it must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def hash_tree(tree: Path) -> float:
    """Give the seconds it takes one thread to read and hash every file of a tree."""
    started = time.perf_counter()
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                file_digest(stream, "sha256")
    return time.perf_counter() - started
