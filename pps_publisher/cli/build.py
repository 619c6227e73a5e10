"""``pps-publish build``."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pps_publisher.build.debian import load_debian_tree, observe_os
from pps_publisher.build.documents import ChangesFile, load_changes, load_environment
from pps_publisher.build.recipe import Report, Wish, build
from pps_publisher.bundle import Bundle
from pps_publisher.cli.options import output_option, show
from pps_publisher.errors import UsageError
from pps_publisher.lint import Tree
from pps_publisher.tree import load_tree
from pps_wire import names
from pps_wire.release import ConfigStep, ReleaseClass

_path = click.Path(path_type=Path)
_CLASSES = [class_.value for class_ in ReleaseClass]


@click.command("build")
@click.option("--from-tree", type=_path, help="Directory that holds the client, bin/ and lib/ at its top.")
@click.option("--from-debian", is_flag=True, help="Take Debian packages (--package) and all they need.")
@click.option("--package", "packages", multiple=True, help="Debian package; repeatable; the grid clients by default.")
@click.option("--cache", type=_path, help="Where package files are kept between builds, OUT/packages by default.")
@click.option("--overlay", "overlays", multiple=True, type=_path, help="Tree laid over the first; repeatable.")
@click.option("--out", type=_path, required=True, help="Directory for the build's three files.")
@click.option("--component", required=True, help="E.g. grid-clients.")
@click.option("--version", required=True, help="E.g. 6.1.0.")
@click.option("--platform", help="<arch>-glibc<min>[-<os>]; computed from the programs by default.")
@click.option("--class", "class_", required=True, type=click.Choice(_CLASSES), help="How the update reaches sites.")
@click.option("--vo", "vos", multiple=True, required=True, help="VO it is offered to; repeatable.")
@click.option("--tag-suffix", help="The tag is VO-<vo>-<suffix>; pps-<version> by default.")
@click.option("--probe", "probes", multiple=True, help="Probe that must pass, e.g. org.pps.wn.softver; repeatable.")
@click.option("--changes", type=_path, help="TOML file: variables_old/new, fixes, effort_ph, flags, config_steps.")
@click.option("--config-step", "steps", multiple=True, help="ID=TEXT of what an administrator must do; repeatable.")
@click.option("--environment", type=_path, help="TOML file: prepend, assign; from the tree's directories by default.")
@click.option("--replaces", multiple=True, help="Release id it replaces; repeatable.")
@click.option("--expires", help="Date or time (UTC) after which the preview ends, e.g. 2027-01-31.")
@click.option("--reference", "references", multiple=True, help="Tracker reference, e.g. patch:3064; repeatable.")
@click.option("--keep-runpath", is_flag=True, help="Leave the programs' library search paths alone.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, keep nothing.")
@output_option
def command(out: Path, dry_run: bool, output: str, **given: Any) -> None:
    """Build a release from a tree or from Debian packages.

    The same input gives the same bytes. RUNPATHs are set so that no LD_LIBRARY_PATH is needed; what
    was dropped or changed is reported.
    """
    started = time.monotonic()
    wish = _wish_of(given)
    with tempfile.TemporaryDirectory(prefix="pps-publish-") as scratch:
        work = Path(scratch)
        tree = _tree_of(given, given["cache"] or out / "packages", work)
        bundle, report = build(tree, wish, work / "dry" if dry_run else out)
    took_s = round(time.monotonic() - started, 1)
    kept = None if dry_run else out / f"{bundle.release.id}.release.json"
    following = "run it again without --dry-run" if dry_run else f"pps-publish publish {kept} --repo DIR --key FILE"
    show(output, _facts(bundle, report, tree, took_s, kept), _lines(bundle, report, took_s), following)


def _tree_of(given: dict[str, Any], cache: Path, work: Path) -> Tree:
    root: Path | None = given["from_tree"]
    if (root is None) == (not given["from_debian"]):
        raise UsageError("say where the client comes from: either --from-tree DIR or --from-debian")
    if root is not None and given["packages"]:
        raise UsageError("--package belongs to --from-debian; lay files over a tree with --overlay")
    if root is not None:
        return load_tree(root, given["overlays"])
    return load_debian_tree(given["packages"], cache, work, given["overlays"])


def _wish_of(given: dict[str, Any]) -> Wish:
    changes = ChangesFile() if given["changes"] is None else load_changes(given["changes"])
    return Wish(
        component=names.parse_component(given["component"]),
        version=names.parse_version(given["version"]),
        platform=None if given["platform"] is None else names.parse_platform(given["platform"]),
        # Debian packages rely on the base set of their own release, whatever glibc they ask for.
        os=observe_os() if given["from_debian"] else "",
        class_=ReleaseClass(given["class_"]),
        vos=tuple(names.parse_vo(vo) for vo in given["vos"]),
        tag_suffix=given["tag_suffix"] or f"pps-{given['version']}",
        environment=None if given["environment"] is None else load_environment(given["environment"]),
        probes=tuple(names.parse_probe_name(probe) for probe in given["probes"]),
        changes=changes.changes(),
        config_steps=(*changes.config_steps, *(_step_of(text) for text in given["steps"])),
        replaces=tuple(names.parse_release_id(text) for text in given["replaces"]),
        expires_at=_expiry_of(given["expires"]),
        references=given["references"],
        keep_runpath=given["keep_runpath"],
    )


def _step_of(text: str) -> ConfigStep:
    step_id, separator, what = text.partition("=")
    if not separator:
        raise UsageError(f"--config-step {text!r}: write ID=TEXT, e.g. open-port='Open port 1094'")
    return ConfigStep(id=step_id.strip(), text=what.strip())


def _expiry_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"--expires {text!r}: write a date such as 2027-01-31 or 2027-01-31T12:00:00Z") from exc
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _facts(bundle: Bundle, report: Report, tree: Tree, took_s: float, kept: Path | None) -> dict[str, Any]:
    release = bundle.release
    return {
        "release": release.id,
        "build": kept,
        "requires": {"arch": release.requires.arch, "glibc": release.requires.glibc, "os": release.requires.os},
        "artifact": {"length": release.artifact.length, "sha256": release.artifact.sha256},
        "installed_bytes": release.artifact.installed_bytes,
        "files": release.artifact.files,
        "entries": len(tree.nodes),
        "manifest_bytes": len(bundle.manifest),
        "environment": {"prepend": release.environment.prepend, "assign": release.environment.assign},
        "elf_files": report.elf_files,
        "runpaths_set": report.runpaths_set,
        "outside_libraries": report.outside_libraries,
        "hard_paths": report.hard_paths,
        "found": [{"path": one.path, "finding": one.finding.value, "detail": one.detail} for one in report.found],
        "took_s": took_s,
    }


def _lines(bundle: Bundle, report: Report, took_s: float) -> list[str]:
    release = bundle.release
    artifact = release.artifact
    return [
        f"{release.id}: {artifact.files} files, {artifact.installed_bytes:,} bytes installed",
        f"  artifact {artifact.length:,} bytes, manifest {len(bundle.manifest):,} bytes, in {took_s} s",
        f"  needs {release.requires.arch}, glibc {release.requires.glibc}, and from the site's system: "
        + (", ".join(report.outside_libraries) or "no library"),
        f"  {report.elf_files} ELF files, RUNPATH set in {report.runpaths_set}",
        f"  {len(report.hard_paths)} files name absolute system paths (listed by --output json)",
        *(f"  {one.path}: {one.finding.value} ({one.detail})" for one in report.found),
    ]
