"""The proof that a tree runs over the base system alone: looked at, then run, before anybody signs."""

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pps_publisher.build.clean_root import CleanRoot, load_base
from pps_publisher.build.landing import land_tree
from pps_publisher.build.loading import Fault, FaultKind, judge_loading
from pps_publisher.build.smoke import TREE, SmokeRun, find_bwrap, parse_command, run_smoke
from pps_publisher.elf import ElfFile, library_places
from pps_publisher.lint import Tree
from pps_wire.release import Overlay


class Standing(Enum):
    """What is known of a build."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNPROVED = "unproved"
    NOTHING = "nothing to prove"


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be proved: over which root (made when needed), by which runs, and what sites provide themselves."""

    root: Callable[[], CleanRoot]
    smokes: tuple[str, ...] = ()
    provided: frozenset[str] = frozenset()
    """Library names and interpreters that the base system lacks and the sites are known to have."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it; ``checked`` counts programs, libraries and scripts that were looked at."""

    standing: Standing
    root: str = ""
    checked: int = 0
    faults: tuple[Fault, ...] = ()
    excused: tuple[Fault, ...] = ()
    """Faults of things that sites were said to provide."""
    smokes: tuple[SmokeRun, ...] = ()


def prove(
    tree: Tree, elfs: tuple[ElfFile, ...], scripts: Mapping[str, str], overlay: Overlay, demand: Demand, work: Path
) -> Proof:
    """Look at every program of a tree and run the smoke commands; ``work`` is a directory of the caller's.

    A tree of scripts alone has nothing that a base system could lack unnoticed, so no root is made for
    it unless a run is asked for. Raises: SiteError, UsageError, FetchError, OSError.
    """
    if not demand.smokes and not any(elf.dynamic for elf in elfs):
        return Proof(Standing.NOTHING)
    for text in demand.smokes:
        parse_command(text)
        find_bwrap()
    root = demand.root()
    faults = judge_loading(elfs, scripts, tree, overlay, load_base(root, elfs, scripts.values()))
    smokes = tuple(_run_smokes(tree, overlay, root, demand.smokes, work))
    faults = (*faults, *_smoke_faults(smokes, library_places(elfs, tree)))
    excused = tuple(fault for fault in faults if _is_excused(fault, demand.provided))
    left = tuple(fault for fault in faults if fault not in excused)
    standing = Standing.REFUTED if left else Standing.PROVED
    return Proof(standing, root.name, len(elfs) + len(scripts), left, excused, smokes)


def _run_smokes(
    tree: Tree, overlay: Overlay, root: CleanRoot, smokes: tuple[str, ...], work: Path
) -> Iterator[SmokeRun]:
    if smokes:
        land_tree(tree, work / "landed")
    for number, text in enumerate(smokes):
        yield run_smoke(text, work / "landed", overlay, root, work / f"trace-{number}")


def _smoke_faults(smokes: tuple[SmokeRun, ...], carried: Mapping[str, str]) -> Iterator[Fault]:
    for run in smokes:
        if run.exit_code is None:
            yield Fault(run.command, FaultKind.FAILED, "did not end in time")
        elif run.exit_code:
            told = " / ".join(run.output.strip().splitlines()[-3:])[:500]
            yield Fault(run.command, FaultKind.FAILED, f"exit {run.exit_code}: {told}")
        for path in run.base_libraries:
            name = posixpath.basename(path)
            if name in carried:
                yield Fault(run.command, FaultKind.HOST_COPY, f"{path}, carried in {TREE}/{carried[name]}")


def _is_excused(fault: Fault, provided: frozenset[str]) -> bool:
    lacking = fault.fault in {FaultKind.MISSING, FaultKind.INTERPRETER}
    return lacking and (fault.detail in provided or os.path.basename(fault.detail) in provided)  # noqa: PTH119
