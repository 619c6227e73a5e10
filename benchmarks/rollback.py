"""``rollback``: what it costs beside an interpreter that only imports what the command needs; asks no server."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Claim, alternate, claim_at_most, process
from pps_agent.store import Store
from pps_wire.names import Component
from tests.distribution.site import Site
from tests.support.repository import SmallRepository, serve
from tests.support.site import SmallSite

_COMPONENT = Component("grid-clients")
_FILES = 600
"""As many as the real client has."""


def measure() -> Iterator[Claim]:
    """Measure ``release rollback`` (target 1.3) and count its requests (target 0)."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        repository = SmallRepository(base / "publisher")
        with serve(repository.served) as server:
            site = SmallSite(base / "site", server.url, repository.root_bytes)
            store = _install_two(site, repository, server.url)
            first, second = store.ids()

            def reset() -> None:
                for path in site.state.glob("state.db*"):
                    path.unlink()
                store.switch(_COMPONENT, first)
                store.switch(_COMPONENT, second)

            reset()
            server.requests.clear()
            program = str(Path(sys.executable).with_name("pps-agent"))
            command = [program, "--config", str(site.config), "release", "rollback", str(_COMPONENT)]
            imports = process([sys.executable, "-c", f"import {', '.join(_imported(command))}"])
            floor, taken = alternate(imports, process(command), reset=reset)
            peer = "the same interpreter, importing the same modules"
            yield claim_at_most("rollback", taken * 1e3, floor * 1e3, unit="ms", peer=peer, limit=1.3)
            requests = len(server.requests)
            yield Claim("rollback requests", requests, "requests", "none", 0, requests, "0", requests == 0)


def _install_two(site: SmallSite, repository: SmallRepository, url: str) -> Store:
    opened = Site(site.base, repository.root_bytes, url)
    try:
        for version in ("1.0.0", "1.0.1"):
            files = {f"lib/{number}": f"{number}\n".encode() for number in range(_FILES)}
            opened.install(repository.publish(files | {"VERSION": version.encode()}, version=version))
    finally:
        opened.close()
    return opened.store


def _imported(command: list[str]) -> list[str]:
    """Ask one run, in thought only, which modules it imported."""
    code = (
        "import json, sys; from pps_agent.cli.app import run; run(sys.argv[1:]);"
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] != '__main__']))"
    )
    arguments = [sys.executable, "-c", code, *command[1:], "--dry-run"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [name for name in names if name.replace(".", "").isidentifier()]
