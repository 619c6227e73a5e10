"""The whole of a build after the tree is read: look into the programs, set library paths, describe, write."""

import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from pps_publisher.build.environment import overlay_of
from pps_publisher.build.hints import Hint, load_hints, load_scripts
from pps_publisher.build.loading import is_own_interpreter
from pps_publisher.build.proof import Demand, Proof, Standing, prove
from pps_publisher.build.release import Description, check_description, write_bundle
from pps_publisher.bundle import Bundle
from pps_publisher.chunks import lint_names
from pps_publisher.elf import (
    hard_paths,
    outside_libraries,
    plan_runpaths,
    platform_of,
    read_elfs,
    requires_of,
    set_runpaths,
)
from pps_publisher.errors import PublishError, UsageError
from pps_publisher.lint import Found, Tree
from pps_wire.names import Component, Platform, ProbeName, ReleaseId, Version, Vo
from pps_wire.release import Changes, ConfigStep, Overlay, ReleaseClass, Requires

_PLATFORM: Final = re.compile(r"^(?P<arch>\w+)-glibc(?P<glibc>[\d.]+)(?:-(?P<os>.+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the release manager states; None is computed from the tree."""

    component: Component
    version: Version
    class_: ReleaseClass
    vos: tuple[Vo, ...]
    tag_suffix: str
    platform: Platform | None = None
    os: str = ""
    """The OS the tree needs besides what its programs show; stated in ``platform`` when that is given."""
    environment: Overlay | None = None
    probes: tuple[ProbeName, ...] = ()
    changes: Changes = Changes()  # noqa: RUF009 - frozen
    config_steps: tuple[ConfigStep, ...] = ()
    replaces: tuple[ReleaseId, ...] = ()
    expires_at: datetime | None = None
    references: tuple[str, ...] = ()
    keep_runpath: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a release manager should know of a build before signing it."""

    release: ReleaseId
    found: tuple[Found, ...]
    hints: tuple[Hint, ...]
    elf_files: int
    runpaths_set: int
    outside_libraries: tuple[str, ...]
    hard_paths: tuple[str, ...]
    interpreters: tuple[str, ...]
    """What scripts name after ``#!`` and the tree does not hold; a bare name is looked for in PATH."""
    proof: Proof


class UnprovedError(PublishError):
    """The tree does not run over the base system alone; ``report`` tells why, and no build was written."""

    def __init__(self, report: Report) -> None:
        self.report = report
        faults = (f"{fault.path}: {fault.fault.value}: {fault.detail}" for fault in report.proof.faults)
        told = f"{report.release} does not run in the clean root {report.proof.root}; nothing was written"
        super().__init__("\n".join((*faults, f"{told}. Carry what is missing, or state it with --site-provides")))


def build(tree: Tree, wish: Wish, directory: Path, demand: Demand | None = None) -> tuple[Bundle, Report]:
    """Write a build of ``tree`` into ``directory``, proved first where ``demand`` is given; ``tree`` is not changed.

    Raises: PublishError when the programs do not fit one platform or the class contradicts the
    changes; UnprovedError; UsageError when the stated platform promises what the programs cannot keep or
    the tree is empty; WireError for names and fields that sites would refuse; SiteError, FetchError, OSError.
    """
    if not tree.files():
        raise UsageError("the tree holds no file, so there is nothing to publish; look at what was named as its source")
    elfs = read_elfs(tree)
    description = describe(tree, wish, requires_of(elfs))
    check_description(description)
    lint_names(tree, description.id)
    plan = {} if wish.keep_runpath else plan_runpaths(elfs, tree)
    with tempfile.TemporaryDirectory(prefix="pps-publish-") as work:
        patched = set_runpaths(tree, plan, Path(work) / "patched")
        final = read_elfs(patched) if plan else elfs
        scripts = load_scripts(patched)
        unproved = Proof(Standing.UNPROVED)
        overlay = description.environment
        proof = unproved if demand is None else prove(patched, final, scripts, overlay, demand, Path(work))
        report = Report(
            release=description.id,
            found=tree.found,
            hints=load_hints(patched, final),
            elf_files=len(elfs),
            runpaths_set=len(plan),
            outside_libraries=outside_libraries(elfs, tree),
            hard_paths=hard_paths(tree),
            interpreters=tuple(
                sorted({name for name in scripts.values() if not is_own_interpreter(name, tree, overlay)})
            ),
            proof=proof,
        )
        if proof.standing is Standing.REFUTED:
            raise UnprovedError(report)
        directory.mkdir(parents=True, exist_ok=True)
        bundle = write_bundle(patched, description, directory)
    return bundle, report


def describe(tree: Tree, wish: Wish, computed: Requires) -> Description:
    """Join what was stated with what was computed. Raises: UsageError."""
    bound = msgspec.structs.replace(computed, os=wish.os)
    requires = bound if wish.platform is None else stated_requires(wish.platform, computed)
    return Description(
        component=wish.component,
        version=wish.version,
        platform=wish.platform or platform_of(requires),
        class_=wish.class_,
        vos=wish.vos,
        tag_suffix=wish.tag_suffix,
        requires=requires,
        environment=overlay_of(tree) if wish.environment is None else wish.environment,
        probes=wish.probes,
        changes=wish.changes,
        config_steps=wish.config_steps,
        replaces=wish.replaces,
        expires_at=wish.expires_at,
        references=wish.references,
    )


def stated_requires(platform: Platform, computed: Requires) -> Requires:
    """Give what a stated platform demands of a node; it may demand more than the programs need, never less.

    Raises: UsageError.
    """
    match = _PLATFORM.match(platform)
    if match is None:
        raise UsageError(f"--platform {platform}: write <arch>-glibc<min>[-<os>]")
    stated = Requires(arch=match["arch"], glibc=match["glibc"], os=match["os"] or "")
    if computed.arch not in {"noarch", stated.arch}:
        raise UsageError(f"--platform {platform}: the programs are for {computed.arch}; leave the option out")
    if _numbers(stated.glibc) < _numbers(computed.glibc):
        raise UsageError(f"--platform {platform}: the programs need glibc {computed.glibc}; leave the option out")
    return stated


def _numbers(glibc: str) -> tuple[int, ...]:
    return tuple(int(part) for part in glibc.split("."))
