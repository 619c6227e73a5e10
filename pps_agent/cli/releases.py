"""``release list`` and ``show``: what is on offer, what is installed, and where it stands."""

import difflib
from typing import Any

import click
import msgspec

from pps_agent.cli import context
from pps_agent.cli.describe import describe_standing
from pps_agent.errors import AgentError
from pps_agent.sight import Sight
from pps_agent.site import Site
from pps_agent.standing import Standing
from pps_agent.state import Unknown
from pps_wire.names import ReleaseId
from pps_wire.release import Release


@click.command("list")
@context.output_option
def list_releases(output: str) -> None:
    """List every release on offer or installed, with its state and the reason."""
    standings = look()[1].standings()
    if output == "json":
        context.print_json([describe_standing(standing) for standing in standings])
    elif standings:
        rows = [("*" if s.current else "", s.release, s.word, s.reason) for s in standings]
        context.print_table(("", "RELEASE", "STATE", "REASON"), rows)
    else:
        click.echo("no release is on offer or installed; pps-agent once asks the repository")


@click.command()
@click.argument("release_id")
@context.output_option
def show(release_id: str, output: str) -> None:
    """Show one release: state, description, requirements, environment."""
    site, sight = look()
    standing = find(sight, release_id)
    description = _describe(sight, standing.release)
    value = describe_standing(standing) | {
        "description": description,
        "environment": str(site.store.path(standing.release) / "env.sh"),
        "decision": _describe_decision(sight, standing.release),
        "steps": _describe_steps(sight, standing.release, description),
    }
    context.print_json(value) if output == "json" else _print_release(value)


def look() -> tuple[Site, Sight]:
    """Look at the site without a network. Raises: ConfigError, SiteError."""
    site = Site(context.settings(), context.config_path())
    return site, site.look(offline=True)


def find(sight: Sight, release_id: str) -> Standing:
    """Give the standing of a release named on the command line. Raises: AgentError when none is known here."""
    for standing in sight.standings():
        if standing.release == release_id:
            return standing
    raise AgentError(f"{release_id}: no such release is known here; see pps-agent release list")


def find_decidable(sight: Sight, release_id: str, *, accepting: bool) -> ReleaseId:
    """Give the release that a person may decide about: one on offer, or to decline, one that is installed.

    Raises: AgentError for any other, with the nearest name.
    """
    offered = [] if isinstance(sight.offered, Unknown) else [offer.release.id for offer in sight.offered.offers]
    installed = [] if isinstance(sight.observed.installed, Unknown) else list(sight.observed.installed)
    known = offered if accepting else [*offered, *installed]
    if release_id in known:
        return ReleaseId(release_id)
    close = difflib.get_close_matches(release_id, known, n=1)
    advice = f"did you mean {close[0]}?" if close else "see pps-agent release list"
    if accepting and release_id in installed:
        advice = "it is installed, but the repository no longer names it"
    raise AgentError(f"{release_id} is not on offer: {advice}")


def _describe_decision(sight: Sight, release_id: ReleaseId) -> dict[str, Any] | None:
    consent = None if isinstance(sight.memory, Unknown) else sight.memory.resolve.consents.get(release_id)
    if consent is None:
        return None
    at = consent.at.isoformat() if consent.at is not None else None
    return {"decision": consent.decision.value, "reason": consent.reason, "actor": consent.actor, "at": at}


def _describe_steps(sight: Sight, release_id: ReleaseId, description: dict[str, Any]) -> list[dict[str, Any]]:
    done = {} if isinstance(sight.memory, Unknown) else sight.memory.resolve.acknowledged.get(release_id, {})
    return [
        {
            "id": step["id"],
            "text": step["text"],
            "check": list(step.get("check", ())),
            "done": step["id"] in done,
            "actor": done[step["id"]].actor if step["id"] in done else None,
            "at": done[step["id"]].at.isoformat() if step["id"] in done else None,
        }
        for step in description.get("config_steps", ())
    ]


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
    if decision := value["decision"]:
        by = f"{decision['actor'] or 'somebody'} at {decision['at']}"
        context.print_line(
            f"decision: {decision['decision']} by {by}{': ' * bool(decision['reason'])}{decision['reason']}"
        )
    for step in value["steps"]:
        mark = f"done  {step['id']}: by {step['actor']} at {step['at']}" if step["done"] else f"open  {step['id']}"
        check = f" (check: {' '.join(step['check'])})" if step["check"] else ""
        context.print_line(f"step {mark}: {step['text']}{check}")
    if value["next_command"]:
        context.print_line(f"next: {value['next_command']}")
    for name, seen in value["probes"].items():
        context.print_line(f"{seen['status']:<8} {name}: {seen['summary']}")
    for tag in value["tags"]:
        context.print_line(f"{tag['state']:<9} {tag['tag']} on {tag['subcluster']}")
