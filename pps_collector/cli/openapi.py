"""``pps-collector openapi``."""

import click
import msgspec

from pps_collector.cli.options import output_option
from pps_collector.openapi import build_document


@click.command("openapi")
@output_option
def command(output: str) -> None:
    """Print the OpenAPI 3.1 document; the same in both forms, indented in text."""
    raw = msgspec.json.encode(build_document())
    click.echo(raw if output == "json" else msgspec.json.format(raw, indent=2))
