"""``disk-two-versions``: what a store takes that holds a client and its update."""

from collections.abc import Iterator

from benchmarks.measure import Claim, claim_at_most
from benchmarks.peers import Ostree
from benchmarks.site import open_site
from benchmarks.versions import LARGE, Versions, entries_of, files_of
from pps_agent.disk import BLOCK_BYTES, measure_used, round_up
from pps_wire.manifest import Directory, Link

_INLINE_LINK_BYTES = 60
"""Targets below this stand in the inode. Source: ext4(5) keeps fast symbolic links there."""


def measure() -> Iterator[Claim]:
    """Measure allocated blocks of the whole store against each content once, in whole blocks.

    What any two trees need beside contents counts as needed: a block a directory, and long link targets. What is the
    store's own (manifests, descriptions, generations) does not.
    """
    versions = Versions()
    first, update = versions.build_first(), versions.build_edited(LARGE)
    with open_site() as site:
        site.publish(first, update)
        for build in (first, update):
            site.install(build)
        site.settle()
        files = {(file.h, file.x): file.s for build in (first, update) for file in files_of(build)}
        needed = sum(round_up(size) for size in files.values())
        for build in (first, update):
            for entry in entries_of(build):
                long_link = isinstance(entry, Link) and len(entry.to.encode()) >= _INLINE_LINK_BYTES
                needed += BLOCK_BYTES * (long_link or isinstance(entry, Directory))
        used = measure_used(site.store)
        ostree = Ostree(site, {"first": versions.unpack_first(), "update": versions.unpack(update)})
        ostree.install("first")
        ostree.update("update")
        yield claim_at_most(
            "disk-two-versions", used, needed, unit="bytes", peer="unique contents and directories", limit=1.02
        )
        yield claim_at_most(
            "disk-two-versions", used, ostree.used_bytes(), unit="bytes", peer="ostree and two checkouts", limit=None
        )
