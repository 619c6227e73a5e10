"""Where a client comes from, and what follows from that: the four sources behind one function."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pps_publisher.build.base_root import load_debian_root
from pps_publisher.build.clean_root import CleanRoot, open_clean_root
from pps_publisher.build.debian import GRID_CLIENTS, load_debian_tree, observe_os, resolve_base
from pps_publisher.build.rpm import load_rpm_tree
from pps_publisher.build.tarball import load_tarball_tree
from pps_publisher.errors import UsageError
from pps_publisher.lint import Tree
from pps_publisher.tree import load_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the release manager names as the client's source; exactly one of the first four is given."""

    directory: Path | None = None
    debian: bool = False
    rpms: tuple[Path, ...] = ()
    tarball: Path | None = None
    packages: tuple[str, ...] = ()
    rpm_keys: tuple[Path, ...] = ()
    overlays: tuple[Path, ...] = ()
    strip: int | None = None
    prefix: str | None = None
    os: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A tree, the OS it is bound to (empty: none), and what only its source can tell, for the report."""

    tree: Tree
    os: str
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON-like; e.g. ``{"packages": [...], "signed_by": []}`` for RPM packages."""


def load_source(origin: Origin, cache: Path, work: Path) -> Source:
    """Give the tree of a client, with scratch files below ``work``. Raises: UsageError and as each source does."""
    refuse_contradiction(origin)
    if origin.directory is not None:
        return Source(load_tree(origin.directory, origin.overlays), origin.os or "", {"source": "tree"})
    if origin.debian:
        tree = load_debian_tree(origin.packages, cache, work, origin.overlays)
        # Debian packages rely on the base set of their own release, whatever glibc they ask for.
        return Source(tree, observe_os() if origin.os is None else origin.os, {"source": "debian"})
    if origin.tarball is not None:
        read = load_tarball_tree(origin.tarball, work, origin.overlays, strip=origin.strip, prefix=origin.prefix or "/")
        return Source(read.tree, origin.os or "", {"source": "tarball", "stripped_directories": read.stripped})
    found = load_rpm_tree(origin.rpms, origin.rpm_keys, work, origin.overlays, origin.os)
    facts = {
        "source": "rpm",
        "packages": found.packages,
        "signed_by": found.signed_by,
        "package_requires": found.requires,
    }
    return Source(found.tree, found.os, facts)


def refuse_contradiction(origin: Origin) -> None:
    """Refuse no source, several of them, and options that belong to another one. Raises: UsageError."""
    if [origin.directory is not None, origin.debian, bool(origin.rpms), origin.tarball is not None].count(True) != 1:
        raise UsageError(
            "say where the client comes from: one of --from-tree DIR, --from-debian, --from-rpm FILE or "
            "--from-tarball FILE"
        )
    if origin.packages and not origin.debian:
        raise UsageError("--package belongs to --from-debian; lay files over a tree with --overlay")
    if origin.rpm_keys and not origin.rpms:
        raise UsageError("--rpm-key belongs to --from-rpm; leave it out")
    if (origin.strip is not None or origin.prefix is not None) and origin.tarball is None:
        raise UsageError("--strip-components and --prefix belong to --from-tarball; leave them out")


def load_root(origin: Origin, given: Path | None, cache: Path) -> CleanRoot:
    """Give the clean root for a source: the directory that was named, else the base system of Debian's packages.

    Raises: UsageError where there is neither; SiteError, FetchError, OSError.
    """
    if given is not None:
        return open_clean_root(given)
    if origin.rpms or shutil.which("apt-get") is None:
        raise UsageError(
            "no base system to prove the tree over: name the unpacked root of one with --clean-root DIR "
            "(e.g. made by 'dnf --installroot DIR'), or say --no-clean-root"
        )
    return load_debian_root(cache, resolve_base(origin.packages or GRID_CLIENTS) if origin.debian else ())
