"""``pps-collector serve``."""

from pathlib import Path

import click
import msgspec

from pps_collector.cli.options import output_option, read_settings, settings_options
from pps_collector.log import set_up_logging
from pps_collector.serve import Serving, serve


@click.command("serve")
@settings_options
@click.option("--listen", metavar="HOST:PORT", help="Agents' API, TLS; port 0 takes a free one.")
@click.option("--pages", metavar="HOST:PORT", help="Pages and health, plain HTTP: keep it on loopback.")
@output_option
def command(
    config: Path | None, state: str | None, database: str | None, listen: str | None, pages: str | None, output: str
) -> None:
    """Take reports from agents and show the pages, until SIGTERM.

    Once it answers, its addresses are printed: with --output json as one line
    {"agents", "pages", "ca"}.
    """
    settings = read_settings(config, state=state, database=database, listen=listen, pages=pages)
    set_up_logging()

    def announce(serving: Serving) -> None:
        if output == "json":
            click.echo(msgspec.json.encode(serving))
        else:
            click.echo(f"agents  {serving.agents}\npages   {serving.pages}/\nca      {serving.ca}")

    serve(settings, announce)
