"""``pps-publish refresh``."""

from dataclasses import asdict
from pathlib import Path

import click

from pps_publisher.cli.options import (
    current_time,
    demand_key,
    dry_run_option,
    key_option,
    output_option,
    passphrase_option,
    read_passphrase,
    repo_option,
    show,
)
from pps_publisher.errors import EXIT_PEOPLE
from pps_publisher.keys import load_signer
from pps_publisher.online import Refreshed, plan_refresh, refresh
from pps_publisher.repository import Repository
from pps_publisher.roles import LIFETIMES, TIMESTAMP


@click.command("refresh")
@repo_option
@key_option
@passphrase_option
@click.option("--force", is_flag=True, help="Sign even when nothing is new and more than half of the life is left.")
@click.option(
    "--warn-days",
    type=click.FloatRange(min=0),
    default=7,
    show_default=True,
    help="Exit with 5 when a role that people sign expires within so many days; 0 for never.",
)
@dry_run_option
@output_option
def command(
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    force: bool,
    warn_days: float,
    dry_run: bool,
    output: str,
) -> int:
    """Sign snapshot and timestamp with the online key, so that sites see what is served.

    Needs REPO/served and the online key only. Meant for a timer, at least daily: sites stop trusting a
    timestamp after three days. Does nothing while all is fresh. Exit code 5: done, but people must
    sign a role soon, or look at a version that is held back.
    """
    repository = Repository(repo)
    now = current_time()
    done = plan_refresh(repository, now, force=force)
    if not dry_run and done.reason:
        path = demand_key(key)
        done = refresh(repository, load_signer(path, read_passphrase(passphrase_file, str(path))), now, force=force)
    _show(output, done, dry_run=dry_run)
    urgent = [role for role, left in done.days_left.items() if left < warn_days]
    if urgent:
        within = f"within {warn_days:g} days or already: people must sign them now"
        click.echo(f"pps-publish: {', '.join(urgent)}: expired or expiring {within}", err=True)
    return EXIT_PEOPLE if urgent or done.held_back else 0


def _show(output: str, done: Refreshed, *, dry_run: bool) -> None:
    for warning in done.warnings:
        click.echo(f"pps-publish: warning: {warning}", err=True)
    seen = ", ".join(f"{role} {version}" for role, version in done.versions.items())
    why = f"because {done.reason}" if done.reason else "still fresh, nothing was signed"
    days = LIFETIMES[TIMESTAMP].days
    following = "run it again without --dry-run" if dry_run else f"refresh again within {days} days"
    show(output, asdict(done), [f"sites see: {seen} ({why})"], following)
