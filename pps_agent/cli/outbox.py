"""``pps-agent outbox``: results on their way to the collector."""

from datetime import UTC, datetime

import click

from pps_agent.cli import context
from pps_agent.database import open_database
from pps_agent.errors import ConfigError
from pps_agent.identity import load_identity
from pps_agent.outbox import Outbox
from pps_agent.report import send_outbox
from pps_agent.settings import Settings


@click.group()
def outbox() -> None:
    """Show or send the results that wait for the collector."""


@outbox.command()
@context.output_option
def status(output: str) -> None:
    """Show how much waits and how far each lane is acknowledged."""
    box = _open(context.settings())
    lanes = [{"lane": lane.lane.value, "last_seq": lane.last_seq, "acked": lane.acked} for lane in box.lanes()]
    if output == "json":
        context.print_json({"waiting": box.waiting(), "lanes": lanes})
        return
    click.echo(f"{box.waiting()} results wait")
    for lane in lanes:
        click.echo(f"{lane['lane']}: {lane['acked']} of {lane['last_seq']} acknowledged")


@outbox.command()
@context.dry_run_option
@context.output_option
def flush(dry_run: bool, output: str) -> None:
    """Send everything now. Exit 75 when the collector cannot take it yet; nothing is lost."""
    settings = context.settings()
    identity = load_identity(settings)
    if identity is None or not settings.collector.url:
        raise ConfigError(["not enrolled with a collector: set collector.url and run pps-agent enrol"])
    box = _open(settings)
    if dry_run:
        context.print_plan(f"send {box.waiting()} results to {settings.collector.url}", output)
        return
    sent = send_outbox(box, identity, settings.collector, datetime.now(UTC))
    if output == "json":
        context.print_json({"acknowledged": sent.acknowledged, "batches": sent.batches, "wire_bytes": sent.wire_bytes})
    else:
        click.echo(f"{sent.acknowledged} results acknowledged in {sent.batches} batches, {sent.wire_bytes} bytes")


def _open(settings: Settings) -> Outbox:
    identity = load_identity(settings)
    agent = identity.agent if identity is not None else ""
    return Outbox(open_database(settings.paths.state / "state.db", settings.paths.journal), agent, settings.site.name)
