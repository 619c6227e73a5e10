"""``install-scale``: what ten times the files cost in time and in memory, with a tree of small texts.

The tree is the same on every machine: directories of 50 files of 400 to 1,400 bytes, no two alike.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.measure import Claim, claim_at_most
from benchmarks.site import Site, open_site
from benchmarks.versions import CACHE
from demo.client import Build, describe_build, digest_sources
from demo.programs import run
from pps_agent.store import Store
from pps_wire.names import ReleaseId

FEW: Final = 5_000
MANY: Final = 50_000
MAX_MEMORY_MB: Final = 120
_ROUNDS: Final = 3
_KEPT: Final = 3


def measure() -> Iterator[Claim]:
    """Measure ``job install`` of 5,000 and 50,000 files, then a look at a store with three of the large ones."""
    with open_site() as site:
        few, many = build(FEW), build(MANY)
        site.publish(few, many)
        taken: dict[str, list[tuple[float, float]]] = {few.id: [], many.id: []}
        for _ in range(_ROUNDS):
            for release in (few, many):
                site.clear()
                taken[release.id].append(_install(site, release))
        (few_s, few_mb), (many_s, many_mb) = (_medians(taken[release.id]) for release in (few, many))
        peer = f"the same install with {FEW} files"
        yield claim_at_most("install-scale time", many_s, few_s, unit="s", peer=peer, limit=11)
        yield claim_at_most("install-scale memory", many_mb, few_mb, unit="MB", peer=peer, limit=1.3)
        yield claim_at_most(
            "install-scale memory-limit", many_mb, MAX_MEMORY_MB, unit="MB", peer="the limit itself", limit=1
        )
        yield from _measure_look(site, many)


def _measure_look(site: Site, many: Build) -> Iterator[Claim]:
    """Measure the first look of a process at a large release beside the later looks at ``_KEPT`` of them."""
    store = Store(site.store)
    release = ReleaseId(many.id)
    one = _seconds(lambda: Store(site.store).look(release))
    again = _seconds(lambda: [store.look(release) for _ in range(_KEPT + 1)]) - one
    peer = f"one first look at {MANY} files, which lints the manifest too"
    yield claim_at_most(f"install-scale look-again at {_KEPT}", again, one, unit="s", peer=peer, limit=None)


def build(files: int) -> Build:
    """Build a release of so many files, once."""
    out = CACHE / f"scale-{files}-{digest_sources()[:16]}"
    if not (out / "done").exists():
        shutil.rmtree(out, ignore_errors=True)
        tree = CACHE / f"scale-{files}.tree"
        shutil.rmtree(tree, ignore_errors=True)
        _write(tree, files)
        arguments = ["--from-tree", tree, "--out", out, "--component", f"scale-{files}", "--version", "1.0.0"]
        rest = ["--platform", "x86_64-glibc2.17", "--class", "client-bc", "--vo", "dteam", "--no-clean-root"]
        run("pps-publish", ["build", *arguments, *rest])
        shutil.rmtree(tree)
        (out / "done").touch()
    return describe_build(out)


def _write(tree: Path, files: int) -> None:
    for number in range(files):
        folder = tree / "lib" / f"d{number // 1000:03}" / f"e{number // 50 % 20:02}"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        words = " ".join(f"{number * 31 + step:x}" for step in range(80 + number % 200))
        (folder / f"module_{number:06}.txt").write_text(words)


def _install(site: Site, release: Build) -> tuple[float, float]:
    """Install in a child; give its seconds and its peak memory in MB (ru_maxrss)."""
    started = time.perf_counter()
    with subprocess.Popen(site.install_command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        child.stdin.write(site.offer_text(release).encode())
        child.stdin.close()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0 or ReleaseId(release.id) not in Store(site.store).ids():
        raise RuntimeError(f"{release.id} was not installed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def _medians(taken: list[tuple[float, float]]) -> tuple[float, float]:
    middle = len(taken) // 2
    return sorted(seconds for seconds, _ in taken)[middle], sorted(memory for _, memory in taken)[middle]


def _seconds(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started
