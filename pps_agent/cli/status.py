"""``pps-agent status``: the site in one page, from what is on this machine."""

from typing import Any

import click

from pps_agent import __version__
from pps_agent.cli import context
from pps_agent.cli.comparison import describe_comparisons, print_comparisons
from pps_agent.cli.describe import describe_standing
from pps_agent.cli.probe_site import load_probes
from pps_agent.errors import SiteError
from pps_agent.identity import load_identity
from pps_agent.outbox import Outbox
from pps_agent.ownership import load_owner
from pps_agent.probes.confine import kernel_version
from pps_agent.settings import Settings
from pps_agent.sight import Sight
from pps_agent.site import Site
from pps_agent.state import Unknown


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
    propagation = site.history.propagation()
    return {
        "site": settings.site.name,
        "agent_version": __version__,
        "agent": identity.agent if identity else None,
        "trust": sight.describe_trust(),
        "mode": settings.policy.mode,
        "quiet": sight.desired.quiet,
        "paused": resolve.paused,
        "leaving": resolve.leaving,
        "outbox_waiting": outbox.waiting(),
        "shown_after_s": propagation[0] if propagation else None,
        "shown_at": propagation[1].isoformat() if propagation else None,
        "group": settings.group.name,
        "store": str(settings.paths.store),
        "store_kind": settings.store.kind,
        "owner": _describe_owner(settings),
        "store_bytes": _store_bytes(site),
        "processes_unseen": _count_unseen(site),
        "probes_run_as": describe_account(settings),
        "landlock": kernel_version(),
        "comparisons": describe_comparisons(site, load_probes(settings, site).definitions),
        "releases": [describe_standing(standing) for standing in sight.standings()],
        "next": len(sight.plan()),
        "withheld": len(sight.withheld()),
    }


def _describe_owner(settings: Settings) -> str:
    """Name the agent that acts on the store; empty where none did yet."""
    try:
        owner = load_owner(settings.paths.store)
    except SiteError as exc:
        return str(exc)
    return "" if owner is None else f"{owner.host}, state in {owner.state}"


def _store_bytes(site: Site) -> int:
    try:
        return site.store.disk_bytes()
    except SiteError:
        return 0


def _count_unseen(site: Site) -> int | None:
    """Give how many processes the agent may not look into; None when none could be looked at."""
    users = site.store.users()
    return None if isinstance(users, Unknown) else users.unseen


def describe_account(settings: Settings) -> str:
    """Tell whether two users keep probes from the agent's files, or only good will does."""
    if settings.probes.socket is not None:
        return f"the runner service at {settings.probes.socket}"
    if settings.probes.user:
        return f"{settings.probes.user} (when the agent is root)"
    return "the agent's own user: probes could read its key; set probes.user or probes.socket"


def _describe_confinement(landlock: int) -> str:
    """Tell what keeps runs apart on this machine. Pure."""
    if not landlock:
        return "not confined: this kernel has no Landlock (5.13), so that probes can read and signal each other"
    signals = "" if landlock >= 6 else ", but can signal each other (Landlock 6, Linux 6.12, bounds that)"
    return f"each confined by Landlock {landlock}: they write to their own directories only{signals}"


def _print(value: dict[str, Any]) -> None:
    standing_will = "leaving" if value["leaving"] else "paused" if value["paused"] else "active"
    standing_will += ", only observes" if value["mode"] == "observe" else ""
    standing_will += f", {value['quiet']}" if value["quiet"] else ""
    context.print_line(f"site      {value['site']} ({standing_will}), agent {value['agent'] or 'not enrolled'}")
    context.print_line(f"trust     {value['trust']}")
    context.print_line(f"group     {value['group']}")
    context.print_line(f"store     {value['store']} ({value['store_kind']}), {value['store_bytes'] / 1e6:.1f} MB")
    context.print_line(f"owner     {value['owner'] or 'none yet'}")
    if value["processes_unseen"] != 0:
        seen = "no process" if value["processes_unseen"] is None else f"all processes but {value['processes_unseen']}"
        context.print_line(f"in use    seen for {seen}; store.drain_s protects the jobs of the others")
    if value["store_kind"] != "local":
        context.print_line("in use    seen on this machine only; on others the drain time protects running jobs")
    context.print_line(f"probes    run as {value['probes_run_as']}")
    context.print_line(f"          {_describe_confinement(value['landlock'])}")
    if value["shown_after_s"] is not None:
        context.print_line(
            f"tags      shown {value['shown_after_s']:.0f} s after a change, measured {value['shown_at']}"
        )
    context.print_line(f"outbox    {value['outbox_waiting']} results wait")
    would = f", {value['withheld']} that would be done but for: {_hindrance(value)}" if value["withheld"] else ""
    context.print_line(f"next      {value['next']} actions (pps-agent plan --offline){would}")
    print_comparisons(value["comparisons"])
    for release in value["releases"]:
        mark = "*" if release["current"] else " "
        context.print_line(f"\n{mark} {release['release']}  {release['state']}  {release['reason']}")
        if release["next_command"]:
            context.print_line(f"    next: {release['next_command']}")
        for name, seen in release["probes"].items():
            context.print_line(f"    {seen['status']:<8} {name}: {seen['summary']}")
        for tag in release["tags"]:
            context.print_line(f"    {tag['state']:<9} {tag['tag']} on {tag['subcluster']}")


def _hindrance(value: dict[str, Any]) -> str:
    return 'policy.mode = "observe"' if value["mode"] == "observe" else str(value["quiet"])
