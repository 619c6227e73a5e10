"""``pause``, ``resume``, ``leave``: the site's standing will, kept in state.db."""

import contextlib
from collections.abc import Iterator

import click

from pps_agent.cli import context
from pps_agent.database import open_database
from pps_agent.history import History


@click.command()
@context.dry_run_option
def pause(dry_run: bool) -> None:
    """Stop changing anything; only withdrawn or failing releases are still untagged."""
    with _history(dry_run=dry_run) as history:
        if history is not None:
            history.set_paused(paused=True)
    click.echo(f"{_would(dry_run)}paused; go on with: pps-agent resume")


@click.command()
@context.dry_run_option
def resume(dry_run: bool) -> None:
    """Undo pause or leave."""
    with _history(dry_run=dry_run) as history:
        if history is not None:
            history.set_paused(paused=False)
            history.set_leaving(leaving=False)
    click.echo(f"{_would(dry_run)}resumed; the next round goes on")


@click.command()
@context.dry_run_option
def leave(dry_run: bool) -> None:
    """Have every release untagged, drained and removed, beginning with the next round."""
    with _history(dry_run=dry_run) as history:
        if history is not None:
            history.set_leaving(leaving=True)
            history.set_paused(paused=False)
    click.echo(
        f"{_would(dry_run)}leaving: the next rounds untag, drain and remove; take it back with: pps-agent resume"
    )


@contextlib.contextmanager
def _history(*, dry_run: bool) -> Iterator[History | None]:
    """Open state.db for a change; None in a dry run, which still tells faulty settings."""
    settings = context.settings()
    if dry_run:
        yield None
        return
    with contextlib.closing(open_database(settings.paths.state / "state.db", settings.paths.journal)) as database:
        yield History(database)


def _would(dry_run: bool) -> str:
    return "dry run: would be " if dry_run else ""
