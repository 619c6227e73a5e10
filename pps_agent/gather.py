"""Looks up all that a prober needs to know: probes, environments, trees. Done after each round, not for each run."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from pps_agent.environment.capture import capture
from pps_agent.environment.compose import production_variables
from pps_agent.environment.save import load_variables
from pps_agent.environment.values import Captured
from pps_agent.errors import SiteError
from pps_agent.identity import load_identity
from pps_agent.probes.agenda import Agenda, Job, Watched, find_jobs
from pps_agent.probes.carried import load_carried
from pps_agent.probes.catalogue import Catalogue, load_catalogue
from pps_agent.probes.preparation import shared_environment
from pps_agent.probes.slots import Key
from pps_agent.settings import Settings
from pps_agent.site import Site
from pps_agent.state import Unknown
from pps_wire.names import ReleaseId

MAX_CLIENT: Final = 256
"""Characters of a result's ``client``."""


def gather(site: Site, watched: Iterable[Watched], previous: Catalogue | None = None) -> Agenda:
    """Make the agenda for these releases; one that cannot be read is left out, the next round says why.

    ``previous`` is an earlier catalogue of the site's probes: what looks as it did then is not read again.
    Raises: SiteError when state.db cannot be read.
    """
    settings = site.settings
    captured = capture(settings.environment.profile, settings.environment.timeout_s)
    approved = site.history.approvals()
    catalogue = load_catalogue(settings.paths.probes, approved=approved, previous=previous)
    environments: dict[ReleaseId | None, Mapping[str, str]] = {None: production_environment(site, captured)}
    catalogues: dict[ReleaseId | None, Catalogue] = {None: catalogue}
    ready = []
    for release in watched:
        try:
            composed = load_variables(site.store.path(release.release))
            catalogues[release.release] = catalogue.merge(load_carried(site.store, release.release))
        except SiteError:
            continue
        environments[release.release] = shared_environment(settings, composed, release.version)
        ready.append(release)
    definitions = {release: known.definitions for release, known in catalogues.items()}
    on_nodes = settings.nodes.executor == "local"
    jobs = find_jobs(settings.probes.enabled, definitions, ready, settings.probes.max_age_s, on_nodes=on_nodes)
    _note_digests(site, catalogue, jobs)
    return Agenda(settings, agent_name(settings), jobs, environments, catalogues)


def production_environment(site: Site, captured: Captured | Unknown) -> dict[str, str]:
    """Give the environment of runs on the production client, whose versions are those the last round saw."""
    variables = production_variables(captured) if isinstance(captured, Captured) else {}
    try:
        versions = site.history.production()
    except SiteError:  # state.db is not for an ordinary user, who runs the probe all the same
        versions = {}
    told = ", ".join(f"{component} {version}" for component, version in sorted(versions.items()))
    return shared_environment(site.settings, variables, production=told[:MAX_CLIENT])


def agent_name(settings: Settings) -> str:
    """Give the name by which this agent's probes are spread over time."""
    identity = load_identity(settings)
    return settings.site.name if identity is None else identity.agent


def _note_digests(site: Site, catalogue: Catalogue, jobs: Mapping[Key, Job]) -> None:
    """Put the digests of site probes on record before the agent first runs them: a later change is refused."""
    new = {job.definition.name: job.definition for job in jobs.values() if job.definition.name in catalogue.unrecorded}
    if new:
        site.history.approve(new.values(), "first run", datetime.now(UTC), anew=False)
