"""What the nodes of this host group offer to a release. Looks, changes nothing."""

import os
import platform
import re
from collections.abc import Mapping
from typing import Final

from pps_agent.settings import GroupSettings
from pps_agent.state import NodeFacts

_EL: Final = re.compile(r"^el\d+$")


def describe_nodes(group: GroupSettings) -> NodeFacts:
    """Give what the nodes of a host group offer: what its settings say, else what this machine is."""
    here = observe_node()
    major, _, minor = group.glibc.partition(".")
    return NodeFacts(
        arch=group.arch or here.arch,
        glibc=(int(major), int(minor)) if group.glibc else here.glibc,
        os=group.os or here.os,
        os_family="" if group.os else here.os_family,
    )


def observe_node() -> NodeFacts:
    """Give architecture, glibc version and OS id of this machine.

    A C library that is not glibc counts as version 0.0, so that every release refuses it.
    """
    os_id, os_family = _observe_os()
    return NodeFacts(arch=platform.machine(), glibc=_observe_glibc(), os=os_id, os_family=os_family)


def _observe_glibc() -> tuple[int, int]:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else (0, 0)
    except ValueError:
        return (0, 0)


def _observe_os() -> tuple[str, str]:
    """Give the OS id, and that of the family whose packages it runs, where it says so."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    major = release.get("VERSION_ID", "").partition(".")[0]
    return release.get("ID", "") + major, family_of(release)


def family_of(release: Mapping[str, str]) -> str:
    """Give the family of a rebuild of Enterprise Linux from its os-release, e.g. ``el9`` for Rocky, AlmaLinux, RHEL 9.

    All of them run packages with the dist tag ``.el9``; PLATFORM_ID says so since EL 8, before it
    only ID_LIKE does. Empty for others: a derivative of Debian need not run Debian's packages.
    """
    platform_id = release.get("PLATFORM_ID", "").removeprefix("platform:")
    if platform_id:
        return platform_id if _EL.match(platform_id) else ""
    likes = (release.get("ID", ""), *release.get("ID_LIKE", "").split())
    major = release.get("VERSION_ID", "").partition(".")[0]
    return f"el{major}" if major and "rhel" in likes else ""
