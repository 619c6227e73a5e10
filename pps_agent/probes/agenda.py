"""What the daemon runs by itself: from settings, probes and wanted releases to entries of the timetable. Pure."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pps_agent.probes.catalogue import Catalogue
from pps_agent.probes.definition import ProbeDefinition, Weight, Where
from pps_agent.probes.slots import Entry, Key
from pps_agent.settings import Settings
from pps_agent.state import Desired, Observed, Stance, Unknown
from pps_wire.names import ProbeName, ReleaseId, Subcluster, Tag

_RENEWALS: Final = 3
"""How often at least a probe that a release asks for runs in the time that a pass counts, so that no pass grows old."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A wanted release with its tree and environment in place; ``profile`` is the environment's fingerprint."""

    release: ReleaseId
    version: str
    probes: tuple[ProbeName, ...]
    profile: str


@dataclass(frozen=True, slots=True)
class Job:
    """One entry of the timetable, and what is run for it; ``fresh_s`` is how long a result counts."""

    entry: Entry
    definition: ProbeDefinition
    fresh_s: int

    @property
    def key(self) -> Key:
        """The entry's key."""
        return self.entry.key


@dataclass(frozen=True, slots=True)
class Agenda:
    """What a prober works by: settings, jobs, and what lies around them.

    ``environments`` and ``catalogues`` are by release (None: production). ``agent`` spreads the jobs over time.
    ``round_ended_at``, ``expires_at`` and ``listed`` (tags; None: not known) are facts of the last round, for
    ``agent.json``.
    """

    settings: Settings
    agent: str
    jobs: Mapping[Key, Job]
    environments: Mapping[ReleaseId | None, Mapping[str, str]]
    catalogues: Mapping[ReleaseId | None, Catalogue] = field(default_factory=dict)
    round_ended_at: datetime | None = None
    expires_at: datetime | None = None
    listed: Mapping[Subcluster, tuple[Tag, ...]] | None = None

    def find_change(self, key: Key) -> str:
        """Tell what happened to the files of a job's probe since they were read; empty when nothing did."""
        catalogue = self.catalogues.get(key.release)
        return "" if catalogue is None else catalogue.find_change(self.jobs[key].definition)


def find_watched(desired: Desired, observed: Observed) -> tuple[Watched, ...]:
    """Give the releases whose probes run between rounds: those that a round would probe."""
    if isinstance(observed.installed, Unknown) or desired.observing or desired.paused:
        return ()
    found = ((wish, observed.installed.get(wish.release)) for wish in desired.wishes if wish.stance is Stance.WANTED)
    return tuple(
        Watched(wish.release, wish.version, wish.probes, installed.profile)
        for wish, installed in found
        if installed is not None and installed.profile and not installed.fault
    )


def find_jobs(
    enabled: Iterable[str],
    definitions: Mapping[ReleaseId | None, Iterable[ProbeDefinition]],
    watched: Iterable[Watched],
    max_age_s: int,
    *,
    on_nodes: bool = True,
) -> dict[Key, Job]:
    """Give everything that is run by itself.

    Against the production client: the enabled probes that name an interval and need no release, and what they depend
    on. ``enabled`` holds names, aliases or globs of them. On each
    watched release: the probes it asks for, and those for comparison (``matrix``), which then run against production
    too. ``definitions`` are the probes of each release, and under None the site's. ``on_nodes`` False leaves out
    what runs where jobs run: a batch system does that, at the rounds' rhythm.
    """
    globs, releases = tuple(enabled), tuple(watched)
    site = _index(definitions[None])
    jobs: dict[Key, Job] = {}
    for probe in _unique(site):
        is_wanted = is_enabled(probe, globs) or (probe.matrix and releases)
        if probe.interval_s is not None and is_wanted and not probe.needs_release:
            _add(jobs, site, probe, Key(probe.name, None), "", probe.interval_s)
    for release in releases:
        probes = _index(definitions.get(release.release, ())) or site
        for name, probe, interval_s in _on_release(release, probes, max_age_s):
            _add(jobs, probes, probe, Key(name, release.release), release.profile, interval_s)
    return {key: job for key, job in jobs.items() if on_nodes or job.definition.where is Where.HEAD}


def is_enabled(probe: ProbeDefinition, enabled: Iterable[str]) -> bool:
    """Tell whether ``probes.enabled`` names a probe, by one of its names or by a glob."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in enabled for name in (probe.name, *probe.aliases))


def _index(definitions: Iterable[ProbeDefinition]) -> dict[str, ProbeDefinition]:
    return {name: probe for probe in definitions for name in (probe.name, *probe.aliases)}


def _unique(probes: Mapping[str, ProbeDefinition]) -> list[ProbeDefinition]:
    return [probe for name, probe in probes.items() if name == probe.name]


def _on_release(
    release: Watched, probes: Mapping[str, ProbeDefinition], max_age_s: int
) -> Iterator[tuple[ProbeName, ProbeDefinition, int]]:
    """Give what runs on a release, under the names it is asked for by, and how often."""
    longest_s = max(1, max_age_s // _RENEWALS)
    for name in release.probes:
        probe = probes.get(name)
        if probe is not None:
            own_s = probe.interval_s or longest_s
            yield name, probe, own_s if probe.at is not None else min(own_s, longest_s)
    asked = {probe.name for name in release.probes if (probe := probes.get(name)) is not None}
    for probe in _unique(probes):
        if probe.matrix and probe.interval_s is not None and probe.name not in asked:
            yield probe.name, probe, probe.interval_s


def _add(
    jobs: dict[Key, Job],
    probes: Mapping[str, ProbeDefinition],
    probe: ProbeDefinition,
    key: Key,
    profile: str,
    interval_s: int,
) -> None:
    """Add one job, and against production what it depends on, unless it is there."""
    if key in jobs:
        return
    parents = [parent for name in probe.depends_on if (parent := probes.get(name)) is not None]
    entry = Entry(
        key=key,
        interval_s=interval_s,
        retry_interval_s=probe.retry_interval_s,
        max_attempts=probe.max_attempts,
        splay_s=probe.splay_s,
        at=probe.at,
        heavy=probe.weight is Weight.HEAVY,
        depends_on=tuple(parent.name for parent in parents),
        profile=profile,
    )
    fresh_s = probe.fresh_for_s() or 2 * interval_s + probe.timeout_s
    jobs[key] = Job(entry, probe, fresh_s)
    for parent in parents:
        if parent.interval_s is not None and Key(parent.name, key.release) not in jobs:
            _add(jobs, probes, parent, Key(parent.name, None), "", parent.interval_s)
