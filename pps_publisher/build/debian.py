"""A tree from Debian's packages: downloaded through apt, unpacked, never installed.

apt verifies the archive's signatures and each package's hash; the hash is checked again here, since
packages are kept in a cache directory between builds. Maintainer scripts do not run.
"""

import hashlib
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_publisher.build.base_set import is_base
from pps_publisher.build.closure import Graph, close, parse_depends
from pps_publisher.build.programs import call, demand, last_lines
from pps_publisher.build.relocation import relocate
from pps_publisher.errors import FetchError, SiteError, UsageError
from pps_publisher.files import hash_file
from pps_publisher.lint import Tree, normalise
from pps_publisher.tree import lay_over, observe_tree

GRID_CLIENTS: Final = (
    "davix",
    "gfal2-plugin-file",
    "gfal2-plugin-gridftp",
    "gfal2-plugin-http",
    "gfal2-plugin-srm",
    "gfal2-plugin-xrootd",
    "gfal2-util-scripts",
    "globus-gass-copy-progs",
    "globus-proxy-utils",
    "myproxy",
    "nordugrid-arc-client",
    "nordugrid-arc-plugins-globus",
    "python3-gfal2-util",
    "voms-clients",
    "xrootd-client",
)
"""The clients of a grid user, when no package is named."""

_PROGRAMS: Final = ("apt-cache", "apt-get", "dpkg-deb")
_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9+.-]+$")
_URI: Final = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<kind>\w+):(?P<hash>[0-9a-f]+)$")
_QUERY_S: Final = 120
_DOWNLOAD_S: Final = 1800
UNPACK_S: Final = 300
"""Longest time for one package."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package file as apt would fetch it."""

    file_name: str
    size_bytes: int
    hash_name: str
    digest: str


def load_debian_tree(wanted: tuple[str, ...], cache: Path, work: Path, overlays: tuple[Path, ...] = ()) -> Tree:
    """Give the normalised tree of Debian packages and all they need outside the base set.

    Packages are kept in ``cache``, unpacked below ``work``. Raises: SiteError where apt is missing or
    fails; UsageError for an unknown package; FetchError when a download fails; PublishError.
    """
    demand_apt()
    packages = resolve(wanted or GRID_CLIENTS)
    files = fetch_packages(packages, cache)
    root = work / "unpacked"
    root.mkdir(parents=True)
    for file in files:
        demand(["dpkg-deb", "--extract", str(file), str(root)], UNPACK_S)
    nodes = relocate(observe_tree(root))
    for overlay in overlays:
        lay_over(nodes, observe_tree(overlay))
    return normalise(nodes.values())


def observe_os() -> str:
    """Give this machine's OS id as platforms name it, e.g. ``debian12``; empty when it does not say."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return release.get("ID", "") + release.get("VERSION_ID", "").partition(".")[0]


def demand_apt() -> None:
    """Refuse to go on where Debian's tools are not. Raises: SiteError."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SiteError(f"{', '.join(missing)}: not on this machine; build with --from-tree from an unpacked client")


def resolve(wanted: Iterable[str]) -> tuple[str, ...]:
    """Give the packages a tree must carry for ``wanted``, sorted. Raises: UsageError, SiteError, PublishError."""
    names = tuple(wanted)
    return close(_graph_of(names), names, is_base)


def close_over(wanted: Iterable[str]) -> tuple[str, ...]:
    """Give ``wanted`` and all they need, the base set too, sorted. Raises: UsageError, SiteError, PublishError."""
    names = tuple(wanted)
    return close(_graph_of(names), names, lambda _: False)


def resolve_base(wanted: Iterable[str]) -> tuple[str, ...]:
    """Give the base packages that a tree of ``wanted`` counts on, sorted. Raises: as ``resolve``."""
    names = tuple(wanted)
    graph = _graph_of(names)
    needs = (dependency.names for name in close(graph, names, is_base) for dependency in graph.get(name, ()))
    first = (next((name for name in found if is_base(name) and name in graph), "") for found in needs)
    return tuple(sorted(set(first) - {""}))


def _graph_of(names: tuple[str, ...]) -> Graph:
    for name in names:
        if not _NAME.match(name):
            raise UsageError(f"{name!r} is not a package name; write e.g. xrootd-client")
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = ["--recurse", *(f"--no-{kind}" for kind in kinds)]
    result = call(["apt-cache", "depends", *options, *names], _QUERY_S)
    graph = parse_depends(result.stdout)
    unknown = [name for name in names if name not in graph]
    if unknown:
        raise UsageError(f"apt knows no package {', '.join(unknown)}; run 'apt-get update' or correct the name")
    if result.returncode:
        raise SiteError(f"apt-cache depends failed: {last_lines(result.stderr)}; try it by hand")
    return graph


def fetch_packages(packages: tuple[str, ...], cache: Path) -> tuple[Path, ...]:
    """Bring the packages' files into ``cache`` and give them; what is there and intact is not fetched again.

    Raises: SiteError, FetchError, OSError.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as empty:  # apt lists only what its working directory does not hold
        known = parse_uris(demand([*_apt_get("download"), "--print-uris", *packages], _QUERY_S, Path(empty)))
    by_name = {package.file_name.partition("_")[0]: package for package in known}
    missing = [name for name, package in by_name.items() if not _intact(cache / package.file_name, package)]
    if missing:
        result = call([*_apt_get("download"), *missing], _DOWNLOAD_S, cache)
        if result.returncode:
            raise FetchError(f"apt could not download {len(missing)} packages: {last_lines(result.stderr)}; try again")
    for package in by_name.values():
        if not _intact(cache / package.file_name, package):
            raise FetchError(f"{cache / package.file_name}: is not what apt's index says; delete it and try again")
    return tuple(cache / package.file_name for package in sorted(by_name.values(), key=lambda item: item.file_name))


def parse_uris(text: str) -> tuple[Package, ...]:
    """Read what ``apt-get download --print-uris`` prints: address, file name, size, hash."""
    return tuple(_packages(text))


def _packages(text: str) -> Iterator[Package]:
    for line in text.splitlines():
        if match := _URI.match(line.strip()):
            yield Package(match["file"], int(match["size"]), match["kind"].lower(), match["hash"])


def _intact(path: Path, package: Package) -> bool:
    if not path.exists() or path.stat().st_size != package.size_bytes:
        return False
    if package.hash_name == "sha256":
        return hash_file(path) == package.digest
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, package.hash_name).hexdigest() == package.digest


def _apt_get(verb: str) -> list[str]:
    # apt drops to user _apt for downloads, who may not write into the cache directory
    return ["apt-get", "-q", "-o", "APT::Sandbox::User=root", verb]
