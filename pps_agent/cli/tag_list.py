"""``tag list``."""

import contextlib
import os
import sys
from datetime import UTC, datetime

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import any_vo_option, meant, preproduction_option, refuse, sc_option
from pps_agent.tags import audit
from pps_agent.tags.errors import TagError, TagFileError
from pps_agent.tags.lists import TagLists
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
    failed: list[TagError] = []
    try:
        area, chosen = meant(context.tag_settings(), sc, preproduction=preproduction)
        store, wanted = area.open(), None if vo is None else parse_vo(vo)
        found = {subcluster: _list(store, subcluster, wanted, failed) for subcluster in chosen}
    except WireError as exc:
        return refuse(exc)
    if long:
        _print_long(store, found, output)
    elif output == "json":
        context.print_json({subcluster: [name for _, name in pairs] for subcluster, pairs in found.items()})
    else:
        for line in dict.fromkeys(name for pairs in found.values() for _, name in pairs):
            click.echo(line)
    if failed:
        raise TagFileError("\n".join(dict.fromkeys(map(str, failed))))
    return 0


def _list(store: TagLists, subcluster: Subcluster, vo: Vo | None, failed: list[TagError]) -> list[tuple[Vo, Tag]]:
    """Give the tags of a VO, or of all; what one VO's cannot be read for goes to ``failed``, and hides no other's."""
    found: list[tuple[Vo, Tag]] = []
    for owner in store.vos(subcluster) if vo is None else (vo,):
        try:
            found += ((owner, name) for name in store.list_tags(owner, subcluster))
        except TagError as exc:
            failed.append(exc)
    return found


def _print_long(store: TagLists, found: dict[Subcluster, list[tuple[Vo, Tag]]], output: str) -> None:
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
        _print_rows(rows)


def _print_rows(rows: list[dict[str, str]]) -> None:
    """Print a table; on a terminal that is too narrow for it, a block for each tag with what is known."""
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]]
    if not sys.stdout.isatty() or sum(widths) + 2 * (len(widths) - 1) <= _columns():
        context.print_table(
            [name.upper() for name in rows[0]], [[value or "-" for value in row.values()] for row in rows]
        )
        return
    for row in rows:
        context.print_line(f"{row['tag']} on {row['subcluster']}")
        for name, value in list(row.items())[2:]:
            if value:
                context.print_line(f"    {name:<8} {value}")


def _columns() -> int:
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80  # 0: the terminal does not know


def _tell_origin(origin: audit.Entry) -> str:
    return f"before us, seen {origin.at}" if origin.verb == "adopt" else f"{origin.at} by {origin.who}, {origin.via}"


def _format_time(at_s: float) -> str:
    at = datetime.fromtimestamp(at_s, UTC)
    with contextlib.suppress(OverflowError, ValueError):  # the last day of the calendar may have no local time
        at = at.astimezone()
    return at.isoformat(timespec="minutes")
