"""``pps-agent tag``: VO tags by hand. Exit codes: 0 done, 1 refused, 2 unknown target or usage, 3 files.

Imports nothing heavy: tags are read by providers that run every few minutes.
"""

import sys

import click

from pps_agent.cli import context
from pps_agent.settings import Settings
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.glue1 import render_subcluster
from pps_agent.tags.store import TagChange, TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_subcluster, parse_tag, parse_vo

EXIT_REFUSED = 1


@click.group()
def tag() -> None:
    """List, add, remove or print VO tags."""


_vo_option = click.option("--vo", required=True, help="Virtual organisation.")
_sc_option = click.option("--sc", help="Subcluster; else all of the site's.")


@tag.command("list")
@click.option("--vo", help="Virtual organisation; else all.")
@_sc_option
@context.output_option
def list_tags(vo: str | None, sc: str | None, output: str) -> int:
    """List tags, one a line."""
    settings = context.settings()
    store = _open(settings)
    try:
        wanted = None if vo is None else parse_vo(vo)
        found = {subcluster: _list(store, subcluster, wanted) for subcluster in _subclusters(settings, sc)}
    except WireError as exc:
        return _refuse(exc)
    if output == "json":
        context.print_json(found)
    else:
        for line in dict.fromkeys(name for names in found.values() for name in names):
            click.echo(line)
    return 0


@tag.command()
@click.argument("tags", nargs=-1, required=True)
@_vo_option
@_sc_option
@context.dry_run_option
@context.output_option
def add(tags: tuple[str, ...], vo: str, sc: str | None, dry_run: bool, output: str) -> int:
    """Add tags, all of them on every subcluster or none. One that is there already is no error."""
    settings = context.settings()
    _refuse_no_subcluster(settings)
    try:
        owner, parsed = _parse(vo, tags)
        change = _open(settings).add(owner, parsed, _subclusters(settings, sc), dry_run=dry_run)
    except WireError as exc:
        return _refuse(exc)
    _print_change(change, dry_run=dry_run, output=output)
    return 0


@tag.command()
@click.argument("tags", nargs=-1, required=True)
@_vo_option
@_sc_option
@context.dry_run_option
@context.output_option
def remove(tags: tuple[str, ...], vo: str, sc: str | None, dry_run: bool, output: str) -> int:
    """Remove tags. One that is not there is refused and nothing changes."""
    settings = context.settings()
    _refuse_no_subcluster(settings)
    try:
        owner, parsed = _parse(vo, tags)
        change = _open(settings).remove(owner, parsed, _subclusters(settings, sc), dry_run=dry_run)
    except WireError as exc:
        return _refuse(exc)
    _print_change(change, dry_run=dry_run, output=output)
    return 0


@tag.command()
@_sc_option
@click.option("--dn", default="", help="DN of the subcluster's entry, when it is not the usual one.")
def ldif(sc: str | None, dn: str) -> int:
    """Print the tags as a GLUE 1.3 plugin of the BDII does (changetype: modify)."""
    settings = context.settings()
    store = _open(settings)
    try:
        texts = [render_subcluster(store, subcluster, dn) for subcluster in _subclusters(settings, sc)]
    except WireError as exc:
        return _refuse(exc)
    click.echo("".join(texts), nl=False)
    return 0


def _open(settings: Settings) -> TagStore:
    return TagStore(settings.paths.tags, settings.site.subclusters)


def _subclusters(settings: Settings, sc: str | None) -> tuple[Subcluster, ...]:
    return settings.site.subclusters if sc is None else (parse_subcluster(sc),)


def _refuse_no_subcluster(settings: Settings) -> None:
    """Without a subcluster there is nowhere to write, which is not the same as "done"."""
    if not settings.site.subclusters:
        raise UnknownTargetError("this site has no subcluster: set site.subclusters")


def _list(store: TagStore, subcluster: Subcluster, vo: Vo | None) -> list[Tag]:
    if vo is not None:
        return list(store.list_tags(vo, subcluster))
    return [name for owner in store.vos(subcluster) for name in store.list_tags(owner, subcluster)]


def _parse(vo: str, tags: tuple[str, ...]) -> tuple[Vo, tuple[Tag, ...]]:
    owner = parse_vo(vo)
    return owner, tuple(parse_tag(text, owner) for text in tags)


def _refuse(error: WireError) -> int:
    """Report text that is no tag: refused, exit 1, as lcg-ManageVOTag's callers expect."""
    click.echo(f"pps-agent: error: {error}", err=True)
    sys.stderr.flush()
    return EXIT_REFUSED


def _print_change(change: TagChange, *, dry_run: bool, output: str) -> None:
    if output == "json":
        value = {name: list(getattr(change, name)) for name in ("added", "present", "removed", "absent")}
        context.print_json(value | {"dry_run": dry_run})
        return
    prefix = "dry run: " if dry_run else ""
    for name in ("added", "removed"):
        for text in getattr(change, name):
            click.echo(f"{prefix}{name} {text}")
    for text in change.present:
        click.echo(f"{prefix}already present: {text}", err=True)
