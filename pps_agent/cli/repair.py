"""``release repair``."""

import contextlib
from typing import Any

import click

from pps_agent.cli import context
from pps_agent.database import open_database
from pps_agent.errors import AgentError
from pps_agent.history import History
from pps_agent.jobs import Jobs
from pps_agent.log import start_logging
from pps_agent.mirror_source import MirrorSource
from pps_agent.mirrors import Mirrors, open_mirrors
from pps_agent.repair import Repair, Repository, decide_repair
from pps_agent.repair import repair as repair_release
from pps_agent.settings import Settings
from pps_agent.state import Offer
from pps_agent.store import Store
from pps_agent.transfer import fetch_manifest
from pps_wire.names import ReleaseId


@click.command()
@click.argument("release_id")
@context.dry_run_option
@context.output_option
def repair(release_id: str, dry_run: bool, output: str) -> None:
    """Mend a damaged release, and every other that shares its damaged files; remove what nobody signed.

    Only what no other release holds intact is fetched.
    """
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    release = next((known for known in store.ids() if known == release_id), None)
    if release is None:
        raise AgentError(f"{release_id}: is not installed; see pps-agent release list")
    offered, _ = Jobs(context.config_path()).refresh(offline=True)
    if dry_run:
        decided = decide_repair(store, release, offered)
    else:
        start_logging()  # on stderr
        with open_mirrors(settings.repository, settings.paths.cache) as mirrors:
            decided = repair_release(store, release, offered, _repository(mirrors), settings.store)
        _forget(settings, decided.releases if decided.inspection.findings else ())
    value = _describe(decided, dry_run=dry_run)
    context.print_json(value) if output == "json" else _print(value)


def _repository(mirrors: Mirrors) -> Repository:
    def open_source(offer: Offer) -> MirrorSource:
        artifact = offer.release.artifact
        return MirrorSource(mirrors, artifact.path, artifact.length)

    return Repository(lambda offer: fetch_manifest(mirrors, offer), open_source)


def _forget(settings: Settings, releases: tuple[ReleaseId, ...]) -> None:
    """Have the mended releases probed anew: what was found of the damaged trees proves nothing."""
    if releases:
        with contextlib.closing(open_database(settings.paths.state / "state.db", settings.paths.journal)) as database:
            for release in releases:
                History(database).forget_results(release)


def _describe(decided: Repair, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "release": decided.inspection.release,
        "findings": [{"path": f.path, "flaw": f.flaw.value, "detail": f.detail} for f in decided.inspection.findings],
        "files": [{"release": release, "path": file.p} for release, file in decided.places],
        "fetched": [file.p for file in decided.fetch],
        "fetched_bytes": decided.fetch_bytes,
    }


def _print(value: dict[str, Any]) -> None:
    prefix = "dry run: " if value["dry_run"] else ""
    if not value["findings"]:
        context.print_line(f"{prefix}{value['release']}: nothing to mend")
        return
    mend, remove, fetch = ("would mend", "would remove", "would fetch") if prefix else ("mended", "removed", "fetched")
    for finding in value["findings"]:
        verb = remove if finding["flaw"] == "foreign" else mend
        context.print_line(f"{prefix}{verb} {finding['path']}: {finding['detail']}")
    for place in value["files"]:
        if place["release"] != value["release"]:
            context.print_line(f"{prefix}{mend} {place['path']} of {place['release']}, which shares the damage")
    context.print_line(f"{prefix}{fetch} {len(value['fetched'])} files, {value['fetched_bytes']} bytes")
