"""``install-full``: a verified install of the real client beside an unverified ``tar``, and beside ostree."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Claim, alternate, claim_at_most, hash_tree, timed
from benchmarks.peers import Ostree, unpack_with_tar
from benchmarks.site import Site, open_site
from benchmarks.versions import Versions
from demo.client import Build


def measure() -> Iterator[Claim]:
    """Measure the whole ``job install`` process; both peers install the same client from the same server."""
    versions = Versions()
    first = versions.build_first()
    with open_site() as site:
        site.publish(first)
        tree = versions.unpack_first()
        ostree = Ostree(site, {"first": tree})
        target = site.base / "peer"

        def reset() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            ostree.clear()
            site.clear()

        url = site.artifact_url(first)
        tar_s, ostree_s, project_s = alternate(
            lambda: unpack_with_tar(url, target),
            lambda: ostree.install("first"),
            lambda: site.install(first),
            rounds=5,
            reset=reset,
        )
        reset()
        limits = _bare_steps(site, first, tree, target)
        peer = "curl | tar --zstd -x && sync -f, unverified"
        yield claim_at_most("install-full", project_s, tar_s, unit="s", peer=peer, limit=1.25, physical=limits)
        yield claim_at_most(
            "install-full ostree", project_s, ostree_s, unit="s", peer="ostree pull and checkout", limit=0.7
        )


def _bare_steps(site: Site, build: Build, tree: Path, target: Path) -> dict[str, float]:
    """Give what each step costs by itself, in one thread and one process, and what a child's start costs."""
    artifact = next(build.directory.glob("*.tar.zst"))
    plain = site.base / "plain.tar"
    with plain.open("wb") as stream:
        subprocess.run(["zstd", "-dcq", artifact], check=True, stdout=stream)
    program = site.install_command()[0]
    return {
        "read_s": timed(["curl", "-sf", "-o", "/dev/null", site.artifact_url(build)]),
        "decompress_s": timed(["zstd", "-dqf", "-o", "/dev/null", str(artifact)]),
        "write_s": timed(["bash", "-c", 'tar -xf "$1" -C "$2" && sync -f "$2"', "write", str(plain), str(target)]),
        "hash_s": hash_tree(tree),
        "start_s": timed([program, "job", "install", "--help"]),
    }
