"""``tag arc``: runtime environments of an ARC computing element, one for each tag that stands in a list."""

from collections.abc import Container
from pathlib import Path
from typing import Final

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import preproduction_option, refuse, sc_option
from pps_agent.cli.tag_snapshot import cache_option, snapshot_of
from pps_agent.environment.render import render_rte
from pps_agent.environment.save import load_composed
from pps_agent.errors import SiteError
from pps_agent.settings import Settings
from pps_agent.store import Store
from pps_agent.tags.runtimes import MAX_NAME_CHARS, RuntimeChange, carry_out, plan_runtimes
from pps_agent.tags.snapshot import Shown, Snapshot
from pps_wire.errors import WireError
from pps_wire.names import parse_release_id
from pps_wire.requirement import RTE_PREFIX, rte_name

_TOLD: Final = 20
"""Problems that are told one by one."""
_PLAIN: Final = "# description: software tag {tag}\n# Written by pps-agent. Changes are lost.\n"


@click.command()
@sc_option
@preproduction_option
@cache_option
@click.option("--runtime-dir", type=click.Path(path_type=Path), required=True, help="runtimedir of arc.conf.")
@click.option("--arcctl", default="arcctl", show_default=True, help="The command that enables them; empty: none.")
@click.option("--arc-config", default="", help="arc.conf, when it is not the usual one.")
@context.dry_run_option
@context.output_option
def arc(
    sc: str | None,
    preproduction: bool,
    cache: Path | None,
    runtime_dir: Path,
    arcctl: str,
    arc_config: str,
    dry_run: bool,
    output: str,
) -> int:
    """Write a runtime environment of ARC for each tag, enable it, and take away those of tags that are gone.

    Jobs ask for it with what `tag requirement --format xrsl` prints.
    A list that cannot be read takes nothing of its VO away.
    """
    settings = context.settings()
    try:
        _, snapshot = snapshot_of(settings, sc, cache, preproduction=preproduction, dry_run=dry_run)
    except WireError as exc:
        return refuse(exc)
    wanted, unclear = _find_wanted(settings, snapshot)
    change = plan_runtimes(runtime_dir, wanted)
    gone = tuple(name for name in change.removed if _is_gone(name, snapshot, unclear))
    change = RuntimeChange(change.written, gone)
    if not dry_run:
        command = [arcctl, *(["--config", arc_config] if arc_config else [])] if arcctl else []
        carry_out(runtime_dir, wanted, change, command)
    problems = (*snapshot.problems, *unclear.values())
    _print(change, dry_run=dry_run, output=output, is_whole=not problems)
    if problems:
        more = f"\nand {len(problems) - _TOLD} more" * (len(problems) > _TOLD)
        raise SiteError("\n".join(problems[:_TOLD]) + more)
    return 0


def _find_wanted(settings: Settings, snapshot: Snapshot) -> tuple[dict[str, str], dict[str, str]]:
    """Give the scripts' texts by name, and of those that cannot be made what stands in the way."""
    store = Store(settings.paths.store, settings.store.trees)
    wanted, unclear = dict[str, str](), dict[str, str]()
    for one in (one for tags in snapshot.tags.values() for one in tags if one.listed):
        try:
            wanted[rte_name(one.tag)] = _render(store, one)
        except (SiteError, WireError) as exc:
            unclear[rte_name(one.tag)] = f"{one.tag}: {exc}"
    return wanted, unclear


def _is_gone(name: str, snapshot: Snapshot, unclear: Container[str]) -> bool:
    return name not in unclear and snapshot.is_known(name.removeprefix(RTE_PREFIX))


def _print(change: RuntimeChange, *, dry_run: bool, output: str, is_whole: bool) -> None:
    if output == "json":
        return context.print_json({"written": change.written, "removed": change.removed, "dry_run": dry_run})
    prefix = "dry run: " if dry_run else ""
    for word, names in (("wrote", change.written), ("removed", change.removed)):
        for name in names:
            click.echo(f"{prefix}{word} {name}")
    if is_whole and not change.written and not change.removed:
        click.echo(f"{prefix}nothing to do")
    return None


def _render(store: Store, one: Shown) -> str:
    """Give a script: of a release's tag the release's environment, else its name. Raises: SiteError, WireError."""
    if len(one.tag) > MAX_NAME_CHARS:
        raise SiteError(f"longer than {MAX_NAME_CHARS} characters, too long for the name of a file")
    if one.life is None or not one.life.release:
        return _PLAIN.format(tag=one.tag)
    release = parse_release_id(one.life.release)  # a VO's manager may have written it, and it becomes a path
    return render_rte(load_composed(store.path(release)))
