"""The settings tree: one frozen value, built once in ``main`` and passed on.

The loader is in ``settings_file.py``, what the tag commands need of the tree in ``settings_tags.py``. Units stand in
the names. ``help`` of each field is the line that docs/reference/settings.md and ``config show`` print.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pps_agent.quiet_hours import QuietHours
from pps_agent.settings_tags import InfosysSettings, PathSettings, PreproductionSettings, SiteSettings, setting
from pps_wire.names import DEFAULT_GROUP, GLIBC_PATTERN, Component, HostGroup, Platform, Subcluster


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The host group: the nodes that use this store. One settings file describes one group."""

    name: HostGroup = setting("name of the host group in reports; one store and one settings file each", DEFAULT_GROUP)
    arch: str = setting("architecture of the nodes; empty: this machine's", "", pattern=r"[a-z0-9_]+", example="x86_64")
    glibc: str = setting("glibc version of the nodes; empty: this machine's", "", pattern=GLIBC_PATTERN, example="2.34")
    os: str = setting(
        "OS of the nodes as releases require it, e.g. el9 or debian12; empty: this machine's",
        "",
        pattern=r"[a-z0-9._]+",
        example="el9",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """Where releases come from and whom to believe."""

    url: str = field(metadata={"help": "address of the static repository", "required": True})
    mirrors: tuple[str, ...] = setting("further addresses of the same repository, asked in order when one fails", ())
    proxy: str = setting('proxy for all of them, or "direct" for none; empty: http_proxy, https_proxy, no_proxy', "")
    root: Path = setting("pinned TUF root metadata", Path("/etc/pps-agent/root.json"))
    timeout_s: int = setting("connect and read time limit of one request", 30, minimum=1)
    trust_grace_s: int = setting("how long expired metadata still keeps previews announced", 72 * 3600, minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """What the site lets in, and with whose consent."""

    components: tuple[Component, ...] = setting("components to install; empty means all", ())
    classes: tuple[str, ...] = setting(
        "classes to install", ("client-bc", "client-nbc"), choices=("client-bc", "client-nbc")
    )
    platforms: tuple[Platform, ...] = setting("platforms to accept; empty means whatever this node can run", ())
    install_bc: str = setting("client-bc: auto, or manual (release accept)", "manual", choices=("auto", "manual"))
    install_nbc: str = setting("client-nbc: auto, or manual (release accept)", "manual", choices=("auto", "manual"))
    hold_for_h: int = setting(
        "hours a release must have been on offer before it is installed without asking", 0, minimum=0
    )
    quiet_hours: tuple[QuietHours, ...] = setting(
        "when nothing is installed, switched, tagged or removed, e.g. mon-fri 08:00-18:00, 22:00-06:00 or sat,sun", ()
    )
    time_zone: str = setting("time zone of quiet_hours, e.g. Europe/Zurich; empty means this machine's", "")
    mode: str = setting(
        "act, or observe: report what would be done and change nothing", "act", choices=("act", "observe")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionSettings:
    """Where the version of the site's own client of one component is read, to hand a preview over to it."""

    command: tuple[str, ...] = setting('argument list that prints the version, e.g. ["xrdcp", "--version"]', ())
    file: Path | None = setting("file that holds the version, in place of a command", None)
    pattern: str = field(
        metadata={"help": "regular expression whose one group is the version, e.g. v?([0-9.]+)", "required": True}
    )
    timeout_s: int = setting("time limit of the command", 20, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How the store behaves, and where its nodes see it."""

    kind: str = setting(
        "local: nodes = this machine; shared: nodes mount the store; cvmfs: others distribute the trees, read-only",
        "local",
        choices=("local", "shared", "cvmfs"),
    )
    trees: str = setting(
        "kind cvmfs: where a release's tree appears, e.g. /cvmfs/pps.example.org/{release}", "", path=True
    )
    drain_s: int = setting("how long an untagged release stays for running jobs", 7 * 86400, minimum=0)
    keep: int = setting(
        "newest releases of a component that stay, besides current, previous and pinned ones", 3, minimum=1
    )
    max_bytes: int = setting("largest size of one installed release", 4 * 1024**3, minimum=1)
    max_total_bytes: int = setting("largest size of the whole store on disk; 0 means no limit", 0, minimum=0)
    sync: str = setting(
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

    profile: tuple[str, ...] = setting("files (globs) to inherit, in order", ("/etc/profile.d/*.sh",), path=True)
    timeout_s: int = setting("time limit for sourcing them", 20, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How probes run."""

    max_age_s: int = setting("a pass older than this is probed again", 4 * 3600, minimum=1)
    retry_s: int = setting("a verdict other than OK is probed again after this", 600, minimum=1)
    timeout_s: int = setting("upper limit of one probe's run time", 300, minimum=1)
    user: str = setting("account that runs probes when the agent is root; empty means the agent's own", "")
    socket: Path | None = setting("socket of pps-agent-runner.service; unset: start a runner for each round", None)
    env: dict[str, str] = field(
        default_factory=dict, metadata={"help": "variables given to every probe, e.g. PPS_SE_XROOT"}
    )
    enabled: tuple[str, ...] = setting(
        "probes (names, aliases or globs) that the daemon runs by themselves, beside those that releases ask for",
        ("org.pps.sys.disk",),
    )
    proxy: Path | None = setting(
        "X.509 proxy for probes that need one, renewed by others; probes' user must read it", None
    )
    secrets: dict[str, str] = field(
        default_factory=dict, metadata={"help": "files that hold secrets, by the variable of the probe that takes it"}
    )
    heavy: int = setting("heavy probes that run at a time", 2, minimum=1)
    running: int = setting("probes that run at a time", 8, minimum=1)
    publish: Path | None = setting("directory of the newest results for check_pps and others; unset: none", None)
    spool: Path | None = setting("directory in which other programs leave results; unset: none", None)
    textfile: Path | None = setting(
        "file of the newest results for Prometheus' node exporter, *.prom; unset: none", None
    )
    metrics_port: int = setting("port of /metrics on loopback; 0 means none", 0, minimum=0)
    requests: tuple[str, ...] = setting(
        "what the collector may ask for",
        ("run-probe",),
        choices=("run-probe", "install", "remove", "tag", "collect-logs"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSettings:
    """How probes reach the nodes of the host group."""

    executor: str = setting(
        "local: on this machine; else through the site's batch system",
        "local",
        choices=("local", "arc", "slurm", "htcondor"),
    )
    count: int = setting("nodes asked for each release", 1, minimum=1)
    quorum: int = setting("nodes that must answer, and all that answer must pass", 1, minimum=1)
    timeout_s: int = setting("time limit from submission to answer", 1800, minimum=1)
    poll_s: int = setting("time between two looks at a job", 10, minimum=1)
    queue: str = setting(
        "slurm: partition; arc: queue; empty: the default one", "", pattern=r"[A-Za-z0-9._-]+", example="pps"
    )
    options: tuple[str, ...] = setting(
        'further options of sbatch ("--qos=short"), attributes in xRSL ("(memory=500)"), or lines of the condor submit'
        ' file ("request_memory = 500")',
        (),
    )
    endpoint: str = setting("arc: the computing element, e.g. https://ce01.example.org/arex", "")
    proxy: Path | None = setting("X.509 proxy of the jobs, renewed by others; arc needs one", None)
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "variables of the batch system's commands, e.g. SLURM_CONF, CONDOR_CONFIG, X509_CERT_DIR, PATH"
        },
    )
    python: str = setting(
        "Python >= 3.9 on the nodes", "/usr/bin/python3", pattern=r"/[\x21-\x7e]{1,120}", example="/usr/bin/python3"
    )
    work: Path | None = setting("directory of jobs; slurm: nodes must see it too; unset: in paths.cache", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorSettings:
    """Where results go; an empty url keeps them in the outbox."""

    url: str = setting("address of the collector, e.g. https://pps.example.org:8443", "")
    ca: Path | None = setting("PEM file of the collector's CA; unset: the system's", None)
    timeout_s: int = setting("connect and read time limit of one request", 30, minimum=1)
    backfill_after_s: int = setting("results that waited longer travel in the backfill lane", 900, minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """The rhythm of `pps-agent run`."""

    interval_s: int = setting("time between two rounds", 900, minimum=5)
    refresh_interval_s: int = setting(
        "time between two looks for news, which untag at once what was withdrawn and start a round", 300, minimum=5
    )
    report_interval_s: int = setting("time between two tries to empty the outbox", 60, minimum=1)


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
