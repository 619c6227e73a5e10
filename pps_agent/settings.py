"""The settings tree: one frozen value, built once in ``main`` and passed on.

The loader is in ``settings_file.py``. Units stand in the names. ``help`` of each field is the line
that docs/reference/settings.md and ``config show`` print.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pps_agent.quiet_hours import QuietHours
from pps_wire.names import DEFAULT_GROUP, GLIBC_PATTERN, Component, HostGroup, Platform, Site, Subcluster, Vo


def _field(help_text: str, default: Any = None, **kinds: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **kinds})


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """Who this site is."""

    name: Site = field(metadata={"help": "site name as the topology source writes it", "required": True})
    vos: tuple[Vo, ...] = field(metadata={"help": "VOs that may be offered previews here", "required": True})
    subclusters: tuple[Subcluster, ...] = _field("GlueSubClusterUniqueIDs that this store serves", ())
    hosts: tuple[str, ...] = _field(
        "host names by which lcg-ManageVOTag means all subclusters at once, e.g. the CE's",
        (),
        pattern=r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}",
        example="ce.example.org",
    )
    managers: dict[Vo, str] = field(
        default_factory=dict,
        metadata={
            "help": "group of each VO's software managers, who may change that VO's tags; pps-agent setup lets them in",
            "pattern": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}",
            "example": "dteamsgm",
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The host group: the nodes that use this store. One settings file describes one group."""

    name: HostGroup = _field("name of the host group in reports; one store and one settings file each", DEFAULT_GROUP)
    arch: str = _field("architecture of the nodes; empty: this machine's", "", pattern=r"[a-z0-9_]+", example="x86_64")
    glibc: str = _field("glibc version of the nodes; empty: this machine's", "", pattern=GLIBC_PATTERN, example="2.34")
    os: str = _field(
        "OS of the nodes as releases require it, e.g. el9 or debian12; empty: this machine's",
        "",
        pattern=r"[a-z0-9._]+",
        example="el9",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Where things lie; relative paths are taken from the settings file's directory."""

    store: Path = _field("releases side by side", Path("/opt/pps-preview"))
    state: Path = _field("last good metadata, outbox, probe history, identity", Path("/var/lib/pps-agent"))
    cache: Path = _field("partial downloads; may be deleted at any time", Path("/var/cache/pps-agent"))
    tags: Path = _field("base of the VO tag files, <base>/<subcluster>/<vo>/<vo>.list", Path("/opt/glite/var/info"))
    global_tags: Path = _field(
        "base of the global lists, <base>/<vo>/<vo>.list, which count for every subcluster", Path("/opt/edg/var/info")
    )
    journal: str = _field(
        "journal of state.db; auto: wal, and delete on network file systems",
        "auto",
        choices=("auto", "wal", "delete"),
    )
    probes: tuple[Path, ...] = _field("directories of the site's own probes, beside the shipped ones", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """Where releases come from and whom to believe."""

    url: str = field(metadata={"help": "address of the static repository", "required": True})
    mirrors: tuple[str, ...] = _field("further addresses of the same repository, asked in order when one fails", ())
    proxy: str = _field('proxy for all of them, or "direct" for none; empty: http_proxy, https_proxy, no_proxy', "")
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
    hold_for_h: int = _field(
        "hours a release must have been on offer before it is installed without asking", 0, minimum=0
    )
    quiet_hours: tuple[QuietHours, ...] = _field(
        "when nothing is installed, switched, tagged or removed, e.g. mon-fri 08:00-18:00, 22:00-06:00 or sat,sun", ()
    )
    time_zone: str = _field("time zone of quiet_hours, e.g. Europe/Zurich; empty means this machine's", "")
    mode: str = _field(
        "act, or observe: report what would be done and change nothing", "act", choices=("act", "observe")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionSettings:
    """Where the version of the site's own client of one component is read, to hand a preview over to it."""

    command: tuple[str, ...] = _field('argument list that prints the version, e.g. ["xrdcp", "--version"]', ())
    file: Path | None = _field("file that holds the version, in place of a command", None)
    pattern: str = field(
        metadata={"help": "regular expression whose one group is the version, e.g. v?([0-9.]+)", "required": True}
    )
    timeout_s: int = _field("time limit of the command", 20, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How the store behaves, and where its nodes see it."""

    kind: str = _field(
        "local: nodes = this machine; shared: nodes mount the store; cvmfs: others distribute the trees, read-only",
        "local",
        choices=("local", "shared", "cvmfs"),
    )
    trees: str = _field(
        "kind cvmfs: where a release's tree appears, e.g. /cvmfs/pps.example.org/{release}", "", path=True
    )
    drain_s: int = _field("how long an untagged release stays for running jobs", 7 * 86400, minimum=0)
    keep: int = _field(
        "newest releases of a component that stay, besides current, previous and pinned ones", 3, minimum=1
    )
    max_bytes: int = _field("largest size of one installed release", 4 * 1024**3, minimum=1)
    max_total_bytes: int = _field("largest size of the whole store on disk; 0 means no limit", 0, minimum=0)
    sync: str = _field(
        "syncfs: one flush; files: one per file; auto: files where kind is not local",
        "auto",
        choices=("auto", "syncfs", "files"),
    )

    @property
    def syncs_files(self) -> bool:
        """Whether each file is flushed by itself: syncfs(2) on a network file system need not reach its server."""
        return self.sync == "files" or (self.sync == "auto" and self.kind != "local")


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
    enabled: tuple[str, ...] = _field(
        "probes (names, aliases or globs) that the daemon runs by themselves, beside those that releases ask for",
        ("org.pps.sys.disk",),
    )
    proxy: Path | None = _field(
        "X.509 proxy for probes that need one, renewed by others; probes' user must read it", None
    )
    secrets: dict[str, str] = field(
        default_factory=dict, metadata={"help": "files that hold secrets, by the variable of the probe that takes it"}
    )
    heavy: int = _field("heavy probes that run at a time", 2, minimum=1)
    running: int = _field("probes that run at a time", 8, minimum=1)
    publish: Path | None = _field("directory of the newest results for check_pps and others; unset: none", None)
    spool: Path | None = _field("directory in which other programs leave results; unset: none", None)
    textfile: Path | None = _field(
        "file of the newest results for Prometheus' node exporter, *.prom; unset: none", None
    )
    metrics_port: int = _field("port of /metrics on loopback; 0 means none", 0, minimum=0)
    requests: tuple[str, ...] = _field(
        "what the collector may ask for",
        ("run-probe",),
        choices=("run-probe", "install", "remove", "tag", "collect-logs"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSettings:
    """How probes reach the nodes of the host group."""

    executor: str = _field(
        "local: on this machine; else through the site's batch system",
        "local",
        choices=("local", "arc", "slurm", "htcondor"),
    )
    count: int = _field("nodes asked for each release", 1, minimum=1)
    quorum: int = _field("nodes that must answer, and all that answer must pass", 1, minimum=1)
    timeout_s: int = _field("time limit from submission to answer", 1800, minimum=1)
    poll_s: int = _field("time between two looks at a job", 10, minimum=1)
    queue: str = _field(
        "slurm: partition; arc: queue; empty: the default one", "", pattern=r"[A-Za-z0-9._-]+", example="pps"
    )
    options: tuple[str, ...] = _field(
        'further options of sbatch ("--qos=short"), attributes in xRSL ("(memory=500)"), or lines of the condor submit'
        ' file ("request_memory = 500")',
        (),
    )
    endpoint: str = _field("arc: the computing element, e.g. https://ce01.example.org/arex", "")
    proxy: Path | None = _field("X.509 proxy of the jobs, renewed by others; arc needs one", None)
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "variables of the batch system's commands, e.g. SLURM_CONF, CONDOR_CONFIG, X509_CERT_DIR, PATH"
        },
    )
    python: str = _field(
        "Python >= 3.9 on the nodes", "/usr/bin/python3", pattern=r"/[\x21-\x7e]{1,120}", example="/usr/bin/python3"
    )
    work: Path | None = _field("directory of jobs; slurm: nodes must see it too; unset: in paths.cache", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfosysSettings:
    """The information system that announces tags; an empty url means none."""

    url: str = _field("LDAP server that shows the tags, e.g. ldap://bdii.example.org:2170", "")
    mirrors: tuple[str, ...] = _field("further servers of the same tree, asked in order when the first is silent", ())
    base: str = _field("search base", "o=grid")
    timeout_s: int = _field("connect and read time limit", 15, minimum=1)
    wait_s: int = _field(
        "how long `once` waits until a changed tag shows; the daemon follows it beside its rounds", 0, minimum=0
    )
    service: str = _field(
        "GLUE2ServiceID of the computing service that the subclusters belong to, as the static LDIF has it", ""
    )
    manager: str = _field("GLUE2ManagerID of that service; empty: <service>_Manager", "")
    ldif: Path | None = _field(
        "file in the BDII's ldif directory that the daemon keeps up to date with the tags in GLUE 2; unset: none", None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreproductionSettings:
    """A pre-production information system beside production's: subclusters, lists and servers of its own."""

    subclusters: tuple[Subcluster, ...] = _field(
        "GlueSubClusterUniqueIDs that are published there, none of them in site.subclusters; empty: no such system", ()
    )
    hosts: tuple[str, ...] = _field(
        "host names by which lcg-ManageVOTag means all of these",
        (),
        pattern=r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}",
        example="pps-ce.example.org",
    )
    tags: Path = _field("base of their VO tag files", Path("/opt/glite/var/info-preproduction"))
    global_tags: Path | None = _field("base of their global lists; unset: none", None)
    url: str = _field("LDAP server that shows their tags; empty: not looked at", "")
    mirrors: tuple[str, ...] = _field("further servers of the same tree", ())
    base: str = _field("search base", "o=grid")
    service: str = _field("GLUE2ServiceID of their computing service", "")
    manager: str = _field("GLUE2ManagerID of that service; empty: <service>_Manager", "")
    ldif: Path | None = _field("as infosys.ldif, for this system's BDII", None)


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
    refresh_interval_s: int = _field(
        "time between two looks for news, which untag at once what was withdrawn and start a round", 300, minimum=5
    )
    report_interval_s: int = _field("time between two tries to empty the outbox", 60, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole tree. Source: design, section 4."""

    site: SiteSettings
    repository: RepositorySettings
    group: GroupSettings = GroupSettings()
    paths: PathSettings = PathSettings()
    policy: PolicySettings = PolicySettings()
    store: StoreSettings = StoreSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    probes: ProbeSettings = ProbeSettings()
    nodes: NodesSettings = NodesSettings()
    infosys: InfosysSettings = InfosysSettings()
    preproduction: PreproductionSettings = PreproductionSettings()
    collector: CollectorSettings = CollectorSettings()
    daemon: DaemonSettings = DaemonSettings()
    production: Mapping[Component, ProductionSettings] = field(
        default_factory=dict, metadata={"help": "one table for each component, e.g. [production.grid-clients]"}
    )

    @property
    def subclusters(self) -> tuple[Subcluster, ...]:
        """The subclusters of production's information system, then those of pre-production's."""
        return (*self.site.subclusters, *self.preproduction.subclusters)
