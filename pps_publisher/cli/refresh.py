"""``pps-publish refresh``."""

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
from pps_publisher.keys import load_signer
from pps_publisher.repository import Refreshed, Repository
from pps_publisher.roles import LIFETIMES, TIMESTAMP


@click.command("refresh")
@repo_option
@key_option
@passphrase_option
@dry_run_option
@output_option
def command(repo: Path, key: Path | None, passphrase_file: Path | None, dry_run: bool, output: str) -> None:
    """Sign snapshot and timestamp with the online key, so that sites see what is served.

    Meant for a timer, at least daily: sites stop trusting a timestamp after three days. What to renew
    soon goes to stderr.
    """
    repository = Repository(repo)
    if dry_run:
        _show(output, repository.plan_refresh(current_time()), "run it again without --dry-run")
        return
    path = demand_key(key)
    signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
    days = LIFETIMES[TIMESTAMP].days
    _show(output, repository.refresh(signer, current_time()), f"refresh again within {days} days")


def _show(output: str, refreshed: Refreshed, following: str) -> None:
    for warning in refreshed.warnings:
        click.echo(f"pps-publish: warning: {warning}", err=True)
    facts = {"versions": refreshed.versions, "warnings": refreshed.warnings}
    seen = ", ".join(f"{role} {version}" for role, version in refreshed.versions.items())
    show(output, facts, [f"sites see: {seen}"], following)
