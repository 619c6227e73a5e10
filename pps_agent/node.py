"""What this machine offers to a release. Looks, changes nothing."""

import os
import platform

from pps_agent.state import NodeFacts


def observe_node() -> NodeFacts:
    """Give architecture, glibc version and OS id of this machine.

    A C library that is not glibc counts as version 0.0, so that every release refuses it.
    """
    return NodeFacts(arch=platform.machine(), glibc=_observe_glibc(), os=_observe_os())


def _observe_glibc() -> tuple[int, int]:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else (0, 0)
    except ValueError:
        return (0, 0)


def _observe_os() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return release.get("ID", "") + release.get("VERSION_ID", "").partition(".")[0]
