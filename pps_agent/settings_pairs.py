"""Settings that are well-formed each and cannot work together: ``section.key`` and what to do about it."""

import re
from collections.abc import Iterator

from pps_agent.quiet_hours import is_always_quiet
from pps_agent.settings import Settings
from pps_agent.settings_nodes import find_executor_conflicts


def find_policy_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give what of the policy can have no effect or leaves nothing to do."""
    policy = settings.policy
    if policy.hold_for_h and "auto" not in (policy.install_bc, policy.install_nbc):
        yield (
            "policy.hold_for_h",
            (
                "policy.hold_for_h has no effect where each install waits for a person: set install_bc or install_nbc"
                " to auto, or leave it out"
            ),
        )
    if is_always_quiet(policy.quiet_hours):
        yield (
            "policy.quiet_hours",
            (
                "policy.quiet_hours leave no minute of the week, so that nothing would ever be done:"
                ' leave a gap, or set policy.mode = "observe"'
            ),
        )
    if policy.time_zone and not _is_time_zone(policy.time_zone):
        yield (
            "policy.time_zone",
            (
                f"policy.time_zone: {policy.time_zone!r} is not known on this machine:"
                " write e.g. Europe/Zurich, or leave it empty"
            ),
        )


def _is_time_zone(name: str) -> bool:
    import zoneinfo  # costs every command a tenth of its start, and few sites name a zone

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def find_node_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give what keeps probes from reaching the nodes, or their answers from counting."""
    nodes, store = settings.nodes, settings.store
    if nodes.quorum > nodes.count:
        yield (
            "nodes.quorum",
            f"nodes.quorum = {nodes.quorum} is more than nodes.count = {nodes.count}: no answer would do",
        )
    if nodes.executor == "arc" and not nodes.endpoint.startswith("https://"):
        yield (
            "nodes.endpoint",
            f"nodes.endpoint: {nodes.endpoint!r} must begin with https:// for nodes.executor = 'arc'",
        )
    yield from find_executor_conflicts(nodes)
    if nodes.executor != "local" and nodes.timeout_s >= settings.probes.max_age_s:
        yield (
            "nodes.timeout_s",
            (
                f"nodes.timeout_s = {nodes.timeout_s} is not less than probes.max_age_s = {settings.probes.max_age_s}:"
                " an answer may be too old when it comes"
            ),
        )
    if nodes.executor != "local" and store.kind == "local":
        yield (
            "nodes.executor",
            (
                f"nodes.executor = {nodes.executor!r} runs probes on other machines, which see no store of kind"
                " 'local': set store.kind to shared or cvmfs"
            ),
        )


def find_export_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give what keeps results from those who look for them."""
    probes = settings.probes
    if probes.metrics_port > 65_535:
        yield "probes.metrics_port", f"probes.metrics_port = {probes.metrics_port} is no port: at most 65535"
    if probes.textfile is not None and probes.textfile.suffix != ".prom":
        yield (
            "probes.textfile",
            f"probes.textfile: node_exporter reads *.prom only, not {probes.textfile.name}: end its name with .prom",
        )


def find_production_conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give what keeps a production client's version from being read."""
    listed = settings.policy.components
    for component, source in settings.production.items():
        where = f"production.{component}"
        if listed and component not in listed:
            yield where, f"[{where}]: policy.components does not list {component}; known: {', '.join(sorted(listed))}"
        if bool(source.command) == (source.file is not None):
            yield where, f"[{where}]: give either command or file"
        if source.command and not source.command[0]:
            yield f"{where}.command", f"{where}.command: the first text must name a program"
        try:
            groups = re.compile(source.pattern).groups
        except (re.error, OverflowError, RecursionError) as exc:
            yield f"{where}.pattern", f"{where}.pattern: {source.pattern!r} is no regular expression: {exc}"
        else:
            if groups != 1:
                yield (
                    f"{where}.pattern",
                    f"{where}.pattern: {source.pattern!r} has {groups} groups, exactly one must give the version",
                )
