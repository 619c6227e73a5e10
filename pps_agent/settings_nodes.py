"""Settings of the way to the nodes that do not fit the executor chosen; pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pps_agent.settings import NodesSettings


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_USED: Final[Mapping[str, frozenset[str]]] = {
    "local": frozenset(),
    "arc": _words("queue options endpoint proxy env python work"),
    "slurm": _words("queue options proxy env python work"),
    "htcondor": _words("options proxy env python work"),
}
"""Settings that an executor reads, beside those that all do."""
_RESERVED: Final[Mapping[str, frozenset[str]]] = {
    "slurm": _words(
        "output error chdir time deadline job-name nodes ntasks parsable wait wrap array requeue no-requeue hold"
        " exclude nodelist input open-mode export export-file"
    ),
    "arc": _words("executable arguments inputfiles outputfiles stdout stderr stdin join jobname walltime queue"),
    "htcondor": _words(
        "universe executable arguments initialdir output error input log should_transfer_files queue batch_name"
        " when_to_transfer_output transfer_input_files transfer_output_files transfer_output_remaps leave_in_queue"
        " periodic_remove allowed_execute_duration x509userproxy my.ppsjob +ppsjob"
    ),
}
"""What the agent itself says of each job."""
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "slurm": (re.compile(r"--([a-z][a-z0-9-]*)(?:=[^\x00-\x1f]*)?"), "--NAME=VALUE"),
    "arc": (re.compile(r"\(\s*([A-Za-z_]\w*)\s*(?:=|!=|>|<)[^\x00-\x1f&|]*\)"), "(NAME=VALUE)"),
    "htcondor": (re.compile(r"([+A-Za-z_][A-Za-z0-9_.]*)\s*=[^\x00-\x1f]*"), "NAME = VALUE"),
}


def find_executor_conflicts(nodes: NodesSettings) -> Iterator[tuple[str, str]]:
    """Give settings that have no effect with the executor chosen, what it lacks, and options it cannot take."""
    for key in sorted(_USED["arc"]):
        is_set = getattr(nodes, key) not in ("", (), {}, None, NodesSettings().python)
        if is_set and key not in _USED[nodes.executor]:
            yield f"nodes.{key}", f"nodes.{key} has no effect with nodes.executor = {nodes.executor!r}: leave it out"
    if nodes.executor == "local" and nodes.count > 1:
        yield "nodes.count", f"nodes.count = {nodes.count}, but this machine is one node: set nodes.executor"
    if nodes.executor == "slurm" and nodes.work is None:
        yield "nodes.work", "nodes.work: Slurm's jobs write their answers there: name a directory that nodes see too"
    if nodes.executor == "arc" and nodes.proxy is None:
        yield "nodes.proxy", "nodes.proxy: ARC takes jobs of a known owner only: name the proxy to submit with"
    for option in nodes.options:
        if problem := find_option_fault(nodes.executor, option):
            yield "nodes.options", f"nodes.options: {option!r} {problem}"


def find_option_fault(executor: str, option: str) -> str:
    """Tell why an option cannot be passed on to a batch system; empty when it can."""
    if executor not in _FORMS:
        return ""
    form, written = _FORMS[executor]
    matched = form.fullmatch(option)
    if matched is None:
        return f"must have the form {written}"
    return "is what the agent itself says of each job" if matched[1].lower() in _RESERVED[executor] else ""
