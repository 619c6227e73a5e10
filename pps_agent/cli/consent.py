"""``release accept`` and ``decline``: what a person at the site says of a release."""

from dataclasses import replace
from datetime import UTC, datetime

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.cli.releases import find_decidable, look
from pps_agent.policy import Consent, Decision


@click.command()
@click.argument("release_id")
@context.dry_run_option
def accept(release_id: str, dry_run: bool) -> None:
    """Let a release in that waits for consent; the next round installs it."""
    _decide(release_id, Consent(Decision.ACCEPT), dry_run=dry_run)


@click.command()
@click.argument("release_id")
@click.argument("reason")
@context.dry_run_option
def decline(release_id: str, reason: str, dry_run: bool) -> None:
    """Keep a release out; if it is in, it is untagged, drained and removed."""
    _decide(release_id, Consent(Decision.DECLINE, reason), dry_run=dry_run)


def _decide(release_id: str, consent: Consent, *, dry_run: bool) -> None:
    site, sight = look()
    release = find_decidable(sight, release_id, accepting=consent.decision is Decision.ACCEPT)
    then = "the next round acts on it"
    if not dry_run:
        site.history.decide(release, replace(consent, actor=observe_actor()), datetime.now(UTC))
    prefix = "dry run: would " if dry_run else ""
    context.print_line(f"{prefix}{consent.decision.value} {release}; {then}")
