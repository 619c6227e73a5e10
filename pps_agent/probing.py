"""One probe now, because a signed request asks for it, in the environment that rounds use."""

import contextlib
from collections.abc import Mapping

from pps_agent.environment.capture import capture
from pps_agent.errors import AgentError
from pps_agent.execute import Executor
from pps_agent.gather import production_environment
from pps_agent.probes.arguments import bind_arguments
from pps_agent.site import Site
from pps_agent.state import ProbeResult, Unknown
from pps_agent.tags.areas import NOWHERE
from pps_wire.names import ReleaseId


def probe_now(
    site: Site, name: str, release: ReleaseId | None, arguments: Mapping[str, str], within_s: int
) -> ProbeResult:
    """Run one probe, contained, on a release or (None) on the production client, and give its result.

    ``arguments`` are texts by the names in the probe's schema. A run without any is remembered like the agent's own and
    may announce or withdraw a release; one with arguments tested what the caller chose, and is only told. Raises:
    AgentError when there is no such probe or release; WireError when an argument does not fit.
    """
    captured = capture(site.settings.environment.profile, site.settings.environment.timeout_s)
    with contextlib.closing(site.executor(captured, Unknown("a single probe installs nothing"), NOWHERE)) as executor:
        definition = executor.catalogue(release).find(name)
        if definition is None:
            raise AgentError(executor.catalogue(release).why_not(name))
        variables = bind_arguments(definition, arguments)
        if release is None:
            environment, profile = production_environment(site, captured), ""
        else:
            environment, profile = _find_environment(site, executor, release)
        run = executor.run_probes((definition.name,), release, environment | variables, within_s=within_s)
        if arguments:
            return run[0]
        return _remember(site, executor, run, profile)


def _find_environment(site: Site, executor: Executor, release: ReleaseId) -> tuple[dict[str, str], str]:
    installed = site.store.installed().get(release)
    if installed is None:
        raise AgentError(f"{release} is not installed: see pps-agent release list")
    return executor.probe_environment(release, installed.release.version), installed.profile


def _remember(site: Site, executor: Executor, run: tuple[ProbeResult, ...], profile: str) -> ProbeResult:
    known, find = site.history.recorded, executor.catalogue(run[0].release).find
    counted = tuple(known.count(result, profile, find) for result in run)
    for result in counted:
        site.history.add_result(result, profile)
    return counted[0]
