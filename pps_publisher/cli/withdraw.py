"""``pps-publish withdraw``."""

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
from pps_publisher.cli.progress import SEEN_AFTER, facts_of, lines_of, planned_facts, planned_lines
from pps_publisher.keys import load_signer
from pps_publisher.repository import Repository
from pps_wire.names import parse_release_id


@click.command("withdraw")
@click.argument("release")
@click.argument("reason")
@repo_option
@key_option
@passphrase_option
@dry_run_option
@output_option
def command(
    release: str, reason: str, repo: Path, key: Path | None, passphrase_file: Path | None, dry_run: bool, output: str
) -> None:
    """Take RELEASE back, for REASON, which sites will read; the release manager or SA3 alone may."""
    repository = Repository(repo)
    release_id = parse_release_id(release)
    if dry_run:
        change = repository.plan_withdraw(release_id, reason, current_time())
        show(output, planned_facts(change), planned_lines(change), "run it again without --dry-run")
        return
    path = demand_key(key)
    signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
    progress = repository.withdraw(release_id, reason, signer, current_time())
    show(output, facts_of(progress), lines_of(progress), SEEN_AFTER)
