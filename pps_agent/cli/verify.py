"""``release verify``."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from pps_agent.cli import context
from pps_agent.errors import AgentError, SiteError
from pps_agent.inspection import Advance, Inspection, inspect
from pps_agent.jobs import Jobs
from pps_agent.store import Store
from pps_wire.names import ReleaseId


@click.command()
@click.argument("release_ids", nargs=-1, metavar="[ID]...")
@context.output_option
def verify(release_ids: tuple[str, ...], output: str) -> int:
    """Read every file of installed releases (all by default) and compare it with what was signed.

    Exit 6 when something is not as signed. Asks no server.
    """
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    chosen = _choose(store, release_ids)
    offered, _ = Jobs(context.config_path()).refresh(offline=True)
    with _progress(store, chosen) as advance:
        seen = [inspect(store, release, offered, advance) for release in chosen]
    context.print_json([_describe(one) for one in seen]) if output == "json" else _print(seen)
    return SiteError.exit_code if any(one.findings for one in seen) else 0


def _choose(store: Store, wanted: tuple[str, ...]) -> list[ReleaseId]:
    there = store.ids()
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise AgentError(f"{unknown[0]}: is not installed; installed are: {', '.join(there) or 'none'}")
    return [release for release in there if not wanted or release in wanted]


@contextlib.contextmanager
def _progress(store: Store, releases: list[ReleaseId]) -> Iterator[Advance]:
    """Show a progress bar on a person's terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    known = (store.description(release) for release in releases)
    total = sum(release.artifact.installed_bytes for release in known if release is not None)
    with click.progressbar(length=total, label="verifying", file=sys.stderr) as bar:
        yield bar.update


def _describe(one: Inspection) -> dict[str, Any]:
    return {
        "release": one.release,
        "ok": not one.findings,
        "files": one.files,
        "size_bytes": one.size_bytes,
        "findings": [{"path": f.path, "flaw": f.flaw.value, "detail": f.detail} for f in one.findings],
        "note": one.note,
    }


def _print(seen: list[Inspection]) -> None:
    for one in seen:
        verdict = f"{len(one.findings)} things are not as signed" if one.findings else "as signed"
        context.print_line(f"{one.release}: {verdict} ({one.files} files, {one.size_bytes / 1e6:.1f} MB)")
        for finding in one.findings:
            context.print_line(f"  {finding.path}: {finding.detail}")
        if one.note:
            context.print_line(f"  note: {one.note}")
        if one.findings:
            context.print_line(f"  mend it with: pps-agent release repair {one.release}")
    if not seen:
        click.echo("no release is installed")
