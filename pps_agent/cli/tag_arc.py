"""``tag arc``: runtime environments of an ARC computing element, one for each tag that stands in a list."""

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
from pps_agent.tags.runtimes import carry_out, plan_runtimes
from pps_agent.tags.snapshot import Shown, Snapshot
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId
from pps_wire.requirement import rte_name

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

    Jobs ask for it with what `tag requirement --format xrsl` prints. Lists that cannot be read take nothing away.
    """
    settings = context.settings()
    try:
        _, snapshot = snapshot_of(settings, sc, cache, preproduction=preproduction, dry_run=dry_run)
    except WireError as exc:
        return refuse(exc)
    wanted = _find_wanted(settings, snapshot)
    change = plan_runtimes(runtime_dir, wanted)
    if not dry_run:
        command = [arcctl, *(["--config", arc_config] if arc_config else [])] if arcctl else []
        carry_out(runtime_dir, wanted, change, command)
    if output == "json":
        context.print_json({"written": change.written, "removed": change.removed, "dry_run": dry_run})
        return 0
    prefix = "dry run: " if dry_run else ""
    for word, names in (("wrote", change.written), ("removed", change.removed)):
        for name in names:
            click.echo(f"{prefix}{word} {name}")
    if not change.written and not change.removed:
        click.echo(f"{prefix}nothing to do")
    return 0


def _find_wanted(settings: Settings, snapshot: Snapshot) -> dict[str, str]:
    """Give the scripts' texts by name. Raises: SiteError where tags are not known, so that none is taken away."""
    if snapshot.problems:
        raise SiteError("\n".join(snapshot.problems))
    store = Store(settings.paths.store, settings.store.trees)
    shown = [one for tags in snapshot.tags.values() for one in tags if one.listed]
    return {rte_name(one.tag): _render(store, one) for one in shown}


def _render(store: Store, one: Shown) -> str:
    """Give a script: of a release's tag the release's environment, of any other nothing but the name."""
    release = ReleaseId(one.life.release) if one.life is not None else ReleaseId("")
    return render_rte(load_composed(store.path(release))) if release else _PLAIN.format(tag=one.tag)
