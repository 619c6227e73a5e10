"""``pps-agent tag``: the group; its commands load when they are called.

Exit codes: 0 done, 1 refused, 2 unknown target or usage, 3 files. Nothing heavy is imported: tags are read by providers
that run every few minutes.
"""

from typing import Final

import click

from pps_agent.cli.lazy import LazyGroup, Table

TAG_COMMANDS: Final[Table] = {
    "list": ("tag_list", "List tags, one a line."),
    "add": ("tag_change", "Add tags, all of them on every subcluster or none."),
    "remove": ("tag_change", "Remove tags; they stay away, also those of a release."),
    "replace": ("tag_change", "Put one tag in the place of another."),
    "clean": ("tag_change", "Take out tags whose time is over."),
    "adopt": ("tag_change", "Put on record what stands in the lists already."),
    "audit": ("tag_audit", "Show every change of tags, or check their log."),
    "ldif": ("tag_publish", "Print the tags as a GLUE 1.3 plugin of the BDII does."),
    "render": ("tag_publish", "Print the tags for GLUE 2, JSON, HTCondor or Slurm."),
    "arc": ("tag_arc", "Write a runtime environment of ARC for each tag."),
    "reconcile": ("tag_reconcile", "Compare the lists with what the information system shows."),
    "requirement": ("tag_requirement", "Print what a job says to run where a tag is published."),
}
_ATTRIBUTES: Final = {"list": "list_tags", "audit": "show_audit"}


@click.group(cls=LazyGroup, table=TAG_COMMANDS, attributes=_ATTRIBUTES)
def tag() -> None:
    """List, add, remove or print VO tags."""
