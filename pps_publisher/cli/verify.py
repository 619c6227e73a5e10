"""``pps-publish verify``."""

from dataclasses import asdict
from pathlib import Path

import click

from pps_publisher.cli.options import current_time, output_option, repo_option, show
from pps_publisher.errors import TrustError
from pps_publisher.metadata import MetadataStore
from pps_publisher.verify import verify_repository


@click.command("verify")
@repo_option
@output_option
def command(repo: Path, output: str) -> int:
    """Check every signature, threshold, date, version and byte of a repository; needs no key.

    Exit code 4 when sites would refuse anything. Warnings (what expires soon, what waits) leave it 0.
    """
    verdict = verify_repository(MetadataStore(repo), current_time())
    for warning in verdict.warnings:
        click.echo(f"pps-publish: warning: {warning}", err=True)
    for problem in verdict.problems:
        click.echo(f"pps-publish: {problem}", err=True)
    counts = f"{verdict.releases} releases, {verdict.withdrawn} withdrawn, {verdict.checked_bytes:,} bytes checked"
    result = f"{len(verdict.problems)} problems" if verdict.problems else "no problem"
    following = "mend the problems named on stderr, then verify again" if verdict.problems else "nothing"
    show(output, asdict(verdict), [f"{counts}: {result}"], following)
    return TrustError.exit_code if verdict.problems else 0
