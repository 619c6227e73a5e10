"""``pps-agent probe``: the group; its commands load when they are called."""

from typing import Final

import click

from pps_agent.cli.lazy import LazyGroup, Table

PROBE_COMMANDS: Final[Table] = {
    "list": ("probes", "List the probes: where they run, how often, their last result, what is refused."),
    "show": ("probes", "Show one probe: what it says of itself, and its last results."),
    "explain": ("probe_explain", "Print the exact command and environment of a probe, and what it lacks here."),
    "run": ("probe_run", "Run one probe now and exit as a monitoring plugin does."),
    "approve": ("probe_approve", "Let changed probes of the site run as they are now."),
    "lint": ("probe_lint", "Find what is wrong with probes before a site does."),
    "test": ("probe_test", "Run a probe's own tests, contained as the agent runs it."),
    "clone": ("probe_clone", "Make a new probe from one that is there."),
    "export": ("probe_export", "Print the probes as definitions for Nagios, Icinga, NRPE or Sensu."),
}


@click.group(cls=LazyGroup, table=PROBE_COMMANDS, attributes={"list": "list_probes"})
def probe() -> None:
    """Probes at this site: look, run, write, test, approve."""
