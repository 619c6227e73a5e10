"""A repository behind nginx, and a site that installs from it, in one throw-away directory."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from demo.client import Build
from demo.programs import find_program, run
from pps_agent.fetch import Fetcher
from pps_agent.install import install
from pps_agent.mirror_source import MirrorSource
from pps_agent.mirrors import Mirrors
from pps_agent.settings import StoreSettings
from pps_agent.state import Offer
from pps_agent.store import Store
from pps_agent.trust import Trust

_START_S: Final = 10
_NGINX: Final = """
daemon off; pid {base}/nginx.pid; error_log {base}/nginx.error; {user}
worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  default_type application/octet-stream;
  client_body_temp_path {base}/nginx.body; proxy_temp_path {base}/nginx.proxy;
  fastcgi_temp_path {base}/nginx.fastcgi; uwsgi_temp_path {base}/nginx.uwsgi; scgi_temp_path {base}/nginx.scgi;
  server {{ listen 127.0.0.1:{port}; root {base}/www; }}
}}
"""


class Site:
    """One server for the project and its peers: everything below ``www`` is served as it is."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.www = base / "www"
        self.url = ""
        self.store = base / "store"
        self.config = base / "agent.toml"
        self._repository = self.www / "repository"
        self._passphrase = base / "passphrase"
        self._offers: dict[str, Any] = {}

    def start(self, stack: contextlib.ExitStack) -> None:
        """Make an empty repository and serve it."""
        self.www.mkdir()
        self._passphrase.write_text("benchmark\n")
        self._passphrase.chmod(0o600)
        self._publisher("init")
        self.url = stack.enter_context(serve(self.base))
        served = self._repository / "served"
        self.config.write_text(
            f'[site]\nname = "BENCH"\nvos = ["dteam"]\n'
            f'[repository]\nurl = "{self.repository_url}"\nroot = "{served}/metadata/1.root.json"\n'
            '[paths]\nstore = "store"\nstate = "state"\ntags = "tags"\n'
        )
        self.clear()

    @property
    def repository_url(self) -> str:
        """Where the repository is served."""
        return f"{self.url}/repository/served"

    def artifact_url(self, build: Build) -> str:
        """Give where a build's artifact is served."""
        return f"{self.repository_url}/{build.release['artifact']['path']}"

    def publish(self, *builds: Build) -> None:
        """Publish builds with both signatures, and let the site see them."""
        keys = self._repository / "keys"
        for build in builds:
            self._publisher("publish", "--key", keys / "release-manager.pem", build.directory)
            self._publisher("sign", "--key", keys / "sa3.pem")
        self._publisher("refresh", "--key", keys / "online.pem")
        offered = self.refresh()["offered"]
        paths = {offer["release"]["artifact"]["path"]: offer for offer in offered["offers"]}
        self._offers = {Path(path).name.removesuffix(".tar.zst"): offer for path, offer in paths.items()}

    def refresh(self) -> Any:
        """Verify the newest metadata, as the daemon does: in a child."""
        return run("pps-agent", ["--config", self.config, "job", "refresh"]).json()

    def install(self, build: Build) -> dict[str, float]:
        """Install a build, as the daemon does: in a child."""
        reply = run("pps-agent", self.install_command()[1:], stdin=self.offer_text(build)).json()
        if reply.get("failure"):
            raise RuntimeError(f"install failed: {reply['failure']}")
        facts: dict[str, float] = reply["facts"]
        return facts

    def install_command(self) -> list[str]:
        """Give the command that installs the offer on its stdin."""
        return [find_program("pps-agent"), "--config", str(self.config), "job", "install"]

    def offer_text(self, build: Build) -> str:
        """Give the verified offer of a build."""
        return json.dumps(self._offers[build.id])

    def forget(self, build: Build) -> None:
        """Remove a build from the store."""
        Store(self.store).remove(self._release(build))

    def clear(self) -> None:
        """Empty the store, durably, so that nobody's next flush pays for it."""
        shutil.rmtree(self.store, ignore_errors=True)
        Store(self.store).ensure()
        self.settle()

    def settle(self) -> None:
        """Let nothing wait to be written."""
        subprocess.run(["sync", "-f", self.base], check=True)

    def _release(self, build: Build) -> Any:
        return build.id

    def _publisher(self, command: str, *arguments: object) -> None:
        run("pps-publish", [command, "--repo", self._repository, "--passphrase-file", self._passphrase, *arguments])


class WarmSite:
    """The agent's parts, opened and connected, in this process."""

    def __init__(self, site: Site, fetcher: Fetcher) -> None:
        root = (site.www / "repository" / "served" / "metadata" / "1.root.json").read_bytes()
        self._mirrors = Mirrors(fetcher, (site.repository_url,), site.base / "warm-mirrors.json")
        self._trust = Trust(site.base / "warm-tuf", root, self._mirrors)
        self._store = Store(site.store)

    def update(self, build: Build) -> None:
        """Verify the newest metadata and install a build."""
        offer = self._find(build)
        artifact = offer.release.artifact
        source = MirrorSource(self._mirrors, artifact.path, artifact.length)
        install(self._store, offer, self._trust.fetch_manifest(offer), source, StoreSettings())

    def _find(self, build: Build) -> Offer:
        return next(offer for offer in self._trust.refresh(datetime.now(UTC)).offers if offer.release.id == build.id)


@contextlib.contextmanager
def open_site() -> Iterator[Site]:
    """Give a site whose server runs until the end."""
    with tempfile.TemporaryDirectory(prefix="pps-bench-") as base, contextlib.ExitStack() as stack:
        site = Site(Path(base))
        site.start(stack)
        yield site


@contextlib.contextmanager
def serve(base: Path) -> Iterator[str]:
    """Serve ``base/www`` by nginx on a free port of the loopback; give the address."""
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = base / "nginx.conf"
    config.write_text(_NGINX.format(base=base, port=port, user=user))
    process = subprocess.Popen(["/usr/sbin/nginx", "-c", config, "-e", base / "nginx.error"])
    try:
        await_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Give a port of the loopback that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers on the loopback. Raises: OSError when it ended or takes too long."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
