"""``pps-publish sign``."""

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
from pps_publisher.cli.progress import facts_of, lines_of, next_step, planned_facts, planned_lines
from pps_publisher.errors import UsageError
from pps_publisher.keys import load_signer
from pps_publisher.repository import Repository
from pps_publisher.roles import OFFLINE


@click.command("sign")
@repo_option
@key_option
@passphrase_option
@click.option("--renew", type=click.Choice(OFFLINE), help="Stage the same content of a role under a new expiry date.")
@click.option("--drop", type=click.Choice(OFFLINE), help="Throw away what waits for a role; no key is needed.")
@dry_run_option
@output_option
def command(
    repo: Path,
    key: Path | None,
    passphrase_file: Path | None,
    renew: str | None,
    drop: str | None,
    dry_run: bool,
    output: str,
) -> None:
    """Add a signature to all that waits for this key; what is complete is served.

    With --dry-run: show what waits, with every release it adds, changes or removes.
    """
    repository = Repository(repo)
    if renew is not None and drop is not None:
        raise UsageError("either --renew or --drop, not both")
    if dry_run and renew is not None:
        following = "run it again with --key, without --dry-run"
        show(output, {"renew": renew}, [f"would stage {renew} under a new expiry date"], following)
        return
    if drop is not None:
        if not dry_run:
            repository.drop(drop)
        did = "would drop" if dry_run else "dropped"
        show(output, {"drop": drop}, [f"{did} what waits for {drop}"], "see 'pps-publish sign --dry-run'")
        return
    if dry_run:
        waiting = repository.staging.pending()
        lines = [line for change in waiting for line in planned_lines(change)] or ["nothing waits for signatures"]
        facts = {"waiting": [planned_facts(change) for change in waiting]}
        show(output, facts, lines, "run it again with --key, without --dry-run" if waiting else "nothing")
        return
    path = demand_key(key)
    signer = load_signer(path, read_passphrase(passphrase_file, str(path)))
    done = repository.sign(signer) if renew is None else (repository.renew(renew, signer, current_time()),)
    lines = [line for progress in done for line in lines_of(progress)]
    show(output, {"roles": [facts_of(progress) for progress in done]}, lines, next_step(done))
