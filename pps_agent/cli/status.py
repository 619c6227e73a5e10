"""``pps-agent status``: the site in one page, from what is on this machine."""

from typing import Any

import click

from pps_agent import __version__
from pps_agent.cli import context
from pps_agent.cli.describe import describe_standing
from pps_agent.errors import SiteError
from pps_agent.identity import load_identity
from pps_agent.outbox import Outbox
from pps_agent.reconcile import Sight, Site, describe_trust
from pps_agent.settings import Settings


@click.command()
@context.output_option
def status(output: str) -> None:
    """Show this site's state: trust, releases, probes, tags, outbox, who runs the probes. Asks no server."""
    settings = context.settings()
    site = Site(settings, context.config_path())
    value = _describe(settings, site, site.look(offline=True))
    if output == "json":
        context.print_json(value)
    else:
        _print(value)


def _describe(settings: Settings, site: Site, sight: Sight) -> dict[str, Any]:
    identity = load_identity(settings)
    outbox = Outbox(site.database, "", settings.site.name)
    resolve = site.history.resolve()
    return {
        "site": settings.site.name,
        "agent_version": __version__,
        "agent": identity.agent if identity else None,
        "trust": describe_trust(sight.offered),
        "paused": resolve.paused,
        "leaving": resolve.leaving,
        "outbox_waiting": outbox.waiting(),
        "store": str(settings.paths.store),
        "store_bytes": _store_bytes(site),
        "probes_run_as": _account(settings),
        "releases": [describe_standing(standing) for standing in sight.standings()],
        "next": len(sight.plan()),
    }


def _store_bytes(site: Site) -> int:
    try:
        return site.store.disk_bytes()
    except SiteError:
        return 0


def _account(settings: Settings) -> str:
    """Tell whether two users keep probes from the agent's files, or only good will does."""
    if settings.probes.socket is not None:
        return f"the runner service at {settings.probes.socket}"
    if settings.probes.user:
        return f"{settings.probes.user} (when the agent is root)"
    return "the agent's own user: probes could read its key; set probes.user or probes.socket"


def _print(value: dict[str, Any]) -> None:
    standing_will = "leaving" if value["leaving"] else "paused" if value["paused"] else "active"
    context.print_line(f"site      {value['site']} ({standing_will}), agent {value['agent'] or 'not enrolled'}")
    context.print_line(f"trust     {value['trust']}")
    context.print_line(f"store     {value['store']}, {value['store_bytes'] / 1e6:.1f} MB")
    context.print_line(f"probes    run as {value['probes_run_as']}")
    context.print_line(f"outbox    {value['outbox_waiting']} results wait")
    context.print_line(f"next      {value['next']} actions (pps-agent plan --offline)")
    for release in value["releases"]:
        mark = "*" if release["current"] else " "
        context.print_line(f"\n{mark} {release['release']}  {release['state']}  {release['reason']}")
        for name, seen in release["probes"].items():
            context.print_line(f"    {seen['status']:<8} {name}: {seen['summary']}")
        for tag in release["tags"]:
            context.print_line(f"    {tag['state']:<9} {tag['tag']} on {tag['subcluster']}")
