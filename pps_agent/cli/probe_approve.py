"""``pps-agent probe approve``: puts on record how a site's own probes are now."""

from datetime import UTC, datetime

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.errors import AgentError
from pps_agent.probes.catalogue import Catalogue, Origin, load_catalogue
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.site import Site


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All of the site's own probes.")
@context.dry_run_option
@context.output_option
def approve(names: tuple[str, ...], all_of_them: bool, dry_run: bool, output: str) -> None:
    """Let the site's own probes run as they are now, after a look at what they do.

    A probe that was changed since the agent first ran it is refused until then.
    """
    if bool(names) == all_of_them:
        raise click.UsageError("name the probes, or give --all")
    settings = context.settings()
    site = Site(settings, context.config_path())
    on_record = site.history.approvals()
    catalogue = load_catalogue(settings.paths.probes)
    wanted = choose(catalogue, names)
    changed = [probe for probe in wanted if on_record.get(probe.name) != probe.digest]
    names_of_changed = ", ".join(f"{probe.name} (digest {probe.digest[:16]})" for probe in changed)
    if dry_run and changed:
        context.print_plan(f"approve {names_of_changed}", output)
        return
    site.history.approve(changed, observe_actor(), datetime.now(UTC), anew=True)
    if output == "json":
        rows = [{"name": p.name, "digest": p.digest, "before": on_record.get(p.name, "")} for p in changed]
        context.print_json({"approved": rows})
    else:
        context.print_line(f"approved {names_of_changed}" if changed else "nothing to do: all are as approved")


def choose(catalogue: Catalogue, names: tuple[str, ...]) -> list[ProbeDefinition]:
    """Give the site's own probes of these names, none: all of them. Raises: AgentError for any other."""
    own = [probe for probe in catalogue.definitions if catalogue.origins[probe.name] is Origin.SITE]
    if not names:
        return own
    chosen = []
    for name in names:
        probe = catalogue.find(name)
        if probe is None:
            raise AgentError(catalogue.why_not(name))
        if probe not in own:
            raise AgentError(f"{probe.name} came with the program: only probes of paths.probes are approved")
        chosen.append(probe)
    return chosen
