"""``pps-publish verify``."""

from dataclasses import asdict
from pathlib import Path

import click

from pps_publisher.cli.options import current_time, output_option, repo_option, show
from pps_publisher.errors import EXIT_PEOPLE, TrustError, UsageError
from pps_publisher.metadata import MetadataStore
from pps_publisher.verify import Verdict, verify_repository

_OK, _WARNING, _CRITICAL = 0, 1, 2


@click.command("verify")
@repo_option
@click.option(
    "--served",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A served directory that stands alone, e.g. a mirror's, in place of --repo.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The root.json that sites pinned: the repository must be the one it belongs to.",
)
@click.option(
    "--expiry-within",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Exit with 5 when any role expires within so many days.",
)
@click.option("--plugin", is_flag=True, help="Speak as a monitoring plugin does: one line, exit code 0, 1 or 2.")
@output_option
def command(
    repo: Path, served: Path | None, root: Path | None, expiry_within: float | None, plugin: bool, output: str
) -> int:
    """Check every signature, threshold, date, version and byte of a repository; needs no key.

    Exit code 4 when sites would refuse anything or a file is damaged. Warnings (what expires soon, what
    waits, what nobody names) leave it 0.
    """
    if served is not None and repo != Path():
        raise UsageError("either --repo or --served, not both")
    store = MetadataStore(repo) if served is None else MetadataStore.of_copy(served)
    verdict = verify_repository(store, current_time(), root=None if root is None else root.read_bytes())
    soon = [role for role, left in verdict.days_left.items() if expiry_within is not None and 0 <= left < expiry_within]
    if plugin:
        code, line = _plugin(verdict, soon)
        click.echo(line)
        return code
    for warning in verdict.warnings:
        click.echo(f"pps-publish: warning: {warning}", err=True)
    for problem in verdict.problems:
        click.echo(f"pps-publish: {problem}", err=True)
    if soon:
        click.echo(f"pps-publish: {', '.join(soon)}: expires within {expiry_within:g} days; sign now", err=True)
    counts = f"{verdict.releases} releases, {verdict.withdrawn} withdrawn, {verdict.checked_bytes:,} bytes checked"
    result = f"{len(verdict.problems)} problems" if verdict.problems else "no problem"
    following = "mend the problems named on stderr, then verify again" if verdict.problems else "nothing"
    show(output, asdict(verdict), [f"{counts}: {result}"], following)
    if verdict.problems:
        return TrustError.exit_code
    return EXIT_PEOPLE if soon else 0


def _plugin(verdict: Verdict, soon: list[str]) -> tuple[int, str]:
    """Give exit code and line; performance data are the days left of each role."""
    perfdata = " ".join(f"{role}={left:.2f}" for role, left in verdict.days_left.items())
    if verdict.problems:
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        first = verdict.problems[0].replace("|", "/").replace("\n", " ")
        return _CRITICAL, f"REPOSITORY CRITICAL - {first}{more} | {perfdata}"
    if soon:
        return _WARNING, f"REPOSITORY WARNING - {', '.join(soon)} to be signed again soon | {perfdata}"
    return _OK, f"REPOSITORY OK - {verdict.releases} releases, {verdict.withdrawn} withdrawn | {perfdata}"
