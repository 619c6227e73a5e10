"""The settings tree: one frozen value, built once in ``main`` and passed on.

The loader is in ``settings_file.py``. Units stand in the names. ``help`` of each field is the line
that docs/reference/settings.md and ``config show`` print.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pps_wire.names import Component, Platform, Site, Subcluster, Vo


def _field(help_text: str, default: Any = None, **kinds: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **kinds})


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """Who this site is."""

    name: Site = field(metadata={"help": "site name as the topology source writes it", "required": True})
    vos: tuple[Vo, ...] = field(metadata={"help": "VOs that may be offered previews here", "required": True})
    subclusters: tuple[Subcluster, ...] = _field("GlueSubClusterUniqueIDs that this store serves", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Where things lie; relative paths are taken from the settings file's directory."""

    store: Path = _field("releases side by side", Path("/opt/pps-preview"))
    state: Path = _field("last good metadata, outbox, probe history, identity", Path("/var/lib/pps-agent"))
    cache: Path = _field("partial downloads; may be deleted at any time", Path("/var/cache/pps-agent"))
    tags: Path = _field("base of the VO tag files, <base>/<subcluster>/<vo>/<vo>.list", Path("/opt/glite/var/info"))
    probes: tuple[Path, ...] = _field("directories that hold probes; empty means the shipped ones", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """Where releases come from and whom to believe."""

    url: str = field(metadata={"help": "address of the static repository", "required": True})
    root: Path = _field("pinned TUF root metadata", Path("/etc/pps-agent/root.json"))
    timeout_s: int = _field("connect and read time limit of one request", 30, minimum=1)
    trust_grace_s: int = _field("how long expired metadata still keeps previews announced", 72 * 3600, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """What the site lets in, and with whose consent."""

    components: tuple[Component, ...] = _field("components to install; empty means all", ())
    classes: tuple[str, ...] = _field(
        "classes to install", ("client-bc", "client-nbc"), choices=("client-bc", "client-nbc")
    )
    platforms: tuple[Platform, ...] = _field("platforms to accept; empty means whatever this node can run", ())
    install_bc: str = _field("client-bc: auto, or manual (release accept)", "manual", choices=("auto", "manual"))
    install_nbc: str = _field("client-nbc: auto, or manual (release accept)", "manual", choices=("auto", "manual"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How the store behaves."""

    drain_s: int = _field("how long an untagged release stays for running jobs", 7 * 86400, minimum=0)
    max_bytes: int = _field("largest size of one installed release", 4 * 1024**3, minimum=1)
    sync: str = _field(
        "syncfs: one flush; files: one per file, for shared file systems", "syncfs", choices=("syncfs", "files")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """The site's own settings that previews inherit."""

    profile: tuple[str, ...] = _field("files (globs) to inherit, in order", ("/etc/profile.d/*.sh",), path=True)
    timeout_s: int = _field("time limit for sourcing them", 20, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How probes run."""

    max_age_s: int = _field("a pass older than this is probed again", 4 * 3600, minimum=1)
    retry_s: int = _field("a verdict other than OK is probed again after this", 600, minimum=1)
    timeout_s: int = _field("upper limit of one probe's run time", 300, minimum=1)
    user: str = _field("account that runs probes when the agent is root; empty means the agent's own", "")
    socket: Path | None = _field("socket of pps-agent-runner.service; unset: start a runner for each round", None)
    env: dict[str, str] = field(
        default_factory=dict, metadata={"help": "variables given to every probe, e.g. PPS_SE_XROOT"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InfosysSettings:
    """The information system that announces tags; an empty url means none."""

    url: str = _field("LDAP server that shows the tags, e.g. ldap://bdii.example.org:2170", "")
    base: str = _field("search base", "o=grid")
    timeout_s: int = _field("connect and read time limit", 15, minimum=1)
    wait_s: int = _field("how long `once` waits until a changed tag shows", 0, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorSettings:
    """Where results go; an empty url keeps them in the outbox."""

    url: str = _field("address of the collector, e.g. https://pps.example.org:8443", "")
    ca: Path | None = _field("PEM file of the collector's CA; unset: the system's", None)
    timeout_s: int = _field("connect and read time limit of one request", 30, minimum=1)
    backfill_after_s: int = _field("results that waited longer travel in the backfill lane", 900, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """The rhythm of `pps-agent run`."""

    interval_s: int = _field("time between two rounds", 900, minimum=5)
    report_interval_s: int = _field("time between two tries to empty the outbox", 60, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree. Source: design, section 4."""

    site: SiteSettings
    repository: RepositorySettings
    paths: PathSettings = PathSettings()
    policy: PolicySettings = PolicySettings()
    store: StoreSettings = StoreSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    probes: ProbeSettings = ProbeSettings()
    infosys: InfosysSettings = InfosysSettings()
    collector: CollectorSettings = CollectorSettings()
    daemon: DaemonSettings = DaemonSettings()
