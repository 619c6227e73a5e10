"""``tag ldif`` and ``tag render``: tags as publishers print them. On trouble the last good ones, with a warning."""

import contextlib
import fcntl
import os
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import preproduction_option, refuse, sc_option
from pps_agent.cli.tag_snapshot import cache_option, snapshot_of
from pps_agent.settings_tags import TagSettings
from pps_agent.tags.glue1 import render_glue1, subcluster_dn
from pps_agent.tags.glue2 import DEFAULT_SUFFIX, Place, render_glue2
from pps_agent.tags.plain import Nodes, render_condor_config, render_condor_cron, render_json, render_slurm
from pps_agent.tags.snapshot import Shown, Snapshot
from pps_wire.errors import WireError


class Form(Enum):
    """For whom tags are printed."""

    GLUE2 = "glue2"
    JSON = "json"
    CONDOR = "condor"
    CONDOR_CRON = "condor-cron"
    SLURM = "slurm"


@click.command()
@sc_option
@preproduction_option
@cache_option
@click.option("--dn", default="", help="DN of the subcluster's entry, when it is not the usual one.")
def ldif(sc: str | None, preproduction: bool, cache: Path | None, dn: str) -> int:
    """Print the tags as a GLUE 1.3 plugin of the BDII does (changetype: modify)."""
    settings = context.tag_settings()
    try:
        _, snapshot = snapshot_of(settings, sc, cache, preproduction=preproduction)
        text = "".join(
            render_glue1(dn or subcluster_dn(subcluster), [one.tag for one in tags if one.listed])
            for subcluster, tags in snapshot.tags.items()
        )
    except WireError as exc:
        return refuse(exc)
    return _print(text, snapshot)


@click.command()
@sc_option
@preproduction_option
@click.option("--format", "form", type=click.Choice([form.value for form in Form]), required=True, help="For whom.")
@click.option("--service", default="", help="glue2: GLUE2ServiceID of the computing service; else infosys.service.")
@click.option("--suffix", default=DEFAULT_SUFFIX, show_default=True, help="glue2: what lies above the service.")
@click.option("--nodes", default="", help="slurm: print the scontrol command for these nodes.")
@cache_option
@click.option("--keep", default="", help="slurm: features that the nodes have of their own, e.g. avx2,infiniband.")
def render(
    sc: str | None,
    preproduction: bool,
    form: str,
    service: str,
    suffix: str,
    nodes: str,
    keep: str,
    cache: Path | None,
) -> int:
    """Print the tags for GLUE 2 (a BDII provider), JSON, HTCondor or Slurm."""
    settings = context.tag_settings()
    now = datetime.now(UTC)
    try:
        area, snapshot = snapshot_of(settings, sc, cache, preproduction=preproduction)
        place = Place(service or area.service, area.manager, suffix)
        text = _render(Form(form), settings, snapshot, place, Nodes(nodes, tuple(filter(None, keep.split(",")))), now)
    except WireError as exc:
        return refuse(exc)
    return _print(text, snapshot)


def _render(form: Form, settings: TagSettings, snapshot: Snapshot, place: Place, nodes: Nodes, now: datetime) -> str:
    match form:
        case Form.GLUE2:
            host = os.uname().nodename
            return "".join(
                render_glue2(subcluster, tags, place, host, now) for subcluster, tags in snapshot.tags.items()
            )
        case Form.JSON:
            return render_json(settings.site.name, snapshot, now)
        case Form.CONDOR:
            return render_condor_config(_merge(snapshot))
        case Form.CONDOR_CRON:
            return render_condor_cron(_merge(snapshot))
        case Form.SLURM:
            return render_slurm(_merge(snapshot), nodes)


def _merge(snapshot: Snapshot) -> list[Shown]:
    """Give all tags of the subclusters chosen, each once: nodes belong to one subcluster, see --sc."""
    return list({one.tag: one for tags in snapshot.tags.values() for one in tags}.values())


def _print(text: str, snapshot: Snapshot) -> int:
    """Print what is known, warn of what is not, and end at once: a thread may hang on the file system.

    A pipe is made large enough first, so that no moment passes in which half of the text is written: bdii-update takes
    what was printed by a program that is killed for the whole.
    """
    for problem in snapshot.problems:
        click.echo(f"pps-agent: warning: {problem}; what was last known is printed in its place", err=True)
    if snapshot.not_kept:
        click.echo(f"pps-agent: warning: {snapshot.not_kept}", err=True)
    with contextlib.suppress(OSError):  # no pipe, or a text beyond fs.pipe-max-size
        fcntl.fcntl(sys.stdout.fileno(), fcntl.F_SETPIPE_SZ, len(text))
    click.echo(text, nl=False)
    sys.stdout.flush()
    sys.stderr.flush()
    if snapshot.problems:
        os._exit(0)
    return 0
