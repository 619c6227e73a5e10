"""``tag add``, ``remove``, ``replace``, ``clean``, ``adopt``."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import (
    any_vo_option,
    meant,
    preproduction_option,
    refuse,
    refuse_no_subcluster,
    sc_option,
    vo_option,
)
from pps_agent.tags.change import Request, TagChange
from pps_agent.tags.errors import TagError, TagFileError
from pps_agent.tags.life import Life, TagState
from pps_agent.tags.listing import parse_tokens
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_tag, parse_vo

_Command = TypeVar("_Command", bound=Callable[..., Any])

_file_option = click.option(
    "--file", "source", type=click.File("rb"), help="File of tags, parted by white space; - is stdin."
)


def _change_options(command: _Command) -> _Command:
    """Add what every command that changes tags takes."""
    for option in (
        context.output_option,
        context.dry_run_option,
        click.option("--reason", default="", help="Why, for the log."),
        preproduction_option,
        sc_option,
    ):
        command = option(command)
    return command


@click.command()
@click.argument("tags", nargs=-1)
@vo_option
@_file_option
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]),
    metavar="YYYY-MM-DD[THH:MM]",
    help="When the tag goes, in local time; without a time as that day begins.",
)
@click.option("--force", is_flag=True, help="Also a tag of a release whose probes have not passed.")
@_change_options
def add(tags: tuple[str, ...], vo: str, source: Any, expires: datetime | None, force: bool, **options: Any) -> int:
    """Add tags, all of them on every subcluster or none. One that is there already is no error."""
    life = None if expires is None else Life(TagState.VERIFIED, expires_at=_find_end(expires))
    if life is not None and life.is_over(time.time()):
        click.echo(
            f"pps-agent: warning: --expires {expires:%Y-%m-%dT%H:%M} is over: it will be shown nowhere", err=True
        )

    def change(store: TagStore, owner: Vo, names: tuple[Tag, ...], where: tuple[Subcluster, ...]) -> TagChange:
        return store.add(owner, names, where, life=life, request=_request("add", options, force=force))

    return _change(change, vo, (*tags, *_read(source)), options)


@click.command()
@click.argument("tags", nargs=-1)
@vo_option
@_file_option
@_change_options
def remove(tags: tuple[str, ...], vo: str, source: Any, **options: Any) -> int:
    """Remove tags; they stay away, also those of a release. One that is not there is refused and nothing changes."""

    def change(store: TagStore, owner: Vo, names: tuple[Tag, ...], where: tuple[Subcluster, ...]) -> TagChange:
        return store.remove(owner, names, where, request=_request("remove", options))

    return _change(change, vo, (*tags, *_read(source)), options)


@click.command()
@click.argument("old")
@click.argument("new")
@vo_option
@_change_options
def replace(old: str, new: str, vo: str, **options: Any) -> int:
    """Put the tag NEW in the place of OLD, wherever that one stands."""

    def change(store: TagStore, owner: Vo, names: tuple[Tag, ...], where: tuple[Subcluster, ...]) -> TagChange:
        return store.replace(owner, names[0], names[1], where, request=_request("replace", options))

    return _change(change, vo, (old, new), options)


@click.command()
@any_vo_option
@_change_options
def clean(vo: str | None, **options: Any) -> int:
    """Take out tags whose time is over. The information system shows none of them meanwhile."""
    return _over_vos(
        vo, options, lambda store, owner, where, request: store.clean(owner, where, request=request), "clean"
    )


@click.command()
@any_vo_option
@_change_options
def adopt(vo: str | None, **options: Any) -> int:
    """Put on record what stands in the lists already, as set before us. The lists stay as they are."""
    return _over_vos(
        vo, options, lambda store, owner, where, request: store.adopt(owner, where, request=request), "adopt"
    )


def _change(
    change: Callable[[TagStore, Vo, tuple[Tag, ...], tuple[Subcluster, ...]], TagChange],
    vo: str,
    tags: tuple[str, ...],
    options: dict[str, Any],
) -> int:
    if not tags:
        raise click.UsageError("give tags, or --file")
    try:
        area, where = meant(context.tag_settings(), options["sc"], preproduction=options["preproduction"])
        refuse_no_subcluster(area)
        owner = parse_vo(vo)
        names = tuple(parse_tag(text, owner) for text in tags)
        done = change(area.open(), owner, names, where)
    except WireError as exc:
        return refuse(exc)
    _print_change(done, dry_run=options["dry_run"], output=options["output"])
    return 0


def _find_end(expires: datetime) -> float:
    try:
        return expires.timestamp()
    except (ValueError, OverflowError) as exc:  # the calendar's first and last days are not everywhere
        raise click.UsageError(f"--expires {expires:%Y-%m-%d} is beyond the calendar") from exc


def _over_vos(
    vo: str | None,
    options: dict[str, Any],
    change: Callable[[TagStore, Vo, tuple[Subcluster, ...], Request], TagChange],
    verb: str,
) -> int:
    try:
        area, where = meant(context.tag_settings(), options["sc"], preproduction=options["preproduction"])
        refuse_no_subcluster(area)
        store = area.open()
        owners = (parse_vo(vo),) if vo is not None else _all_vos(store, where)
    except WireError as exc:
        return refuse(exc)
    request = _request(verb, options)
    done, failed = [], list[TagError]()
    for owner in owners:
        try:
            done.append(change(store, owner, where, request))
        except TagError as exc:  # one VO's lists hold up no other's
            failed.append(exc)
    added, removed = (tuple(name for one in done for name in getattr(one, kind)) for kind in ("added", "removed"))
    word = "on record" if verb == "adopt" else "added"
    if not added and not removed and not failed and options["output"] != "json":
        click.echo("nothing to do")
    _print_change(TagChange(added=added, removed=removed), dry_run=request.dry_run, output=options["output"], word=word)
    if failed:
        raise TagFileError("\n".join(dict.fromkeys(map(str, failed))))
    return 0


def _all_vos(store: TagStore, where: tuple[Subcluster, ...]) -> tuple[Vo, ...]:
    return tuple(sorted({*store.known_vos(), *(owner for target in where for owner in store.vos(target))}))


def _request(verb: str, options: dict[str, Any], *, force: bool = False) -> Request:
    via = f"pps-agent tag {verb}"
    return Request(via=via, reason=options["reason"], forced=force, dry_run=options["dry_run"])


def _read(source: Any) -> tuple[str, ...]:
    if source is None:
        return ()
    return tuple(token.decode("utf-8", "backslashreplace") for token in parse_tokens(source.read()))


def _print_change(change: TagChange, *, dry_run: bool, output: str, word: str = "added") -> None:
    if output == "json":
        value = {name: list(getattr(change, name)) for name in ("added", "present", "removed", "absent")}
        context.print_json(value | {"dry_run": dry_run})
        return
    prefix = "dry run: " if dry_run else ""
    for label, names in ((word, change.added), ("removed", change.removed)):
        for text in names:
            click.echo(f"{prefix}{label} {text}")
    for text in change.present:
        click.echo(f"{prefix}already present: {text}", err=True)
