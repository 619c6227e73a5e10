"""The sections of the settings that concern tags, and the tree of these alone.

Tag commands start once for each tag, so they read no more than this; and a slip of the pen in ``[probes]`` takes no tag
off the information system. ``settings.py`` has the whole tree.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from pps_wire.names import Site, Subcluster, Vo

OTHER_SECTIONS: Final = frozenset(
    {
        "repository",
        "group",
        "policy",
        "store",
        "environment",
        "probes",
        "nodes",
        "collector",
        "daemon",
        "production",
    }
)
"""What tag commands pass over. A section that is not even here may be a mistyped one of theirs."""


def setting(help_text: str, default: Any = None, **kinds: Any) -> Any:
    """Give a field of a section, with its line of help and what its values must be like."""
    return field(default=default, metadata={"help": help_text, **kinds})


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """Who this site is."""

    name: Site = field(metadata={"help": "site name as the topology source writes it", "required": True})
    vos: tuple[Vo, ...] = field(metadata={"help": "VOs that may be offered previews here", "required": True})
    subclusters: tuple[Subcluster, ...] = setting("GlueSubClusterUniqueIDs that this store serves", ())
    hosts: tuple[str, ...] = setting(
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
class PathSettings:
    """Where things lie; relative paths are taken from the settings file's directory."""

    store: Path = setting("releases side by side", Path("/opt/pps-preview"))
    state: Path = setting("last good metadata, outbox, probe history, identity", Path("/var/lib/pps-agent"))
    cache: Path = setting(
        "partial downloads, last good tags; may be deleted, then run setup again", Path("/var/cache/pps-agent")
    )
    tags: Path = setting("base of the VO tag files, <base>/<subcluster>/<vo>/<vo>.list", Path("/opt/glite/var/info"))
    global_tags: Path = setting(
        "base of the global lists, <base>/<vo>/<vo>.list, which count for every subcluster", Path("/opt/edg/var/info")
    )
    journal: str = setting(
        "journal of state.db; auto: wal, and delete on network file systems",
        "auto",
        choices=("auto", "wal", "delete"),
    )
    probes: tuple[Path, ...] = setting("directories of the site's own probes, beside the shipped ones", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class InfosysSettings:
    """The information system that announces tags; an empty url means none."""

    url: str = setting("LDAP server that shows the tags, e.g. ldap://bdii.example.org:2170", "")
    mirrors: tuple[str, ...] = setting("further servers of the same tree, asked in order when the first is silent", ())
    base: str = setting("search base; below o=grid GLUE 1.3 is read, below o=glue GLUE 2", "o=grid")
    timeout_s: int = setting("connect and read time limit", 15, minimum=1)
    wait_s: int = setting(
        "how long `once` waits until a changed tag shows; the daemon follows it beside its rounds", 0, minimum=0
    )
    service: str = setting(
        "GLUE2ServiceID of the computing service that the subclusters belong to, as the static LDIF has it", ""
    )
    manager: str = setting("GLUE2ManagerID of that service; empty: <service>_Manager", "")
    ldif: Path | None = setting(
        "file in the BDII's ldif directory that the daemon keeps up to date with the tags in GLUE 2; unset: none", None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreproductionSettings:
    """A pre-production information system beside production's: subclusters, lists and servers of its own."""

    subclusters: tuple[Subcluster, ...] = setting(
        "GlueSubClusterUniqueIDs that are published there, none of them in site.subclusters; empty: no such system", ()
    )
    hosts: tuple[str, ...] = setting(
        "host names by which lcg-ManageVOTag means all of these",
        (),
        pattern=r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}",
        example="pps-ce.example.org",
    )
    tags: Path = setting("base of their VO tag files", Path("/opt/glite/var/info-preproduction"))
    global_tags: Path | None = setting("base of their global lists; unset: none", None)
    url: str = setting("LDAP server that shows their tags; empty: not looked at", "")
    mirrors: tuple[str, ...] = setting("further servers of the same tree", ())
    base: str = setting("search base", "o=grid")
    service: str = setting("GLUE2ServiceID of their computing service", "")
    manager: str = setting("GLUE2ManagerID of that service; empty: <service>_Manager", "")
    ldif: Path | None = setting("as infosys.ldif, for this system's BDII", None)


class TagSections(Protocol):
    """What the tag code asks of settings: the whole tree has it, and so has the one below."""

    @property
    def site(self) -> SiteSettings:
        """Who this site is."""

    @property
    def paths(self) -> PathSettings:
        """Where lists lie."""

    @property
    def infosys(self) -> InfosysSettings:
        """Production's information system."""

    @property
    def preproduction(self) -> PreproductionSettings:
        """The one beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSettings:
    """The tree of these sections."""

    site: SiteSettings
    paths: PathSettings = PathSettings()
    infosys: InfosysSettings = InfosysSettings()
    preproduction: PreproductionSettings = PreproductionSettings()
