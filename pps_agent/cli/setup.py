"""``setup``: what root does once, and again whenever VOs, managers or subclusters change."""

from typing import Final

import click

from pps_agent.cli import context
from pps_agent.errors import EXIT_OK, SiteError
from pps_agent.setup.work import Report, set_up

AGENT: Final = "pps-agent"


@click.command()
@click.option("--user", default=AGENT, show_default=True, help="The agent's account.")
@click.option(
    "--publisher", "publishers", multiple=True, help="Account that publishes tags, e.g. ldap; may be repeated."
)
@context.dry_run_option
@context.output_option
def setup(user: str, publishers: tuple[str, ...], dry_run: bool, output: str) -> int:
    """Set up who may change and publish tags; run by root, again after changes of the settings."""
    report = set_up(context.settings(), user, publishers, dry_run=dry_run)
    _print_report(report, output)
    return SiteError.exit_code if report.problems else EXIT_OK


def _print_report(report: Report, output: str) -> None:
    for note in report.notes:
        click.echo(f"pps-agent: note: {note}", err=True)
    for problem in report.problems:
        click.echo(f"pps-agent: error: {problem}", err=True)
    if output == "json":
        changes = [{"path": str(path), "change": text} for path, text in report.changes]
        value = {"dry_run": report.dry_run, "changes": changes, "notes": report.notes, "problems": report.problems}
        context.print_json(value)
        return
    prefix = "dry run: " if report.dry_run else ""
    for path, text in report.changes:
        context.print_line(f"{prefix}{path}: {text}")
    if not report.changes and not report.problems:
        click.echo(f"{prefix}nothing to do")
