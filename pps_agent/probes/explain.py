"""How a probe would run, for people: environment and rhythm; what is secret is not shown. Pure."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from pps_agent.probes.definition import ProbeDefinition, SecretForm

SECRET: Final = "(secret)"  # noqa: S105 - what stands in the place of one
RUN_DIRECTORY: Final = "(a directory of this run's own)"
RUN_MARK: Final = "(mark of this run)"
DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
VARIABLE: Final = "PPS_RUN"
"""As the runner names them; tests/probes/test_explain.py compares with a real run."""
_SECRET: Final = re.compile(r"(?:.*_TOKEN|BEARER_TOKEN|.*PASS.*|.*SECRET.*|.*CREDENTIAL.*|.*API_?KEY)", re.ASCII)


def render_environment(
    definition: ProbeDefinition, env: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """Give the environment of a run as people may see it: what is secret, or looks like it, is not shown.

    ``env`` is what the agent gives; the runner's own variables are added. ``secrets``: paths of the site's
    secrets by variable.
    """
    shown = {name: SECRET if _SECRET.fullmatch(name) else text for name, text in env.items()}
    for name, form in definition.secrets.items():
        if name in secrets:
            shown[name] = SECRET if form is SecretForm.ENVIRONMENT else f"{RUN_DIRECTORY}/{name} {SECRET}"
    own = {"HOME": RUN_DIRECTORY, "TMPDIR": RUN_DIRECTORY, "LC_ALL": "C.UTF-8", VARIABLE: RUN_MARK}
    return {"PATH": DEFAULT_PATH} | shown | own


def render_shell(environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """Give the lines that follow ``env -i`` in a shell: variables in order of their names, then the command."""
    lines = [f"{name}={shlex.quote(text)} \\" for name, text in sorted(environment.items())]
    return [*lines, shlex.join(command)]


def render_every(definition: ProbeDefinition) -> str:
    """Give how often a probe runs by itself, e.g. ``every 15 min``."""
    if definition.interval_s is None:
        return "when asked"
    every = next(
        f"{definition.interval_s // size_s} {unit}"
        for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
        if definition.interval_s % size_s == 0
    )
    return f"every {every} at {definition.at:%H:%M} UTC" if definition.at else f"every {every}"
