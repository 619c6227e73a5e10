"""What the loop talks about: what is wanted, what was seen, what to do, what came of it. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from pps_agent.tags.life import Life
from pps_wire.names import Component, Platform, ProbeName, ReleaseId, Subcluster, Tag, Vo
from pps_wire.release import Release, Withdrawal
from pps_wire.report import Cause, Status

VoList = tuple[Subcluster, Vo]
"""The list of one VO on one subcluster."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The agent could not look. Never the same as "not there": nothing is removed because of it."""

    reason: str


# --- what the publisher says ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """The TUF target that holds a release's manifest: path below ``targets/``, length, sha256 (hex)."""

    path: str
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A release named by verified metadata, and its withdrawal if there is one."""

    release: Release
    manifest: ManifestRef
    withdrawn: Withdrawal | None = None


@dataclass(frozen=True, slots=True)
class ReleaseSet:
    """All offers of the last metadata that verified; ``problem`` says why a newer one was not had.

    ``expires_at`` is the earliest expiry among the roles the offers rest on.
    """

    offers: tuple[Offer, ...]
    expires_at: datetime
    problem: str = ""


# --- what the site wants ------------------------------------------------------------------------


class Stance(Enum):
    """What the site's policy says of one release."""

    WANTED = "wanted"
    HELD = "held"
    """Nothing new is done, what is there stays: waits for a person, or trust is stale."""
    UNWANTED = "unwanted"
    """Untag, drain, remove."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One release as the site wants it. ``tags`` announce it, one per supported VO.

    ``announce`` False withholds (and withdraws) the tags while the tree stays. ``known_tags`` are all
    its tags, those of VOs the site does not support among them. ``open_steps`` are the configuration
    steps nobody acknowledged yet; ``handed_over`` says that production has reached its version.
    """

    release: ReleaseId
    component: Component
    version: str
    stance: Stance
    reason: str
    tags: Mapping[Vo, Tag] = field(default_factory=dict)
    probes: tuple[ProbeName, ...] = ()
    announce: bool = True
    known_tags: Mapping[Vo, Tag] = field(default_factory=dict)
    open_steps: tuple[str, ...] = ()
    handed_over: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything the site wants, for one pure call of ``plan``.

    ``quiet`` says until when quiet hours last, empty outside of them. ``observing`` has everything
    planned and nothing done. ``former`` are the lists this site once tagged and serves no more.
    """

    wishes: tuple[Wish, ...]
    subclusters: tuple[Subcluster, ...]
    probe_max_age_s: int
    probe_retry_s: int
    drain_s: int
    paused: bool = False
    quiet: str = ""
    observing: bool = False
    former: frozenset[VoList] = frozenset()


# --- what was seen ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installed:
    """One release directory with its commit mark. ``fault`` tells the first thing that is not as the manifest says.

    ``tags`` and ``component`` come from the copy of the signed description kept with the tree, so that
    a release can be untagged after the repository forgot it. ``profile`` is the fingerprint of the site
    settings its environment was composed from; empty means none was composed yet.
    """

    release: Release
    profile: str = ""
    fault: str = ""

    @property
    def id(self) -> ReleaseId:
        """The release's id."""
        return self.release.id


@dataclass(frozen=True, slots=True)
class ProbeSeen:
    """The newest verdict of one probe on one release.

    ``profile`` is the fingerprint of the environment it ran in; in another one it proves nothing. ``hard``
    False: one of the probe's attempts, which takes nothing away yet.
    """

    status: Status
    at: datetime
    summary: str = ""
    profile: str = ""
    hard: bool = True
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Observed:
    """What a look at store, probe history, tag files and information system gave."""

    installed: Mapping[ReleaseId, Installed] | Unknown
    current: Mapping[Component, ReleaseId]
    profile: str | Unknown
    probes: Mapping[tuple[ReleaseId, ProbeName], ProbeSeen]
    tags: Mapping[VoList, frozenset[Tag] | Unknown]
    """What stands in each VO's list of each subcluster."""
    published: Mapping[Subcluster, frozenset[Tag]] | Unknown | None
    """None where the site has no information system configured."""
    draining: Mapping[ReleaseId, datetime]
    in_use: frozenset[ReleaseId] | Unknown
    previous: Mapping[Component, ReleaseId] = field(default_factory=dict)
    """What a rollback of each component would go back to."""
    pins: Mapping[ReleaseId, str] | Unknown = field(default_factory=dict)
    """Releases whose trees a person wants kept, with the reason."""
    former_tags: Mapping[VoList, frozenset[Tag] | Unknown] = field(default_factory=dict)
    """Tags on subclusters that this site once tagged and serves no more."""
    lives: Mapping[VoList, Mapping[Tag, Life] | Unknown] = field(default_factory=dict)
    """What is known of tags beyond their names."""

    def listed(self, where: VoList) -> frozenset[Tag] | Unknown:
        """Give what stands in one list; a list that is not there holds nothing."""
        return self.tags.get(where, frozenset())

    def will(self, where: VoList, tag: Tag) -> str | Unknown:
        """Give what a person decided of a tag against the probes, see ``Life.forced``; empty: nothing."""
        known = self.lives.get(where, {})
        if isinstance(known, Unknown):
            return known
        return known[tag].forced if tag in known else ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What this node offers to a release: architecture, glibc version, OS id (os-release ID + VERSION_ID)."""

    arch: str
    glibc: tuple[int, int]
    os: str
    platforms: tuple[Platform, ...] = ()
    os_family: str = ""
    """The family whose packages the OS runs, e.g. ``el9``; empty when it is none's rebuild."""


# --- what to do, and what came of it ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Install:
    """Fetch, verify and place a release beside the others (or again, when it was damaged)."""

    release: ReleaseId


@dataclass(frozen=True, slots=True)
class Compose:
    """Write the release's environment from the site's settings."""

    release: ReleaseId


@dataclass(frozen=True, slots=True)
class Probe:
    """Run probes of a release in its environment."""

    release: ReleaseId
    probes: tuple[ProbeName, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    """Make a release (or none) the current one of its component, as a new generation."""

    component: Component
    release: ReleaseId | None


@dataclass(frozen=True, slots=True)
class AddTags:
    """Announce a release: add tags to the files of a subcluster."""

    release: ReleaseId
    subcluster: Subcluster
    tags: tuple[tuple[Vo, Tag], ...]


@dataclass(frozen=True, slots=True)
class RemoveTags:
    """Stop announcing a release on a subcluster."""

    release: ReleaseId
    subcluster: Subcluster
    tags: tuple[tuple[Vo, Tag], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Note that no new job is sent to a release from now on."""

    release: ReleaseId


@dataclass(frozen=True, slots=True)
class Undrain:
    """Forget the note: the release is wanted again."""

    release: ReleaseId


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a drained release's tree."""

    release: ReleaseId
    reason: str


Action = Install | Compose | Probe | Switch | AddTags | RemoveTags | Drain | Undrain | Remove


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One run of one probe. ``release`` None is the production client. Times in seconds, sizes in bytes.

    ``details`` is output after the first line (or stderr when stdout was empty), already cut to size;
    ``perfdata`` what it measured, as monitoring plugins write it. ``output_bytes`` is all it printed.
    ``attempt`` counts results that are not OK in a row; ``hard`` False as long as more are allowed.
    ``digest`` names the probe's files, ``client`` the version of what was tested, ``host`` the node where it
    ran (empty: here), ``parent`` the probe whose run reported this metric beside its own.
    """

    probe: ProbeName
    release: ReleaseId | None
    status: Status
    summary: str
    details: str
    started_at: datetime
    duration_s: float
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    truncated_bytes: int = 0
    leftovers_killed: int = 0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    cause: Cause = Cause.VERDICT
    output_bytes: int = 0
    perfdata: str = ""
    digest: str = ""
    client: str = ""
    attempt: int = 1
    hard: bool = True
    parent: ProbeName | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one action; ``error`` empty means it did what it says. ``facts`` are figures for people."""

    action: Action
    at: datetime
    took_s: float
    error: str = ""
    exit_code: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    results: tuple[ProbeResult, ...] = ()
