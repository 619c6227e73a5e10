"""``once``, ``plan`` and ``run``: rounds by hand, in thought, and by the clock."""

from typing import Any

import click

from pps_agent.cli import context
from pps_agent.cli.describe import describe_action, describe_outcome, describe_standing
from pps_agent.log import start_logging
from pps_agent.ownership import check_owner
from pps_agent.reconcile import run_round
from pps_agent.round import Round
from pps_agent.site import Site
from pps_agent.state import Action, Stance


@click.command()
@context.output_option
@click.option("--dry-run", is_flag=True, help="Same as: pps-agent plan.")
@click.option("--take-over", is_flag=True, help="Make store and tags of another agent, stopped for good, this one's.")
@click.pass_context
def once(ctx: click.Context, output: str, dry_run: bool, take_over: bool) -> int:
    """Run one round to its end: trust, install, probe, announce, report."""
    if dry_run:
        ctx.invoke(plan, output=output, take_over=take_over)
        return 0
    log = start_logging()
    site = Site(context.settings(), context.config_path())
    result = run_round(site, log, take_over=take_over)
    if output == "json":
        context.print_json(_describe_round(result))
    else:
        _print_round(result)
    return result.exit_code()


@click.command()
@click.option("--offline", is_flag=True, help="Use the metadata of the last round; ask no server.")
@click.option("--take-over", is_flag=True, help="As if store and tags of another agent were this one's.")
@context.output_option
def plan(output: str, offline: bool, take_over: bool) -> None:
    """Show what a round would do now; change nothing."""
    site = Site(context.settings(), context.config_path())
    if not take_over:
        check_owner(site.settings, site.database)
    sight = site.look(offline=offline)
    actions, withheld, why = sight.plan(), sight.withheld(), sight.reason_withheld()
    held = [wish for wish in sight.desired.wishes if wish.stance is Stance.HELD]
    if output == "json":
        waiting = [{"release": wish.release, "reason": wish.reason} for wish in held]
        context.print_json(
            {
                "actions": [describe_action(action) for action in actions],
                "withheld": [describe_action(action) for action in withheld],
                "reason_withheld": why,
                "held": waiting,
            }
        )
        return
    for action in actions:
        context.print_line(describe_action(action)["text"])
    _print_withheld(withheld, why)
    for wish in held:
        context.print_line(f"held {wish.release}: {wish.reason}")
    if not actions and not withheld:
        click.echo("nothing to do")


@click.command()
def run() -> int:
    """Run as a daemon: rounds by the clock until told to stop (SIGTERM); SIGHUP reads the settings anew."""
    from pps_agent.daemon import run_daemon  # once and plan need no scheduler

    return run_daemon(context.config_path(), start_logging())


def _describe_round(result: Round) -> dict[str, Any]:
    return {
        "round": result.id,
        "exit_code": result.exit_code(),
        "trust": result.trust,
        "outcomes": [describe_outcome(outcome) for outcome in result.outcomes],
        "withheld": [describe_action(action) for action in result.withheld],
        "reason_withheld": result.reason_withheld,
        "releases": [describe_standing(standing) for standing in result.standings],
        "reported": {"acknowledged": result.sent.acknowledged, "waiting": result.waiting},
        "errors": [str(error) for error in result.errors()],
        "infosys_wait_s": round(result.infosys_wait_s, 2),
        "took_s": round(result.took_s, 2),
        "single_user": result.single_user,
    }


def _print_withheld(actions: tuple[Action, ...], why: str) -> None:
    for action in actions:
        context.print_line(f"would {describe_action(action)['text']}, but: {why}")


def _print_round(result: Round) -> None:
    for outcome in result.outcomes:
        context.print_line(describe_outcome(outcome)["text"])
    _print_withheld(result.withheld, result.reason_withheld)
    for error in result.errors():
        click.echo(f"pps-agent: warning: {error}", err=True)
    done = sum(1 for outcome in result.outcomes if not outcome.error)
    click.echo(
        f"{done} actions done, {len(result.outcomes) - done} failed, in {result.took_s:.1f} s;"
        f" {result.sent.acknowledged} results acknowledged, {result.waiting} wait; metadata {result.trust}"
    )
