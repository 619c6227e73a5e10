"""Tags for what sites run beside a BDII: JSON, attributes of HTCondor, features of Slurm. Pure.

Sources: HTCondor's manual, "Defining ClassAd Attributes" (``STARTD_ATTRS``) and "Startd cron"; slurm.conf(5), Features.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pps_agent.tags.snapshot import Shown, Snapshot
from pps_wire.names import Site, Tag

FORMAT: Final = 1
ATTRIBUTE: Final = "PPS_TAGS"
"""The attribute of a machine's ad: all its tags in one string, for ``stringListIMember``."""


class Nodes(NamedTuple):
    """Nodes of Slurm: their names as scontrol takes them, and the features they have beside tags."""

    names: str = ""
    keep: tuple[str, ...] = ()


ANY_NODES: Final = Nodes()


def render_json(site: Site, snapshot: Snapshot, at: datetime) -> str:
    """Give the document ``tags.json``; see docs/reference/formats.md."""
    subclusters = {subcluster: [_describe(one) for one in tags] for subcluster, tags in sorted(snapshot.tags.items())}
    document = {"format": FORMAT, "site": site, "created_at": _format(at.timestamp()), "subclusters": subclusters}
    return json.dumps(document | {"problems": list(snapshot.problems)}, indent=1) + "\n"


def render_condor_config(tags: Iterable[Shown]) -> str:
    """Give a fragment of a startd's configuration."""
    return f"# {ATTRIBUTE}: written by pps-agent\n{_attribute(tags)}STARTD_ATTRS = $(STARTD_ATTRS) {ATTRIBUTE}\n"


def render_condor_cron(tags: Iterable[Shown]) -> str:
    """Give what a job of STARTD_CRON prints."""
    return f"{_attribute(tags)}-\n"


def render_slurm(tags: Iterable[Shown], nodes: Nodes = ANY_NODES) -> str:
    """Give the nodes' features for slurm.conf, or the command that sets them and no others when nodes are named.

    Without any feature there is no text for slurm.conf, whose readers end at an empty ``Features=``.
    """
    features = ",".join(dict.fromkeys([*nodes.keep, *_listed(tags)]))
    if nodes.names:
        words = (f"NodeName={nodes.names}", f"AvailableFeatures={features}", f"ActiveFeatures={features}")
        return shlex.join(["scontrol", "update", *words]) + "\n"
    return f"Features={features}\n" if features else ""


def _attribute(tags: Iterable[Shown]) -> str:
    return f'{ATTRIBUTE} = "{",".join(_listed(tags))}"\n'


def _listed(tags: Iterable[Shown]) -> list[Tag]:
    """Give the tags that send jobs here; of those that differ in letter case only the first."""
    unique: dict[str, Tag] = {}
    for one in tags:
        if one.listed:
            unique.setdefault(one.tag.lower(), one.tag)
    return list(unique.values())


def _describe(one: Shown) -> Mapping[str, Any]:
    life = one.life
    facts: dict[str, Any] = {"tag": one.tag, "vo": one.vo, "listed": one.listed}
    if life is not None:
        facts["state"] = life.state.value
        facts |= {"release": life.release} if life.release else {}
        facts |= {"expires_at": _format(life.expires_at)} if life.expires_at is not None else {}
    return facts


def _format(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
