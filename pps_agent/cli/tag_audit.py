"""``tag audit``."""

import re
from typing import Any

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import any_vo_option, preproduction_option, refuse
from pps_agent.tags import audit
from pps_agent.tags.areas import choose_area
from pps_agent.tags.audit import Head
from pps_agent.tags.errors import TagRefusedError
from pps_agent.tags.lists import TagLists
from pps_wire.errors import WireError
from pps_wire.names import Vo, parse_vo


@click.command("audit")
@any_vo_option
@click.option("--verify", is_flag=True, help="Check that no line was changed, dropped or added.")
@click.option("--head", metavar="LINES:DIGEST", help="With --vo and --verify: an earlier end, which must still hold.")
@preproduction_option
@context.output_option
def show_audit(vo: str | None, verify: bool, head: str | None, preproduction: bool, output: str) -> int:
    """Show every change of tags, VO by VO and the oldest first, or check the logs."""
    known = None if head is None else _parse_head(head, fits=verify and vo is not None)
    store = choose_area(context.tag_settings(), None, preproduction=preproduction).open()
    try:
        owners = store.known_vos() if vo is None else (parse_vo(vo),)
    except WireError as exc:
        return refuse(exc)
    return _verify(store, owners, known, output) if verify else _show_audit(store, owners, output)


def _show_audit(store: TagLists, owners: tuple[Vo, ...], output: str) -> int:
    entries = [(owner, entry) for owner in owners for entry in store.ledger(owner).entries()]
    if output == "json":
        context.print_json([{"vo": owner} | _describe(entry) for owner, entry in entries])
        return 0
    for _, entry in entries:
        forced = ", forced" if entry.forced else ""
        reason = f": {entry.reason}" if entry.reason else ""
        context.print_line(f"{entry.at}  {entry.verb} by {entry.who}, {entry.via}{forced}{reason}")
        for edit in entry.lists:
            changes = [*(f"+{name}" for name in edit.add), *(f"-{name}" for name in edit.remove)]
            context.print_line(f"    {edit.subcluster or 'all (global list)'}: {' '.join(changes)}")
    return 0


def _describe(entry: audit.Entry) -> dict[str, Any]:
    lists = [
        {"subcluster": edit.subcluster, "add": list(edit.add), "remove": list(edit.remove)} for edit in entry.lists
    ]
    facts = {name: getattr(entry, name) for name in ("at", "verb", "who", "via", "reason", "forced")}
    return facts | {"lists": lists}


def _parse_head(text: str, *, fits: bool) -> Head:
    lines, _, digest = text.partition(":")
    if not fits or not (
        lines.isascii() and lines.isdigit() and len(lines) < 16 and re.fullmatch("[0-9a-f]{64}", digest)
    ):
        raise click.UsageError("--head takes LINES:DIGEST as --verify prints them, beside --vo and --verify")
    return Head(int(lines), digest)


def _verify(store: TagLists, owners: tuple[Vo, ...], known: Head | None, output: str) -> int:
    checked = {owner: audit.verify(store.ledger(owner).lines()) for owner in owners}
    if known is not None:
        checked = {owner: audit.hold_against(found, known) for owner, found in checked.items()}
    if output == "json":
        context.print_json(
            {vo: {"entries": c.head.seq, "head": c.head.digest, "fault": c.fault} for vo, c in checked.items()}
        )
    for owner, found in checked.items():
        if output != "json" and not found.fault:
            click.echo(f"{owner}: whole, {found.head.seq} changes, head {found.head.seq}:{found.head.digest}")
    broken = [f"{store.ledger(vo).audit_path}: {found.fault}" for vo, found in checked.items() if found.fault]
    if broken:
        raise TagRefusedError("\n".join(broken))
    return 0
