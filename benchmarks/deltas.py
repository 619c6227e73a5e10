"""``update-bytes-delta``: what an update of real libraries moves, beside ostree's static delta of the same trees.

The trees hold libraries that a client carries, in the oldest and the newest version that Debian's archive
offers at the time: a stable release and its security updates. Only bytes are compared, not times.
"""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Claim, claim_at_most
from demo.programs import Server, run
from pps_publisher.build.release import Description, write_bundle
from pps_publisher.tree import load_tree
from pps_wire.names import Vo, parse_component, parse_platform, parse_version
from pps_wire.release import ReleaseClass, Requires

PACKAGES: Final = ("libcurl3-gnutls", "libcurl4", "libexpat1", "libglib2.0-0", "libssh2-1", "libssl3", "libxml2")
"""Libraries below gfal2, davix and xrootd that get security updates."""
_CACHE: Final = Path(".demo/cache/pair")


def measure_deltas() -> Iterator[Claim]:
    """Measure body bytes of deltas, frames and manifest of one update against the peer's files."""
    with tempfile.TemporaryDirectory(prefix="pps-bench-") as directory:
        base = Path(directory)
        pairs = {package: pair for package in PACKAGES if (pair := _find_pair(package)) is not None}
        if not pairs:
            raise RuntimeError("no package is there in two versions; run: apt-get update")
        for package, versions in pairs.items():
            for tree, version in zip(("1.0", "1.1"), versions, strict=True):
                _unpack(package, version, base / tree)
        said = " ".join(f"{package} {old}..{new}" for package, (old, new) in pairs.items())
        yield claim_at_most(
            "update-bytes-delta",
            _move_update(base),
            _weigh_static_delta(base),
            unit="bytes",
            peer=f"ostree static-delta of the same trees ({said})",
            limit=1.0,
        )


def _find_pair(package: str) -> tuple[str, str] | None:
    """Give the oldest and the newest version of a package that Debian's archive has, if they differ."""
    listed = subprocess.run(["apt-cache", "madison", package], capture_output=True, text=True, check=True).stdout
    versions = {line.split("|")[1].strip() for line in listed.splitlines() if "Packages" in line}
    ordered = sorted(versions, key=functools.cmp_to_key(_compare))
    return (ordered[0], ordered[-1]) if len(ordered) > 1 else None


def _compare(one: str, other: str) -> int:
    done = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False)
    return -1 if done.returncode == 0 else 1


def _unpack(package: str, version: str, tree: Path) -> None:
    place = _CACHE / f"{package}_{version}".replace(":", "_")
    if not list(place.glob("*.deb")):
        place.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", f"{package}={version}"]
        subprocess.run(command, cwd=place, check=True, stdout=sys.stderr)
    tree.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", next(place.glob("*.deb")), tree], check=True)
    # as the publisher does: a client carries no package's documentation
    shutil.rmtree(tree / "usr" / "share" / "doc", ignore_errors=True)


def _move_update(base: Path) -> int:
    """Publish both trees, the second with deltas; install them one after the other and count what the second moved."""
    repository, passphrase, config = base / "repository", base / "passphrase", base / "agent.toml"
    passphrase.write_text("benchmark\n")
    passphrase.chmod(0o600)

    def publisher(command: str, *arguments: object) -> None:
        run("pps-publish", [command, "--repo", repository, "--passphrase-file", passphrase, *arguments])

    def agent(job: str, stdin: str = "") -> Any:
        return run("pps-agent", ["--config", config, "job", job], stdin=stdin).json()

    publisher("init")
    served, keys = repository / "served", repository / "keys"
    with ExitStack() as stack:
        server = Server([sys.executable, "-m", "demo.static_server", served], base / "server.log")
        stack.callback(server.stop)
        url = next(word for word in server.first_line().split() if word.startswith("http://")).rstrip("/")
        config.write_text(
            f'[site]\nname = "BENCH"\nvos = ["dteam"]\n'
            f'[repository]\nurl = "{url}"\nroot = "{served}/metadata/1.root.json"\n'
            '[paths]\nstore = "store"\nstate = "state"\ntags = "tags"\n'
        )
        for name in ("releases", "staging", "generations"):
            (base / "store" / name).mkdir(parents=True)
        moved = 0
        for version in ("1.0", "1.1"):
            description = _write_build(base / version, version, base / f"build-{version}")
            publisher("publish", "--deltas", "--key", keys / "release-manager.pem", description)
            publisher("sign", "--key", keys / "sa3.pem")
            publisher("refresh", "--key", keys / "online.pem")
            offers = agent("refresh")["offered"]["offers"]
            offer = next(offer for offer in offers if offer["release"]["version"] == version)
            facts = agent("install", json.dumps(offer))["facts"]
            moved = int(facts["bytes_moved"] + facts["manifest_bytes"])
    return moved


def _write_build(tree: Path, version: str, directory: Path) -> Path:
    directory.mkdir()
    description = Description(
        component=parse_component("libraries"),
        version=parse_version(version),
        platform=parse_platform("x86_64-glibc2.36"),
        class_=ReleaseClass.CLIENT_BC,
        vos=(Vo("dteam"),),
        tag_suffix=f"pps-{version}",
        requires=Requires(arch="x86_64", glibc="2.36"),
    )
    write_bundle(load_tree(tree), description, directory)
    return directory


def _weigh_static_delta(base: Path) -> int:
    """Give the size of ostree's delta between the trees, everything in it: no object is left to be fetched apart."""
    repository = f"--repo={base / 'ostree'}"
    _ostree("init", repository, "--mode=archive")
    for tree in ("1.0", "1.1"):
        _ostree("commit", repository, f"--branch=v{tree}", f"--tree=dir={base / tree}", "--canonical-permissions")
    _ostree("static-delta", "generate", repository, "--from=v1.0", "--to=v1.1", "--min-fallback-size=0")
    return sum(path.stat().st_size for path in (base / "ostree" / "deltas").rglob("*") if path.is_file())


def _ostree(*arguments: str) -> None:
    subprocess.run(["ostree", *arguments], check=True, capture_output=True)
