"""What the probe commands share: the site's probes, with a release those it carries, and their environment."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from pps_agent.cli import context
from pps_agent.environment.capture import capture
from pps_agent.environment.values import Captured
from pps_agent.errors import AgentError, SiteError
from pps_agent.execute import Executor
from pps_agent.gather import production_environment
from pps_agent.policy import DEFAULT_PROBES
from pps_agent.probes.agenda import Watched
from pps_agent.probes.catalogue import Catalogue, load_catalogue
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.settings import Settings
from pps_agent.site import Site
from pps_agent.state import Installed, Unknown
from pps_wire.names import ProbeName, ReleaseId


class Probes:
    """The probes of one site, or of one release at it, and the hands that run them."""

    def __init__(
        self,
        settings: Settings,
        site: Site,
        executor: Executor,
        captured: Captured | Unknown,
        installed: Installed | None,
    ) -> None:
        self.settings, self.site, self.executor = settings, site, executor
        self._captured, self._installed = captured, installed

    @property
    def release(self) -> ReleaseId | None:
        """The release asked for; None is the production client."""
        return self._installed.id if self._installed else None

    @cached_property
    def catalogue(self) -> Catalogue:
        """The probes that may run, and those that are refused."""
        return self.executor.catalogue(self.release)

    def watched(self) -> tuple[Watched, ...]:
        """Give the release asked for as the daemon sees it, if one was."""
        one = self._installed
        if one is None:
            return ()
        return (Watched(one.id, one.release.version, one.release.probes or DEFAULT_PROBES, one.profile),)

    def find(self, name: str) -> ProbeDefinition:
        """Give the probe of this name or alias. Raises: AgentError, saying why there is none."""
        definition = self.catalogue.find(name)
        if definition is None:
            raise AgentError(self.catalogue.why_not(name))
        return definition

    def environment(self) -> dict[str, str]:
        """Give the environment that the agent's own runs have."""
        if self._installed is not None:
            return self.executor.probe_environment(self._installed.id, self._installed.release.version)
        return production_environment(self.site, self._captured)


@contextlib.contextmanager
def open_probes(release_id: str | None = None, limit_s: int | None = None) -> Iterator[Probes]:
    """Open the site's probes, to run none for longer than ``limit_s``.

    Raises: ConfigError, SiteError; AgentError for a release that is not installed.
    """
    settings = context.settings()
    if limit_s is not None:
        probes = replace(settings.probes, timeout_s=min(settings.probes.timeout_s, limit_s))
        settings = replace(settings, probes=probes)
    site = Site(settings, context.config_path())
    installed = None
    if release_id is not None:
        installed = site.store.installed().get(ReleaseId(release_id))
        if installed is None:
            raise AgentError(f"{release_id} is not installed: see pps-agent release list")
    captured = capture(settings.environment.profile, settings.environment.timeout_s)
    executor = site.executor(captured, Unknown("a probe by hand installs nothing"), site.tags)
    with contextlib.closing(executor):
        yield Probes(settings, site, executor, captured, installed)


def recall_approvals(site: Site) -> Mapping[ProbeName, str]:
    """Give the digests on record; none where state.db cannot be read, as for an ordinary user."""
    try:
        return site.history.approvals()
    except SiteError:
        return {}


def load_probes(settings: Settings, site: Site) -> Catalogue:
    """Read the installed probes without running any."""
    return load_catalogue(settings.paths.probes, approved=recall_approvals(site))


def load_probes_without_site() -> tuple[Catalogue, Settings | None]:
    """Give the shipped probes where this machine has no settings file, else the site's. Raises: ConfigError."""
    if not context.config_path().exists():
        return load_catalogue(), None
    settings = context.settings()
    return load_probes(settings, Site(settings, context.config_path())), settings
