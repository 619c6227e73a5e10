"""``pps-agent enrol``: become known to the collector."""

from pathlib import Path

import click

from pps_agent.cli import context
from pps_agent.enrolment import enrol as enrol_site
from pps_agent.errors import ConfigError
from pps_agent.identity import load_identity


@click.command()
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the one-time token; else it is asked for."
)
@click.option("--again", is_flag=True, help="Replace the present identity.")
@context.dry_run_option
@context.output_option
def enrol(token_file: Path | None, again: bool, dry_run: bool, output: str) -> None:
    """Get this site's certificate from the collector with a one-time token (never on the command line)."""
    settings = context.settings()
    if load_identity(settings) is not None and not again:
        raise click.UsageError("this site is enrolled; --again replaces its identity")
    token = _read_token(token_file)
    if dry_run:
        context.print_plan(f"enrol {settings.site.name} with {settings.collector.url or 'no collector'}", output)
        return
    identity = enrol_site(settings, token)
    if output == "json":
        context.print_json({"agent": identity.agent, "site": identity.site})
    else:
        click.echo(f"enrolled {identity.site} as agent {identity.agent}")


def _read_token(path: Path | None) -> str:
    if path is None:
        return str(click.prompt("Enrolment token", hide_input=True)).strip()
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{path}: {exc}; give the file the coordinator sent"]) from exc
