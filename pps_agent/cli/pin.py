"""``release pin``, ``release unpin``."""

import contextlib
from datetime import UTC, datetime

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.errors import AgentError
from pps_agent.store import Store
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId, parse_release_id


@click.command()
@click.argument("release_id")
@click.argument("reason", default="")
@context.dry_run_option
def pin(release_id: str, reason: str, dry_run: bool) -> None:
    """Let nothing remove a release, also when it is withdrawn or superseded; it may still be untagged."""
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    release = _parse_id(release_id)
    if release not in store.ids():
        _require_offer(release)
    if not dry_run:
        store.ensure()
        store.pin(release, reason, observe_actor(), datetime.now(UTC))
    context.print_line(f"{'dry run: would pin' if dry_run else 'pinned'} {release}; unpin it with: release unpin")


@click.command()
@click.argument("release_id")
@context.dry_run_option
def unpin(release_id: str, dry_run: bool) -> None:
    """Take a pin away; the next round treats the release like any other."""
    settings = context.settings()
    store = Store(settings.paths.store, settings.store.trees)
    release = _parse_id(release_id)
    pins = store.pins()
    if release not in pins:
        context.print_line(f"nothing to do: {release} is not pinned; pinned are: {', '.join(pins) or 'none'}")
        return
    if not dry_run:
        store.unpin(release)
    context.print_line(f"{'dry run: would unpin' if dry_run else 'unpinned'} {release}")


def _parse_id(text: str) -> ReleaseId:
    try:
        return parse_release_id(text)
    except WireError as exc:
        raise AgentError(f"{text}: no such release is known here; see pps-agent release list") from exc


def _require_offer(release: ReleaseId) -> None:
    """Refuse a typo: what is not installed must at least be on offer."""
    from pps_agent.site import Site  # only here: a look at the whole site

    with contextlib.closing(Site(context.settings(), context.config_path())) as site:
        known = {wish.release for wish in site.look(offline=True).desired.wishes}
    if release not in known:
        raise AgentError(f"{release}: no such release is known here; see pps-agent release list")
