"""``pps-publish publish``."""

from pathlib import Path

import click

from pps_publisher.bundle import load_bundle
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
from pps_publisher.cli.progress import facts_of, lines_of, next_step, planned_facts, planned_lines
from pps_publisher.keys import load_signer
from pps_publisher.repository import Repository


@click.command("publish")
@click.argument("builds", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@repo_option
@key_option
@passphrase_option
@click.option("--replace-staged", is_flag=True, help="Drop what waits for signatures and stage this instead.")
@dry_run_option
@output_option
def command(
    builds: tuple[Path, ...],
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    replace_staged: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Stage BUILDS (*.release.json, or a directory with one) with the first of two signatures."""
    repository = Repository(repo)
    bundles = [load_bundle(path) for path in builds]
    if dry_run:
        change = repository.plan_publish(bundles, current_time(), replace_staged=replace_staged)
        show(output, planned_facts(change), planned_lines(change), "run it again without --dry-run")
        return
    path = demand_key(key)
    signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
    progress = repository.publish(bundles, signer, current_time(), replace_staged=replace_staged)
    show(output, facts_of(progress), lines_of(progress), next_step([progress]))
