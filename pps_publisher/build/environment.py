"""What a tree's environment adds to the site's, from what stands in the tree. Pure.

Only what the tools cannot find by themselves: libraries are found by paths inside the programs, not by variables.
ARC_LOCATION and GLOBUS_LOCATION would name the tree's root, which an overlay cannot; none of the
tested commands needs them. Site-owned variables (X509_*, VO_*, MYPROXY_SERVER…) are never set.
"""

import fnmatch
from collections.abc import Mapping
from typing import Final

from pps_publisher.lint import Kind, Tree
from pps_wire.release import Overlay

_PREPEND: Final[Mapping[str, tuple[str, ...]]] = {
    "PATH": ("bin", "sbin", "usr/bin", "usr/sbin"),
    "PYTHONPATH": (
        "lib/python3/dist-packages",
        "lib/python3*/site-packages",
        "lib64/python3*/site-packages",
        "usr/lib/python3*/site-packages",
        "usr/lib64/python3*/site-packages",
    ),
}
_ASSIGN: Final[Mapping[str, tuple[str, ...]]] = {
    "ARC_PLUGIN_PATH": ("lib/arc", "lib64/arc", "usr/lib64/arc"),
    "GFAL_CONFIG_DIR": ("etc/gfal2.d",),
    "GFAL_PLUGIN_DIR": (
        "lib/*/gfal2-plugins",
        "lib64/gfal2-plugins",
        "lib/gfal2-plugins",
        "usr/lib64/gfal2-plugins",
    ),
    "XRD_PLUGINCONFDIR": ("etc/xrootd/client.plugins.d",),
}


def overlay_of(tree: Tree) -> Overlay:
    """Give the overlay that the tree's directories call for; of several candidates all are prepended, one assigned."""
    directories = [node.path for node in tree.nodes if node.kind is Kind.DIRECTORY]
    prepend = {name: _matches(patterns, directories) for name, patterns in _PREPEND.items()}
    assign = {name: _matches(patterns, directories) for name, patterns in _ASSIGN.items()}
    return Overlay(
        prepend={name: found for name, found in prepend.items() if found},
        assign={name: found[0] for name, found in assign.items() if found},
    )


def _matches(patterns: tuple[str, ...], directories: list[str]) -> tuple[str, ...]:
    return tuple(
        directory
        for pattern in patterns
        for directory in directories
        if directory.count("/") == pattern.count("/") and fnmatch.fnmatchcase(directory, pattern)
    )
