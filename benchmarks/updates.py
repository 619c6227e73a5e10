"""``update-wall`` and ``update-bytes``: two updates of the real client, beside ostree; others for information."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import Claim, alternate, claim_at_most, hash_tree, timed
from benchmarks.peers import Casync, Ostree, Zsync, serve_rsync
from benchmarks.site import Site, WarmSite, open_site
from benchmarks.versions import LARGE, SMALL, Edit, Versions, files_of
from demo.client import Build
from pps_agent.fetch import Fetcher

_ROUNDS = 5
_STARTS = {"refresh": "import pps_agent.cli.job, pps_agent.trust", "install": "import pps_agent.cli.job"}
"""What the two children of a cold update import before they do anything."""


def measure_wall() -> Iterator[Claim]:
    """Measure both updates: warm in this process, and cold as the two children a daemon starts."""
    versions = Versions()
    first = versions.build_first()
    for edit in (SMALL, LARGE):
        update = versions.build_edited(edit)
        trees = {"first": versions.unpack_first(), "update": versions.unpack(update)}
        with open_site() as site, ExitStack() as stack:
            site.publish(first, update)
            site.install(first)
            fetcher = stack.enter_context(Fetcher(30))
            yield from _measure_wall(site, WarmSite(site, fetcher), update, trees, edit, stack)


def _measure_wall(
    site: Site, warm: WarmSite, update: Build, trees: dict[str, Path], edit: Edit, stack: ExitStack
) -> Iterator[Claim]:
    ostree = Ostree(site, trees)
    ostree.install("first")
    target = site.base / "peer"
    zsync = Zsync(site, trees)
    others: dict[str, Callable[[], None]] = {
        "casync extract": lambda: casync.update("update", trees["first"], target),
        "rsync --link-dest": lambda: rsync.update("update", seed, target),
        "zsync and tar": lambda: zsync.update("update", zsync.archive("first"), target),
    }
    casync = Casync(site, trees)
    rsync = stack.enter_context(serve_rsync(site.base, trees))
    seed = site.base / "seed"
    shutil.copytree(trees["first"], seed, symlinks=True)

    def cold() -> None:
        site.refresh()
        site.install(update)

    def reset() -> None:
        site.forget(update)
        ostree.forget("update")
        shutil.rmtree(target, ignore_errors=True)
        site.settle()

    ostree.update("update")
    site.install(update)
    reset()
    seconds = alternate(
        lambda: ostree.update("update"),
        lambda: warm.update(update),
        cold,
        *others.values(),
        rounds=_ROUNDS,
        reset=reset,
    )
    peer_s, warm_s, cold_s, *rest = seconds
    peer = "ostree pull and checkout"
    name = f"update-wall {edit.files} files"
    again = {"hash_again_s": hash_tree(trees["update"])}
    starts = {f"start_{job}_s": timed([sys.executable, "-c", code]) for job, code in _STARTS.items()}
    yield claim_at_most(f"{name} warm", warm_s, peer_s, unit="s", peer=peer, limit=1.0, physical=again)
    yield claim_at_most(f"{name} cold", cold_s, peer_s, unit="s", peer=peer, limit=1.5, physical=again | starts)
    for other, other_s in zip(others, rest, strict=True):
        yield claim_at_most(f"{name} warm", warm_s, other_s, unit="s", peer=other, limit=None)


def measure_bytes() -> Iterator[Claim]:
    """Measure the body bytes of both updates against the changed contents' own frames and the manifest."""
    versions = Versions()
    first = versions.build_first()
    for edit in (SMALL, LARGE):
        update = versions.build_edited(edit)
        with open_site() as site:
            site.publish(first, update)
            site.install(first)
            facts = site.install(update)
            known = {file.h for file in files_of(first)}
            changed = {file.h: file.z for file in files_of(update) if file.h not in known}
            yield claim_at_most(
                f"update-bytes {edit.files} files",
                facts["bytes_moved"] + facts["manifest_bytes"],
                sum(changed.values()) + facts["manifest_bytes"],
                unit="bytes",
                peer=f"frames of the {len(changed)} changed contents + manifest",
                limit=1.03,
                note=f"{facts['requests']:g} requests",
            )
