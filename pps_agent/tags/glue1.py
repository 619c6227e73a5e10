"""GLUE 1.3 text for a BDII plugin: the tags of one subcluster, added to the entry the site's static LDIF makes.

Source: GLUE schema 1.3 (GlueSubCluster); RFC 2849; bdii-update, which merges a plugin's
``changetype: modify`` into the entry of the same DN whether or not it has the attribute already.
"""

import re
from collections.abc import Iterable
from typing import Final

from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag

ATTRIBUTE: Final = "GlueHostApplicationSoftwareRunTimeEnvironment"
DEFAULT_SUFFIX: Final = "mds-vo-name=resource,o=grid"

_DN: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]*=[!-~](?:[ -~]*[!-~])?$(?!\n)")
_VALUE: Final = re.compile(r"[!-9;=-~][!-~]*$(?!\n)")


def subcluster_dn(subcluster: Subcluster, cluster: str = "", suffix: str = DEFAULT_SUFFIX) -> str:
    """Give the entry's usual DN; most sites give cluster and subcluster one name, so ``cluster`` may be empty."""
    return f"GlueSubClusterUniqueID={subcluster},GlueClusterUniqueID={cluster or subcluster},{suffix}"


def render_glue1(dn: str, tags: Iterable[Tag]) -> str:
    """Give the LDIF that adds the tags to the entry ``dn``, ending in a blank line; nothing when no tag is left.

    Sorted; of tags that differ in letter case only the first is given, and what LDAP could not
    take as it stands (not ASCII, blank, ``dn:`` inside) is left out, since one such value would make slapd
    or bdii-update drop all the others. Raises: WireError when the DN is not one printable ASCII line.
    """
    if _DN.match(dn) is None:
        raise WireError("dn", f"{dn[:80]!r} is not a usable DN: write it as the static LDIF does, on one ASCII line")
    unique: dict[str, str] = {}
    for tag in filter(_VALUE.match, sorted(tags)):
        folded = tag.lower()
        if "dn:" not in folded:
            unique.setdefault(folded, tag)
    if not unique:
        return ""
    values = "".join([f"{ATTRIBUTE}: {tag}\n" for tag in unique.values()])
    return f"dn: {dn}\nchangetype: modify\nadd: {ATTRIBUTE}\n{values}\n"


def parse_glue1(text: str) -> dict[str, tuple[str, ...]]:
    """Read back such LDIF (or an entry of ``ldapsearch -LLL``): tags by DN, in order.

    Takes any text; lines of other attributes are skipped. Raises: nothing.
    """
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for line in text.replace("\n ", "").split("\n"):
        name, _, value = line.partition(": ")
        if name.lower() == "dn":
            values = found.setdefault(value, [])
        elif name.lower() == ATTRIBUTE.lower():
            values.append(value)
    return {dn: tuple(tags) for dn, tags in found.items()}
