"""What ``pps-publish build`` tells: one JSON object, or lines for people."""

from collections.abc import Iterator
from typing import Any, Final

from pps_publisher.build.loading import Fault
from pps_publisher.build.proof import Proof, Standing
from pps_publisher.build.recipe import Report
from pps_publisher.build.sources import Source
from pps_publisher.bundle import Bundle

_UNPROVED: Final = "  NOT proved: nobody looked whether it runs without this machine (--no-clean-root)"


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Give the facts of what was written, JSON-like."""
    release = bundle.release
    return {
        "requires": {"arch": release.requires.arch, "glibc": release.requires.glibc, "os": release.requires.os},
        "artifact": {"length": release.artifact.length, "sha256": release.artifact.sha256},
        "installed_bytes": release.artifact.installed_bytes,
        "files": release.artifact.files,
        "manifest_bytes": len(bundle.manifest),
        "environment": {"prepend": release.environment.prepend, "assign": release.environment.assign},
    }


def facts_of(report: Report, source: Source) -> dict[str, Any]:
    """Give the facts of the tree and of its proof, JSON-like."""
    return {
        "release": report.release,
        **source.facts,
        "entries": len(source.tree.nodes),
        "elf_files": report.elf_files,
        "runpaths_set": report.runpaths_set,
        "outside_libraries": report.outside_libraries,
        "hard_paths": report.hard_paths,
        "interpreters": report.interpreters,
        "found": [{"path": one.path, "finding": one.finding.value, "detail": one.detail} for one in report.found],
        "hints": [{"path": one.path, "hint": one.hint.value, "detail": one.detail} for one in report.hints],
        "proof": _proof_facts(report.proof),
    }


def lines_of(bundle: Bundle, report: Report, source: Source, took_s: float) -> list[str]:
    """Give the same for people, in short."""
    release = bundle.release
    artifact = release.artifact
    needs = release.requires
    bound = f", OS {needs.os}" if needs.os else ""
    return [
        f"{release.id}: {artifact.files} files, {artifact.installed_bytes:,} bytes installed",
        f"  artifact {artifact.length:,} bytes, manifest {len(bundle.manifest):,} bytes, in {took_s} s",
        f"  needs {needs.arch}, glibc {needs.glibc}{bound}, and from the site's system: "
        + (", ".join((*report.outside_libraries, *report.interpreters)) or "nothing"),
        f"  {report.elf_files} ELF files, library path set in {report.runpaths_set}",
        f"  {len(report.hard_paths)} files name absolute system paths (listed by --output json)",
        *_source_lines(source),
        *(f"  {one.path}: {one.finding.value} ({one.detail})" for one in report.found),
        *(f"  {len(report.hints)} hints (listed by --output json)" for _ in report.hints[:1]),
        *_proof_lines(report.proof),
    ]


def _source_lines(source: Source) -> Iterator[str]:
    if "signed_by" in source.facts:
        keys = ", ".join(source.facts["signed_by"])
        yield f"  signatures checked with {keys}" if keys else "  signatures NOT checked: no --rpm-key was given"
    if requires := source.facts.get("package_requires"):
        yield f"  the packages also ask for {', '.join(requires)}"
    if stripped := source.facts.get("stripped_directories"):
        yield f"  {stripped} leading directory taken off" if stripped == 1 else f"  {stripped} leading directories off"


def _proof_facts(proof: Proof) -> dict[str, Any]:
    return {
        "standing": proof.standing.value,
        "root": proof.root,
        "checked": proof.checked,
        "faults": [_fault_facts(fault) for fault in proof.faults],
        "excused": [_fault_facts(fault) for fault in proof.excused],
        "smoke": [
            {
                "command": run.command,
                "exit_code": run.exit_code,
                "output": run.output,
                "tree_libraries": run.tree_libraries,
                "base_libraries": run.base_libraries,
            }
            for run in proof.smokes
        ],
    }


def _fault_facts(fault: Fault) -> dict[str, str]:
    return {"path": fault.path, "fault": fault.fault.value, "detail": fault.detail}


def _proof_lines(proof: Proof) -> Iterator[str]:
    if proof.standing is Standing.UNPROVED:
        yield _UNPROVED
    elif proof.standing is Standing.NOTHING:
        yield "  nothing to prove: it holds no program that loads libraries"
    else:
        yield f"  proved over {proof.root}: {proof.checked} programs, libraries and scripts find what they need"
        for run in proof.smokes:
            yield f"  ran {run.command!r} there, with {len(run.tree_libraries)} libraries of the tree"
        if not proof.smokes:
            yield "  no program was run; name some with --smoke"
        for fault in proof.excused:
            yield f"  {fault.path}: {fault.fault.value} {fault.detail}, which sites provide"
