"""Operations on a store, each in a forked child under strace: recorded, killed or refused at one system call."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pps_agent.database import open_database
from pps_agent.errors import SiteError
from pps_agent.history import History
from pps_agent.install import install
from pps_agent.policy import Consent, Decision
from pps_agent.repair import Repository, repair
from pps_agent.rollback import decide_rollback, roll_back
from pps_agent.settings import StoreSettings
from pps_agent.tags.areas import SiteTags
from pps_agent.tags.store import TagStore
from pps_wire.names import Component, ReleaseId, Subcluster
from tests.distribution.site import Site
from tests.support.services import need
from tests.support.traces import DURABLE, Call, parse_calls

CLIENTS = Component("grid-clients")
SUBCLUSTER = Subcluster("ce01.example.org")
OPERATIONS = ("install", "update", "repair", "rollback", "remove", "gc")
TIMEOUT_S = 60
CRASHED = "crashed"
"""How the outcome of an operation begins that ended with an error nobody expects."""


@dataclass(frozen=True)
class World:
    """One site on disk and what is done to it; ``base`` holds store, state and tags."""

    base: Path
    root: Path
    url: str
    operation: str
    old: ReleaseId
    new: ReleaseId

    def copy(self, base: Path) -> "World":
        """Give an equal world elsewhere, hard links and all."""
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.base), str(base)], check=True)
        return World(base, self.root, self.url, self.operation, self.old, self.new)

    @contextlib.contextmanager
    def site(self) -> Iterator[Site]:
        """Open it."""
        site = Site(self.base, self.root.read_bytes(), self.url)
        try:
            yield site
        finally:
            site.close()

    @contextlib.contextmanager
    def history(self) -> Iterator[History]:
        """Open its state.db."""
        with contextlib.closing(open_database(self.base / "state" / "state.db")) as database:
            yield History(database)

    def tags(self) -> SiteTags:
        """Give its tag files."""
        return SiteTags((self.lists(),))

    def lists(self) -> TagStore:
        """Give those of its one information system."""
        return TagStore(self.base / "tags", (SUBCLUSTER,))

    def act(self) -> None:
        """Carry out the operation, or what is left of it."""
        with self.site() as site:
            getattr(self, f"_{self.operation}")(site)

    def _install(self, site: Site) -> None:
        self._place(site, self.old)

    def _update(self, site: Site) -> None:
        self._place(site, self.new)

    def _place(self, site: Site, release: ReleaseId) -> None:
        offer = next(offer for offer in site.load().offers if offer.release.id == release)
        site.store.sweep(keep={release})
        signed = site.trust.fetch_manifest(offer)
        install(site.store, offer, signed, site.source(offer.release), StoreSettings())
        site.store.switch(CLIENTS, release)

    def _repair(self, site: Site) -> None:
        repository = Repository(site.trust.fetch_manifest, lambda offer: site.source(offer.release))
        site.store.sweep()
        repair(site.store, self.new, site.load(), repository, StoreSettings(sync="files"))

    def _rollback(self, site: Site) -> None:
        site.store.sweep()
        if site.store.current().get(CLIENTS) == self.old:
            return
        with self.history() as history:
            decided = decide_rollback(CLIENTS, site.store, self.tags(), history)
            roll_back(decided, Consent(Decision.ROLLBACK, "why"), site.store, self.tags(), history, datetime.now(UTC))

    def _remove(self, site: Site) -> None:
        site.store.sweep()
        site.store.switch(CLIENTS, self.new)
        site.store.remove(self.old)

    def _gc(self, site: Site) -> None:
        site.store.sweep()
        with self.history() as history:
            site.store.remove(self.old)
            history.forget_results(self.old)
            history.end_drain(self.old)


class Nursery:
    """Starts once, and forks a child for every operation; the child waits until strace is there."""

    def __init__(self, process: "subprocess.Popen[str]", scratch: Path) -> None:
        self._process = process
        self._scratch = scratch

    def record(self, world: World) -> list[Call]:
        """Run the operation; give every call of its durable kinds."""
        outcome, text = self._run(world, f"trace={','.join(DURABLE)}")
        assert outcome == "done", outcome
        return parse_calls(text)

    def kill(self, world: World, call: Call, shift: int = 0) -> bool:
        """Kill it as it enters this call; False when the run took another way and did not come there.

        Two threads share the reading of what is here, so in another run a call may come some numbers
        earlier or later: by ``shift``.
        """
        number = max(1, call.number + shift)
        outcome, text = self._run(world, f"trace={call.name}", f"inject={call.name}:signal=KILL:when={number}")
        assert outcome in ("done", "killed"), outcome
        last = parse_calls(text)[-2:]  # another thread's may stand behind it
        return outcome == "killed" and any(_is_like(seen, call, str(world.base)) for seen in last)

    def refuse(self, world: World, call: Call, error: str) -> str:
        """Let this call fail; give what came of the operation."""
        return self._run(world, f"trace={call.name}", f"inject={call.name}:error={error}:when={call.number}")[0]

    def _run(self, world: World, *expressions: str) -> tuple[str, str]:
        order = {name: str(getattr(world, name)) for name in ("base", "root", "url", "operation", "old", "new")}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        log = self._scratch / "strace.log"
        command = ["strace", "-f", "-y", "-o", str(log), "-p", str(pid)]
        command += [part for expression in expressions for part in ("-e", expression)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            need("" if "attached" in said else f"needs strace: {said}")
            outcome = json.loads(self._process.stdout.readline())
            tracer.communicate(timeout=TIMEOUT_S)
        return outcome, log.read_text(errors="replace")


def _is_like(seen: Call, wanted: Call, base: str) -> bool:
    """Tell whether it hit the same kind of thing; names have random parts, and threads take turns."""
    return seen.changes(base) and [_area(path, base) for path in seen.paths] == [_area(p, base) for p in wanted.paths]


def _area(path: str, base: str) -> tuple[str, ...]:
    return tuple(re.sub(r"[0-9a-f]{8,}", "#", path).removeprefix(re.sub(r"[0-9a-f]{8,}", "#", base)).split("/")[:3])


@contextlib.contextmanager
def open_nursery(scratch: Path) -> Iterator[Nursery]:
    """Start the process that forks the operations' children."""
    need("" if shutil.which("strace") else "needs strace")
    command = [sys.executable, "-m", "tests.distribution.strikes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nursery(process, scratch)
        assert process.stdin is not None
        process.stdin.close()


def _act(order: dict[str, str], go: int, answer: socket.socket) -> None:
    os.read(go, 1)
    paths = {name: Path(order[name]) for name in ("base", "root")}
    world = World(**(order | paths))  # type: ignore[arg-type]
    try:
        world.act()
        text = "done"
    except SiteError as exc:
        text = f"SiteError: {exc}"
    except Exception:  # noqa: BLE001 - what nobody expects is told, not lost
        text = f"{CRASHED}: {traceback.format_exc()}"
    # Not by write(2): strace would refuse the answer too, where it is this thread's first.
    answer.sendall(text.encode())


def _serve() -> None:
    for line in sys.stdin:
        reading, writing = socket.socketpair()
        waiting, starting = os.pipe()
        child = os.fork()
        if not child:
            try:
                _act(json.loads(line), waiting, writing)
            finally:
                os._exit(0)
        writing.close()
        os.close(waiting)
        print(child, flush=True)
        sys.stdin.readline()
        os.write(starting, b"x")
        os.close(starting)
        with reading, reading.makefile() as stream:
            text = stream.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps("killed" if status == -signal.SIGKILL else text or "died without a word"), flush=True)


if __name__ == "__main__":
    _serve()
