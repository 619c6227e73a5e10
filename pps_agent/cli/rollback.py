"""``release rollback``: imports only what it needs, since somebody waits for it in trouble."""

import contextlib
from datetime import UTC, datetime
from typing import Any

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.database import open_database
from pps_agent.errors import SiteError
from pps_agent.history import History
from pps_agent.policy import Consent, Decision
from pps_agent.rollback import Rollback, decide_rollback, roll_back
from pps_agent.store import Store
from pps_agent.tags.areas import open_all
from pps_wire.errors import WireError
from pps_wire.names import Component, parse_component


@click.command()
@click.argument("component")
@click.argument("reason", default="")
@context.dry_run_option
@context.output_option
def rollback(component: str, reason: str, dry_run: bool, output: str) -> None:
    """Go back to the release that was current before, at once and without a network.

    The release left behind stays installed, loses its tags, and is not gone forward to until it is accepted.
    """
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    tags = open_all(settings)
    with contextlib.closing(open_database(settings.paths.state / "state.db", settings.paths.journal)) as database:
        history = History(database)
        decided = decide_rollback(_parse_component(component), store, tags, history)
        problem = decided.problem
        consent = Consent(Decision.ROLLBACK, reason, observe_actor())
        if not dry_run:
            problem = roll_back(decided, consent, store, tags, history, datetime.now(UTC))
    value = _describe(decided, dry_run=dry_run)
    context.print_json(value) if output == "json" else _print(value)
    if problem:
        raise SiteError(f"tags of {decided.left} may still stand ({problem}); pps-agent once withdraws them")


def _parse_component(text: str) -> Component:
    try:
        return parse_component(text)
    except WireError as exc:
        raise click.BadParameter(str(exc), param_hint="COMPONENT") from exc


def _describe(decided: Rollback, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "component": decided.component,
        "from": decided.left,
        "to": decided.target,
        "untagged": [{"subcluster": subcluster, "vo": vo, "tag": tag} for subcluster, vo, tag in decided.tags],
        "undo": f"pps-agent release accept {decided.left}",
    }


def _print(value: dict[str, Any]) -> None:
    prefix = "dry run: would switch" if value["dry_run"] else "switched"
    context.print_line(f"{prefix} {value['component']} back from {value['from']} to {value['to']}")
    for tag in value["untagged"]:
        context.print_line(f"  untag {tag['tag']} on {tag['subcluster']}")
    context.print_line(f"to go forward again: {value['undo']}")
