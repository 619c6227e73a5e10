"""``release install``, ``release remove``, ``release gc``: a part of a round, now."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.cli.describe import describe_action, describe_outcome
from pps_agent.errors import AgentError, BusyError
from pps_agent.log import start_logging
from pps_agent.policy import Consent, Decision
from pps_agent.reconcile import run_round
from pps_agent.retention import explain_stay
from pps_agent.round import Round, Scope
from pps_agent.sight import Sight
from pps_agent.site import Site
from pps_agent.state import Action, Drain, Install, Remove, RemoveTags, Stance, Switch, Unknown, Wish


@click.command()
@click.argument("release_id")
@context.dry_run_option
@context.output_option
def install(release_id: str, dry_run: bool, output: str) -> int:
    """Accept a release and install it now: fetch, compose, probe, switch, tag; other releases stay as they are."""
    return _decide_and_act(
        release_id,
        Consent(Decision.ACCEPT),
        lambda wish: Scope(lambda action: action.release == wish.release and not _is_retirement(action)),
        dry_run=dry_run,
        output=output,
    )


@click.command()
@click.argument("release_id")
@click.argument("reason")
@context.dry_run_option
@context.output_option
def remove(release_id: str, reason: str, dry_run: bool, output: str) -> int:
    """Decline a release: switch away and untag it now, drain it, remove it when no job can need it."""
    return _decide_and_act(
        release_id,
        Consent(Decision.DECLINE, reason),
        lambda wish: Scope(
            lambda action: (
                (isinstance(action, Switch) and action.component == wish.component)
                or (action.release == wish.release and _is_retirement(action))
            ),
            offline=True,
        ),
        dry_run=dry_run,
        output=output,
    )


@click.command()
@context.dry_run_option
@context.output_option
def gc(dry_run: bool, output: str) -> int:
    """Untag, drain and remove what is unwanted or superseded, as a round would; sweep the store. Asks no server."""
    site = Site(context.settings(), context.config_path())
    sight = site.look(offline=True)
    if dry_run:
        planned = [describe_action(action) for action in sight.plan() if _is_retirement(action)]
        _report({"dry_run": True, "swept": 0, "actions": planned, "kept": _describe_kept(sight)}, output)
        return 0
    if site.settings.policy.mode == "observe":
        raise AgentError(
            'policy.mode is "observe": nothing is changed; pps-agent release gc --dry-run shows what would be'
        )
    site.store.ensure()
    swept = site.store.sweep(keep=_awaited(sight))
    done = run_round(site, start_logging(), Scope(_is_retirement, offline=True))
    actions = [describe_outcome(outcome) for outcome in done.outcomes]
    kept = _describe_kept(site.look(offline=True))
    _report({"dry_run": False, "swept": swept, "actions": actions, "kept": kept}, output)
    return _exit_code(done)


def _decide_and_act(
    release_id: str, consent: Consent, scope: Callable[[Wish], Scope], *, dry_run: bool, output: str
) -> int:
    site = Site(context.settings(), context.config_path())
    wish = _find(site.look(offline=True), release_id)
    if dry_run:
        context.print_plan(f"{consent.decision.value} {wish.release}, then act on it at once", output)
        return 0
    site.history.decide(wish.release, replace(consent, actor=observe_actor()), datetime.now(UTC))
    accepted = _find(site.look(offline=True), release_id)
    if consent.decision is Decision.ACCEPT and accepted.stance is Stance.UNWANTED:
        raise AgentError(f"{wish.release}: is not installed: {accepted.reason}")
    chosen = scope(wish)
    done = run_round(site, start_logging(), chosen)
    sight = site.look(offline=True)
    outcomes = [describe_outcome(outcome) for outcome in done.outcomes]
    standing = next((s for s in sight.standings() if s.release == release_id), None)
    state, reason = (standing.state.value, standing.reason) if standing else ("removed", consent.reason)
    value = {"release": release_id, "state": state, "reason": reason, "outcomes": outcomes}
    _print_result(value) if output == "text" else context.print_json(value)
    for error in done.errors():
        click.echo(f"pps-agent: error: {error}", err=True)
    withheld = [describe_action(action)["text"] for action in done.withheld if chosen.includes(action)]
    if withheld:
        click.echo(f"pps-agent: not done yet ({done.reason_withheld}): {', '.join(withheld)}", err=True)
    return _exit_code(done) or (BusyError.exit_code if withheld else 0)


def _find(sight: Sight, release_id: str) -> Wish:
    for wish in sight.desired.wishes:
        if wish.release == release_id:
            return wish
    raise AgentError(f"{release_id}: no such release is known here; see pps-agent release list")


def _is_retirement(action: Action) -> bool:
    return isinstance(action, RemoveTags | Drain | Remove)


def _awaited(sight: Sight) -> list[Any]:
    """Give the releases whose broken-off installs a round would take up again."""
    return [action.release for action in sight.plan() if isinstance(action, Install)]


def _exit_code(done: Round) -> int:
    return done.exit_code()


def _describe_kept(sight: Sight) -> list[dict[str, str]]:
    installed = sight.observed.installed
    if isinstance(installed, Unknown):
        raise AgentError(f"the store could not be read: {installed.reason}; nothing is removed")
    stays = explain_stay(sight.desired, sight.observed)
    return [{"release": release, "reason": stays[release]} for release in sorted(installed) if release in stays]


def _report(value: dict[str, Any], output: str) -> None:
    if output == "json":
        context.print_json(value)
        return
    prefix = "dry run: would " if value["dry_run"] else ""
    for action in value["actions"]:
        context.print_line(prefix + action["text"])
    if value["swept"]:
        click.echo(f"swept {value['swept']} leftovers of killed commands")
    for kept in value["kept"]:
        context.print_line(f"{prefix and 'dry run: '}kept {kept['release']}: {kept['reason']}")
    if not value["actions"] and not value["kept"]:
        click.echo(f"{prefix and 'dry run: '}nothing to remove")


def _print_result(value: dict[str, Any]) -> None:
    for outcome in value["outcomes"]:
        context.print_line(outcome["text"])
    context.print_line(f"{value['release']}: {value['state']}; {value['reason']}")
