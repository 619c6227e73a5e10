"""``install-full`` and ``update-bytes``: a verified install of the real client, and what an update moves."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Claim, alternate, claim_at_most
from demo.client import PROBES, Build, Clients
from demo.programs import Server, run
from pps_agent.frames import unpack_manifest
from pps_wire.manifest import File

_CACHE = Path(".demo/cache")


def measure_install() -> Iterator[Claim]:
    """Measure the whole ``job install`` process against ``curl | tar --zstd -x`` and syncfs of the same files."""
    with _site() as site:
        build = site.publish(site.clients.build_first())
        artifact = f"{site.url}/{build.release['artifact']['path']}"
        peer_tree = site.base / "peer"

        def peer() -> None:
            script = 'curl -sf "$1" | tar --zstd -x -C "$2" && sync -f "$2"'
            subprocess.run(["bash", "-o", "pipefail", "-c", script, "peer", artifact, peer_tree], check=True)

        def project() -> None:
            site.install(build)

        peer_s, project_s = alternate(peer, project, rounds=9, reset=site.clear)
        yield claim_at_most(
            "install-full",
            project_s,
            peer_s,
            unit="s",
            peer="curl | tar --zstd -x && sync -f, same artifact, same server",
            limit=2.0,
        )


def measure_update() -> Iterator[Claim]:
    """Measure the body bytes an update moves against the changed files' own frames and the manifest."""
    with _site() as site:
        first, update = site.clients.build_first(), site.clients.build_update()
        site.clear()
        site.publish(first)
        site.install(first)
        site.publish(update)
        facts = site.install(update)
        moved = facts["bytes_moved"] + facts["manifest_bytes"]
        known = {file.h for file in _files(first)}
        changed = {file.h: file.z for file in _files(update) if file.h not in known}
        manifest = next(update.directory.glob("*.manifest.zst")).stat().st_size
        yield claim_at_most(
            "update-bytes",
            moved,
            sum(changed.values()) + manifest,
            unit="bytes",
            peer=f"frames of the {len(changed)} changed contents + manifest",
            limit=1.03,
        )


class _Site:
    """A repository, its server and a site's settings in one throw-away directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.clients = Clients(_CACHE, None, PROBES)
        self.url = ""
        self._repository = base / "repository"
        self._config = base / "agent.toml"
        self._passphrase = base / "passphrase"
        self._offers: dict[str, Any] = {}

    def start(self, stack: contextlib.ExitStack) -> None:
        self._passphrase.write_text("benchmark\n")
        self._passphrase.chmod(0o600)
        self._publisher("init")
        served = self._repository / "served"
        server = Server([sys.executable, "-m", "demo.static_server", served], self.base / "server.log")
        stack.callback(server.stop)
        self.url = next(word for word in server.first_line().split() if word.startswith("http://")).rstrip("/")
        root = served / "metadata" / "1.root.json"
        self._config.write_text(
            f'[site]\nname = "BENCH"\nvos = ["dteam"]\n[repository]\nurl = "{self.url}"\nroot = "{root}"\n'
            '[paths]\nstore = "store"\nstate = "state"\ntags = "tags"\n'
        )

    def publish(self, build: Build) -> Build:
        keys = self._repository / "keys"
        self._publisher("publish", "--key", keys / "release-manager.pem", build.directory)
        self._publisher("sign", "--key", keys / "sa3.pem")
        self._publisher("refresh", "--key", keys / "online.pem")
        offered = self._agent("refresh")["offered"]
        paths = {offer["release"]["artifact"]["path"]: offer for offer in offered["offers"]}
        self._offers = {Path(path).name.removesuffix(".tar.zst"): offer for path, offer in paths.items()}
        return build

    def install(self, build: Build) -> dict[str, float]:
        reply = self._agent("install", stdin=json.dumps(self._offers[build.id]))
        if reply.get("failure"):
            raise RuntimeError(f"install failed: {reply['failure']}")
        facts: dict[str, float] = reply["facts"]
        return facts

    def clear(self) -> None:
        for name in ("store", "peer"):
            shutil.rmtree(self.base / name, ignore_errors=True)
        for name in ("peer", "store/releases", "store/staging", "store/generations"):
            (self.base / name).mkdir(parents=True)

    def _agent(self, job: str, *, stdin: str = "") -> Any:
        return run("pps-agent", ["--config", self._config, "job", job], stdin=stdin).json()

    def _publisher(self, command: str, *arguments: object) -> None:
        run("pps-publish", [command, "--repo", self._repository, "--passphrase-file", self._passphrase, *arguments])


@contextlib.contextmanager
def _site() -> Iterator[_Site]:
    with tempfile.TemporaryDirectory(prefix="pps-bench-") as base, contextlib.ExitStack() as stack:
        site = _Site(Path(base))
        site.start(stack)
        yield site


def _files(build: Build) -> list[File]:
    raw = next(build.directory.glob("*.manifest.zst")).read_bytes()
    return list(unpack_manifest(raw).files())
