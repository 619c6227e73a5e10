"""``pps-agent release``: what is on offer and what the site says of it."""

from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from pps_agent.cli import context
from pps_agent.cli.describe import describe_standing
from pps_agent.errors import AgentError
from pps_agent.history import History
from pps_agent.policy import Consent, Decision
from pps_agent.reconcile import Sight, Site
from pps_agent.standing import Standing
from pps_agent.state import Unknown
from pps_wire.names import ReleaseId
from pps_wire.release import Release


@click.group()
def release() -> None:
    """List, show, accept or decline releases."""


@release.command("list")
@context.output_option
def list_releases(output: str) -> None:
    """List every release on offer or installed, with its state and the reason."""
    standings = _look()[1].standings()
    if output == "json":
        context.print_json([describe_standing(standing) for standing in standings])
    elif standings:
        rows = [("*" if s.current else "", s.release, s.state.value, s.reason) for s in standings]
        context.print_table(("", "RELEASE", "STATE", "REASON"), rows)
    else:
        click.echo("no release is on offer or installed; pps-agent once asks the repository")


@release.command()
@click.argument("release_id")
@context.output_option
def show(release_id: str, output: str) -> None:
    """Show one release: state, description, requirements, environment."""
    site, sight = _look()
    standing = _find(sight, release_id)
    description = _describe(sight, standing.release)
    value = describe_standing(standing) | {
        "description": description,
        "environment": str(site.store.path(standing.release) / "env.sh"),
    }
    context.print_json(value) if output == "json" else _print_release(value)


@release.command()
@click.argument("release_id")
@context.dry_run_option
def accept(release_id: str, dry_run: bool) -> None:
    """Let a release in that waits for consent; the next round installs it."""
    _decide(release_id, Consent(Decision.ACCEPT), dry_run=dry_run)


@release.command()
@click.argument("release_id")
@click.argument("reason")
@context.dry_run_option
def decline(release_id: str, reason: str, dry_run: bool) -> None:
    """Keep a release out; if it is in, it is untagged, drained and removed."""
    _decide(release_id, Consent(Decision.DECLINE, reason), dry_run=dry_run)


def _look() -> tuple[Site, Sight]:
    site = Site(context.settings(), context.config_path())
    return site, site.look(offline=True)


def _find(sight: Sight, release_id: str) -> Standing:
    for standing in sight.standings():
        if standing.release == release_id:
            return standing
    raise AgentError(f"{release_id}: no such release is known here; see pps-agent release list")


def _decide(release_id: str, consent: Consent, *, dry_run: bool) -> None:
    site, sight = _look()
    standing = _find(sight, release_id)
    if not dry_run:
        History(site.database).decide(standing.release, consent, datetime.now(UTC))
    prefix = "dry run: would " if dry_run else ""
    context.print_line(f"{prefix}{consent.decision.value} {standing.release}; the next round acts on it")


def _describe(sight: Sight, release_id: ReleaseId) -> Any:
    offers = () if isinstance(sight.offered, Unknown) else sight.offered.offers
    installed = {} if isinstance(sight.observed.installed, Unknown) else sight.observed.installed
    known: dict[ReleaseId, Release] = {key: value.release for key, value in installed.items()}
    known |= {offer.release.id: offer.release for offer in offers}
    return msgspec.to_builtins(known[release_id])


def _print_release(value: dict[str, Any]) -> None:
    description = value["description"]
    context.print_line(
        f"{value['release']}: {value['state']}{' (current)' if value['current'] else ''}; {value['reason']}"
    )
    context.print_line(f"class {description['class']}, for VOs {', '.join(description['vos'])}")
    requires = description["requires"]
    context.print_line(f"requires {requires['arch']}, glibc {requires['glibc']} {requires.get('os', '')}".rstrip())
    artifact = description["artifact"]
    installed_mb, fetched_mb = artifact["installed_bytes"] / 1e6, artifact["length"] / 1e6
    context.print_line(f"{artifact['files']} files, {installed_mb:.1f} MB, {fetched_mb:.1f} MB to fetch")
    context.print_line(f"environment: . {value['environment']}")
    for name, seen in value["probes"].items():
        context.print_line(f"{seen['status']:<8} {name}: {seen['summary']}")
    for tag in value["tags"]:
        context.print_line(f"{tag['state']:<9} {tag['tag']} on {tag['subcluster']}")
