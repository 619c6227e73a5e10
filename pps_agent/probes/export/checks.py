"""What every scheduler is told of a probe, before it is written in that scheduler's own words. Pure.

Three ways: *active*, the scheduler runs the probe; *cached*, the daemon runs it and the scheduler reads the newest
result, which costs nearly nothing; *passive*, somebody submits results, and one that does not come is noticed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pps_agent.probes.definition import ProbeDefinition
from pps_wire.errors import WireError
from pps_wire.names import ProbeName

ASKED_INTERVAL_S: Final = 3600
"""How often a scheduler runs a probe that names no interval of its own."""
LOOK_INTERVAL_S: Final = 300
"""How often it looks at a cached result at least: a look is cheap."""
LOOK_TIMEOUT_S: Final = 10
START_S: Final = 15
"""What an active check may take beyond the probe's own time: reading the site's profile, ending what hangs."""


class Mode(Enum):
    """Who runs a probe."""

    ACTIVE = "active"
    CACHED = "cached"
    PASSIVE = "passive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the definitions go: what the scheduler calls the agent's machine, and what it runs there.

    ``agent`` and ``check`` are the first words of the command lines of ``pps-agent`` and ``check_pps``. ``template``
    is what services inherit, empty for nothing. ``nrpe`` is the scheduler's own ``check_nrpe``, empty when it runs
    commands on the agent's machine itself. ``subscription`` is Sensu's.
    """

    host: str
    agent: tuple[str, ...]
    check: tuple[str, ...]
    template: str = ""
    nrpe: str = ""
    subscription: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One service as a scheduler sees it; times in seconds. ``parents`` are other checks of the same export.

    ``command`` runs on the agent's machine.
    """

    name: ProbeName
    summary: str
    version: str
    mode: Mode
    command: tuple[str, ...]
    interval_s: int
    retry_s: int
    max_attempts: int
    timeout_s: int
    fresh_s: int
    parents: tuple[ProbeName, ...] = ()


def plan_checks(definitions: Iterable[ProbeDefinition], target: Target, mode: Mode) -> tuple[Check, ...]:
    """Give the checks of these probes, in their order; a cached or submitted probe's further metrics follow it."""
    known = tuple(definitions)
    names = {definition.name for definition in known}
    checks: list[Check] = []
    for definition in known:
        parents = tuple(parent for parent in definition.depends_on if parent in names)
        checks.append(_plan(definition, definition.name, target, mode, parents))
        if mode is not Mode.ACTIVE:
            checks += (_plan(definition, metric, target, mode, (definition.name,)) for metric in definition.metrics)
    return tuple(checks)


def check_word(word: str) -> str:
    """Give a word of a command line if it can be written in a definition at all. Raises: WireError."""
    if not word or not word.isprintable():
        raise WireError("export", f"{word!r} holds a character that no scheduler's definition can: choose another path")
    return word


def _plan(
    definition: ProbeDefinition, name: ProbeName, target: Target, mode: Mode, parents: tuple[ProbeName, ...]
) -> Check:
    interval_s = definition.interval_s or ASKED_INTERVAL_S
    timeout_s = definition.timeout_s + START_S
    command = (*target.agent, "probe", "run", name, "-v", "-t", str(timeout_s))
    fresh_s = definition.fresh_for_s() or 2 * interval_s + definition.timeout_s
    if mode is not Mode.ACTIVE:
        timeout_s = LOOK_TIMEOUT_S
        interval_s = min(interval_s, LOOK_INTERVAL_S)
        # What runs for releases alone, or for each of them, has no one result: the worst counts.
        has_several = definition.matrix or definition.interval_s is None or definition.needs_release
        worst = ("--worst",) if has_several else ()
        command = (*target.check, name, "-v", "-t", str(timeout_s), *worst)
    return Check(
        name=name,
        summary=definition.summary,
        version=definition.version,
        mode=mode,
        command=tuple(map(check_word, command)),
        interval_s=interval_s,
        retry_s=min(definition.retry_interval_s, interval_s),
        max_attempts=definition.max_attempts,
        timeout_s=timeout_s,
        fresh_s=fresh_s,
        parents=parents,
    )
