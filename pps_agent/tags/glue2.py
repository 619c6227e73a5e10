"""GLUE 2 text for a BDII provider: one ApplicationEnvironment for each tag, complete entries.

The entries lie below the subcluster's ``GLUE2ResourceID``, which the site's static LDIF has, with the computing
service above it. bdii-update keeps one entry of a DN, whatever the letter case; so does this. Source: GFD.147 (GLUE
2.0) section 6.6, the LDAP rendering and Debian's glue-schema 2.0; RFC 2849; RFC 4514 for DNs. Pure.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pps_agent import __version__
from pps_agent.tags.snapshot import Shown
from pps_wire.errors import WireError
from pps_wire.names import Subcluster

DEFAULT_SUFFIX: Final = "GLUE2GroupID=resource,o=glue"
VALIDITY_S: Final = 3600
_SPECIAL: Final = re.compile(r'[\\,+"<>;=#]|^ | $|^#')
_DN: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]*=[!-~](?:[ -~]*[!-~])?$(?!\n)")
_PLAIN: Final = re.compile(r"[!-9;=-~][!-~]*$(?!\n)")
_BEFORE_VERSION: Final = re.compile(r"-(?=[0-9])")


class Place(NamedTuple):
    """Where a subcluster's entries hang: the ids of its computing service, that one's manager, and the tree above."""

    service: str
    manager: str = ""
    suffix: str = DEFAULT_SUFFIX

    @property
    def manager_id(self) -> str:
        """The manager's id; usually it is called after the service."""
        return self.manager or f"{self.service}_Manager"


def split_version(tag: str) -> tuple[str, str]:
    """Give name and version, parted as ARC does it: at the first dash before a digit; the version may be empty.

    Source: ARC 6.17, ARC1ClusterInfo.pm.
    """
    found = _BEFORE_VERSION.search(tag)
    return (tag[: found.start()], tag[found.end() :]) if found else (tag, "")


def render_glue2(
    subcluster: Subcluster, tags: Iterable[Shown], place: Place, host: str, at: datetime, version: str = __version__
) -> str:
    """Give the entries of one subcluster, each ending in a blank line.

    ``host`` and ``version`` say who published them. A tag that differs from an earlier one in letter case only is left
    out. Raises: WireError when an id or the suffix cannot stand in LDIF as it is.
    """
    if not place.service:
        raise WireError("service", "is not known: set infosys.service, or give --service")
    for name, text in (("service", place.service), ("manager", place.manager_id), ("host", host)):
        if _PLAIN.match(text) is None:
            raise WireError(name, f"{text[:80]!r} is no plain ASCII word: write it as the static LDIF does")
    if _DN.match(place.suffix) is None:
        raise WireError("suffix", f"{place.suffix[:80]!r} is not a usable DN: write it as the static LDIF does")
    above = f"GLUE2ResourceID={escape_rdn(subcluster)},GLUE2ServiceID={escape_rdn(place.service)},{place.suffix}"
    common = (
        "objectClass: GLUE2Entity\nobjectClass: GLUE2ApplicationEnvironment\n"
        f"GLUE2EntityCreationTime: {_format(at)}\nGLUE2EntityValidity: {VALIDITY_S}\n"
        "GLUE2EntityOtherInfo: InfoProviderName=pps-agent\n"
        f"GLUE2EntityOtherInfo: InfoProviderVersion={version}\nGLUE2EntityOtherInfo: InfoProviderHost={host}\n"
        f"GLUE2ApplicationEnvironmentComputingManagerForeignKey: {place.manager_id}\n"
        f"GLUE2ApplicationEnvironmentExecutionEnvironmentForeignKey: {subcluster}\n"
    )
    unique: dict[str, Shown] = {}
    for one in tags:
        unique.setdefault(one.tag.lower(), one)
    return "".join([_render(one, above, common) for one in unique.values()])


def is_glue2(base: str) -> bool:
    """Tell which schema lies below a search base: GLUE 2 has a root of its own."""
    return base.replace(" ", "").lower().endswith("o=glue")


def escape_rdn(value: str) -> str:
    """Give a value as it may stand in a DN."""
    return value if _SPECIAL.search(value) is None else _SPECIAL.sub(lambda found: f"\\{found[0]}", value)


def _render(one: Shown, above: str, common: str) -> str:
    tag = one.tag
    name, version = split_version(tag)
    parted = f"GLUE2ApplicationEnvironmentAppName: {name}\n"
    parted += f"GLUE2ApplicationEnvironmentAppVersion: {version}\n" if version else ""
    if one.life is not None:
        parted += f"GLUE2ApplicationEnvironmentState: {one.life.state.value}\n"
        if one.life.expires_at is not None:
            parted += f"GLUE2ApplicationEnvironmentRemovalDate: {_format_s(one.life.expires_at)}\n"
    # No character of a tag needs an escape in a DN: see names.parse_tag.
    return f"dn: GLUE2ApplicationEnvironmentID={tag},{above}\n{common}GLUE2ApplicationEnvironmentID: {tag}\n{parted}\n"


def _format(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _format_s(at_s: float) -> str:
    return _format(datetime.fromtimestamp(at_s, UTC))
