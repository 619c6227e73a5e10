"""From a distribution's file system layout to a tree that runs anywhere: where each path goes.

Pure but for one thing: two files that come to lie at one place are compared.
"""

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pps_publisher.errors import PublishError
from pps_publisher.lint import Kind, Node

_DROPPED: Final = (
    "etc/cron.d",
    "etc/cron.daily",
    "etc/cron.hourly",
    "etc/cron.monthly",
    "etc/cron.weekly",
    "etc/default",
    "etc/init.d",
    "etc/logrotate.d",
    "lib/.build-id",
    "lib/systemd",
    "share/bash-completion",
    "share/bug",
    "share/doc",
    "share/doc-base",
    "share/info",
    "share/lintian",
    "share/locale",
    "share/man",
    "tmp",
    "var",
)
_ALTERNATIVES: Final = ("voms-proxy-destroy", "voms-proxy-info", "voms-proxy-init")
"""Commands that a maintainer script would link to their C (``2``) or Java (``3``) form."""


def relocate_path(path: str) -> str | None:
    """Give the place of a package's path in the tree, or None when it is not carried: ``usr/`` goes away.

    >>> relocate_path("usr/bin/xrdcp")
    'bin/xrdcp'
    """
    moved = "" if path == "usr" else path.removeprefix("usr/")
    if any(moved == dropped or moved.startswith(dropped + "/") for dropped in _DROPPED):
        return None
    return moved


def relocate(nodes: Iterable[Node]) -> dict[str, Node]:
    """Give a package tree's nodes at their new places, links adjusted, alternatives added.

    Raises: PublishError when two files come to lie at one place.
    """
    moved: dict[str, Node] = {}
    for node in nodes:
        path = relocate_path(node.path)
        if not path:
            continue
        to = _relocate_target(node, path) if node.kind is Kind.LINK else ""
        here = replace(node, path=path, to=to)
        twin = moved.get(path)
        if twin is not None and not _same(twin, here):
            raise PublishError(f"{twin.source} and {node.source} both become {path}; leave one of the packages out")
        moved[path] = here
    for name in _ALTERNATIVES:
        _add_alternative(moved, f"bin/{name}")
    return moved


def _relocate_target(node: Node, path: str) -> str:
    """Give a link's text at its new place: as it was where that still leads there, else from the tree's root."""
    target = posixpath.normpath(posixpath.join("/", posixpath.dirname(node.path), node.to)).lstrip("/")
    moved = relocate_path(target)
    if moved is None:
        return "/" + target  # dangles now, and is reported as such
    unchanged = posixpath.normpath(posixpath.join(posixpath.dirname(path), node.to)) == moved
    return node.to if unchanged else "/" + moved


def _same(one: Node, other: Node) -> bool:
    if one.kind is not other.kind:
        return False
    match one.kind:
        case Kind.DIRECTORY:
            return True
        case Kind.LINK:
            return one.to == other.to
        case Kind.FILE | Kind.OTHER:
            return one.source.read_bytes() == other.source.read_bytes()


def _add_alternative(nodes: dict[str, Node], path: str) -> None:
    for suffix in ("2", "3"):
        chosen = nodes.get(path + suffix)
        if path not in nodes and chosen is not None:
            nodes[path] = Node(path, Kind.LINK, chosen.source, to=posixpath.basename(path) + suffix)
