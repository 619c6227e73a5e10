"""Configuration steps of a release: a person says they are done, and their check commands agree."""

import contextlib
import os
import posixpath
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pps_agent.errors import AgentError, SiteError
from pps_agent.policy import Acknowledgement
from pps_agent.probes.parse import decode_output
from pps_agent.probes.protocol import RunResponse
from pps_agent.sight import Sight
from pps_agent.site import Site
from pps_agent.state import Installed, Stance, Unknown
from pps_wire.names import ReleaseId
from pps_wire.release import ConfigStep

CHECK_TIMEOUT_S = 60.0
"""Time limit of a check command; a lower ``probes.timeout_s`` counts."""


@dataclass(frozen=True, slots=True)
class Check:
    """What came of a step's check command: its output, and why it did not pass (empty: it did)."""

    argv: tuple[str, ...]
    output: str
    failure: str


def find_step(sight: Sight, release: ReleaseId, step_id: str) -> tuple[Installed, ConfigStep]:
    """Give an installed release and its step of this name.

    Raises: AgentError when the release is not installed or on its way out, or has no such step.
    """
    if isinstance(sight.observed.installed, Unknown):
        raise SiteError(f"the store: {sight.observed.installed.reason}")
    installed = sight.observed.installed.get(release)
    wish = next((wish for wish in sight.desired.wishes if wish.release == release), None)
    if wish is not None and wish.stance is Stance.UNWANTED:
        raise AgentError(f"{release} is not wanted here: {wish.reason}")
    if installed is None:
        raise AgentError(
            f"{release} is not installed yet, and its steps are checked in its environment: pps-agent once installs"
            f" it when the site has accepted it (pps-agent release show {release})"
        )
    step = next((step for step in installed.release.config_steps if step.id == step_id), None)
    if step is None:
        known = ", ".join(step.id for step in installed.release.config_steps)
        raise AgentError(f"{release} has no step {step_id!r}: it has {known or 'none'}")
    return installed, step


def check_step(site: Site, installed: Installed, step: ConfigStep) -> Check | None:
    """Run a step's check command as the probe user in the release's environment; None when it has none.

    Raises: AgentError when the environment is not composed yet or the command cannot be run as that user.
    """
    if not step.check:
        return None
    if not installed.profile:
        raise AgentError(f"the environment of {installed.id} is not composed yet: run pps-agent once first")
    nothing_here = Unknown("checks compose and install nothing")
    with contextlib.closing(site.executor(nothing_here, nothing_here, site.tags)) as executor:
        env = executor.probe_environment(installed.id, installed.release.version)
        argv = (_find_program(step.check[0], site.store.tree(installed.id), env.get("PATH", "")), *step.check[1:])
        answer = executor.run_command(argv, env, CHECK_TIMEOUT_S)
    if isinstance(answer, str):
        return Check(argv, "", answer)
    output = "\n".join(text for raw in (answer.stdout, answer.stderr) if (text := decode_output(raw).rstrip("\n")))
    return Check(argv, output, _find_failure(answer))


def acknowledge(site: Site, release: ReleaseId, step: ConfigStep, actor: str) -> None:
    """Record that a step is done. Raises: SiteError."""
    site.history.acknowledge(release, step.id, Acknowledgement(actor, datetime.now(UTC)))


def _find_program(name: str, tree: Path, path: str) -> str:
    """Give the program of a check: an absolute path as it is, a relative one inside the tree, a bare name by PATH."""
    if name.startswith("/"):
        return name
    if "/" in name:
        inside = posixpath.normpath(name)
        if inside.startswith("../"):
            raise AgentError(f"the check {name!r} lies outside the release: tell the release managers")
        return os.fspath(tree / inside)
    at_root = tree / name
    if at_root.is_file() and os.access(at_root, os.X_OK):
        return os.fspath(at_root)
    found = shutil.which(name, path=path)
    if found is None:
        raise AgentError(f"the check {name!r} is neither in the release nor in PATH: tell the release managers")
    return os.path.abspath(found)  # noqa: PTH100 - links stay as they are


def _find_failure(answer: RunResponse) -> str:
    if answer.timed_out:
        return f"not done after {answer.duration_s:.0f} s"
    if answer.failure:
        return answer.failure
    if answer.exit is None:
        return f"ended by signal {answer.signal}"
    return f"exit {answer.exit}" if answer.exit else ""
