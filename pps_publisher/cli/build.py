"""``pps-publish build``."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pps_publisher.build.documents import ChangesFile, load_changes, load_environment
from pps_publisher.build.proof import Demand
from pps_publisher.build.recipe import UnprovedError, Wish, build
from pps_publisher.build.sources import Origin, load_root, load_source, refuse_contradiction
from pps_publisher.cli.build_report import bundle_facts, facts_of, lines_of
from pps_publisher.cli.options import output_option, show, show_json
from pps_publisher.errors import UsageError
from pps_wire import names
from pps_wire.release import ConfigStep, ReleaseClass

_path = click.Path(path_type=Path)
_CLASSES = [class_.value for class_ in ReleaseClass]


@click.command("build")
@click.option("--from-tree", type=_path, help="Directory that holds the client, bin/ and lib/ at its top.")
@click.option("--from-debian", is_flag=True, help="Debian packages (ITEMS, or --package) and all they need.")
@click.option("--from-rpm", "rpms", multiple=True, type=_path, help="RPM package; repeatable; more of them as ITEMS.")
@click.option("--from-tarball", type=_path, help="A .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst.")
@click.option("--package", "packages", multiple=True, help="Debian package; repeatable; the grid clients by default.")
@click.option(
    "--rpm-key", "rpm_keys", multiple=True, type=_path, help="Key that must have signed each RPM; repeatable."
)
@click.option(
    "--strip-components", "strip", type=click.IntRange(0, 32), help="Leading directories of a tarball to cut."
)
@click.option("--prefix", help="Directory a tarball was made for: its absolute links start there; / by default.")
@click.option("--os", "os_id", help="OS id the client is bound to, e.g. el9; from the packages by default.")
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
@click.option("--clean-root", type=_path, help="Root of a base system to prove the client over; Debian's by default.")
@click.option("--no-clean-root", is_flag=True, help="Do not prove that it runs; the report says so.")
@click.option("--smoke", "smokes", multiple=True, help="Command to run in the clean root, e.g. 'xrdcp --version'.")
@click.option("--site-provides", "provided", multiple=True, help="Library or interpreter all sites have; repeatable.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, keep nothing.")
@output_option
@click.argument("items", nargs=-1, metavar="[ITEMS]...")
def command(out: Path, dry_run: bool, output: str, **given: Any) -> None:
    """Build a release from a tree, a tarball, RPM packages or Debian packages.

    The same input gives the same bytes. Library paths are set so that no LD_LIBRARY_PATH is needed; what
    was dropped or changed is reported. The client is proved over the base system alone: each library
    must come from the tree or from the clean root, and each --smoke command must run there.
    """
    started = time.monotonic()
    origin = _origin_of(given)
    cache = given["cache"] or out / "packages"
    with tempfile.TemporaryDirectory(prefix="pps-publish-") as scratch:
        work = Path(scratch)
        source = load_source(origin, cache, work)
        wish = _wish_of(given, source.os)
        try:
            bundle, report = build(
                source.tree, wish, work / "dry" if dry_run else out, _demand_of(given, origin, cache)
            )
        except UnprovedError as exc:
            if output == "json":
                show_json(facts_of(exc.report, source))
            raise
    took_s = round(time.monotonic() - started, 1)
    kept = None if dry_run else out / f"{bundle.release.id}.release.json"
    following = "run it again without --dry-run" if dry_run else f"pps-publish publish {kept} --repo DIR --key FILE"
    facts = bundle_facts(bundle) | facts_of(report, source) | {"build": kept, "took_s": took_s}
    show(output, facts, lines_of(bundle, report, source, took_s), following)


def _origin_of(given: dict[str, Any]) -> Origin:
    items: tuple[str, ...] = given["items"]
    if items and not (given["from_debian"] or given["rpms"]):
        raise UsageError(f"{items[0]}: belongs to no option; ITEMS follow --from-debian or --from-rpm only")
    origin = Origin(
        directory=given["from_tree"],
        debian=given["from_debian"],
        rpms=(*given["rpms"], *(Path(item) for item in items if given["rpms"])),
        tarball=given["from_tarball"],
        packages=(*given["packages"], *(item for item in items if not given["rpms"])),
        rpm_keys=given["rpm_keys"],
        overlays=given["overlays"],
        strip=given["strip"],
        prefix=given["prefix"],
        os=given["os_id"],
    )
    refuse_contradiction(origin)
    return origin


def _demand_of(given: dict[str, Any], origin: Origin, cache: Path) -> Demand | None:
    root: Path | None = given["clean_root"]
    if not given["no_clean_root"]:
        return Demand(lambda: load_root(origin, root, cache), given["smokes"], frozenset(given["provided"]))
    if root is not None or given["smokes"] or given["provided"]:
        raise UsageError("--clean-root, --smoke and --site-provides prove something; --no-clean-root does not")
    return None


def _wish_of(given: dict[str, Any], os_id: str) -> Wish:
    changes = ChangesFile() if given["changes"] is None else load_changes(given["changes"])
    return Wish(
        component=names.parse_component(given["component"]),
        version=names.parse_version(given["version"]),
        platform=None if given["platform"] is None else names.parse_platform(given["platform"]),
        os=os_id,
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
