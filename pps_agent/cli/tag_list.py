"""``tag list``."""

import contextlib
from datetime import UTC, datetime

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import any_vo_option, meant, preproduction_option, refuse, sc_option
from pps_agent.tags import audit
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_vo


@click.command("list")
@any_vo_option
@sc_option
@preproduction_option
@click.option("--long", is_flag=True, help="Also state, release, end, and who set it.")
@context.output_option
def list_tags(vo: str | None, sc: str | None, preproduction: bool, long: bool, output: str) -> int:
    """List tags, one a line."""
    try:
        area, chosen = meant(context.tag_settings(), sc, preproduction=preproduction)
        store, wanted = area.open(), None if vo is None else parse_vo(vo)
        found = {subcluster: _list(store, subcluster, wanted) for subcluster in chosen}
    except WireError as exc:
        return refuse(exc)
    if long:
        return _print_long(store, found, output)
    if output == "json":
        context.print_json({subcluster: [name for _, name in pairs] for subcluster, pairs in found.items()})
    else:
        for line in dict.fromkeys(name for pairs in found.values() for _, name in pairs):
            click.echo(line)
    return 0


def _list(store: TagStore, subcluster: Subcluster, vo: Vo | None) -> list[tuple[Vo, Tag]]:
    owners = store.vos(subcluster) if vo is None else (vo,)
    return [(owner, name) for owner in owners for name in store.list_tags(owner, subcluster)]


def _print_long(store: TagStore, found: dict[Subcluster, list[tuple[Vo, Tag]]], output: str) -> int:
    entries = {vo: tuple(store.ledger(vo).entries()) for vo in {vo for pairs in found.values() for vo, _ in pairs}}
    rows: list[dict[str, str]] = []
    for subcluster, pairs in found.items():
        origins = {vo: audit.find_origins(entries[vo], subcluster) for vo, _ in pairs}
        for vo, name in pairs:
            life, origin = store.lives(vo).of(subcluster).get(name), origins[vo].get(name)
            rows.append(
                {
                    "tag": name,
                    "subcluster": subcluster,
                    "state": life.state.value if life else "",
                    "release": life.release if life else "",
                    "expires": _format_time(life.expires_at) if life and life.expires_at is not None else "",
                    "set": "not by this program" if origin is None else _tell_origin(origin),
                }
            )
    if output == "json":
        context.print_json(rows)
    elif rows:
        context.print_table(
            [name.upper() for name in rows[0]], [[value or "-" for value in row.values()] for row in rows]
        )
    return 0


def _tell_origin(origin: audit.Entry) -> str:
    return f"before us, seen {origin.at}" if origin.verb == "adopt" else f"{origin.at} by {origin.who}, {origin.via}"


def _format_time(at_s: float) -> str:
    at = datetime.fromtimestamp(at_s, UTC)
    with contextlib.suppress(OverflowError, ValueError):  # the last day of the calendar may have no local time
        at = at.astimezone()
    return at.isoformat(timespec="minutes")
