"""The daemon with scheduled probes and nothing else to do: no repository, no collector, no release."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.schedulers import Load, children_of

_AS_INSTALLED: Final = (
    "import sys; sys.modules.update(dict.fromkeys(('rich', 'greenlet', 'better_exceptions', 'typing_extensions')));"
    "from pps_agent.cli import main; main()"
)
"""The agent without libraries that are here for others, and that structlog and msgspec would load since they are."""


class Agent:
    """``pps-agent run`` with the same load as the peers, in a directory of its own."""

    def __init__(self, base: Path, load: Load, *, splay_s: int | None = None) -> None:
        self.base, self._load, self._splay_s = base, load, 0 if load.at_once else splay_s
        self._check = load.check.read_bytes()
        for name in ("probes", "profile.d", "tags"):
            (base / name).mkdir(parents=True)
        for number in range(load.metrics):
            self.write_probe(number)
        (base / "root.json").write_text("{}")
        self.config = base / "agent.toml"
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, enabled: str = "*") -> None:
        """Write the settings; ``enabled`` is a glob for the names of the metrics that run."""
        self.config.write_text(
            '[site]\nname = "BENCH"\nvos = ["dteam"]\n[repository]\nurl = "http://127.0.0.1:9/"\nroot = "root.json"\n'
            'timeout_s = 1\n[paths]\nstore = "store"\nstate = "state"\ncache = "cache"\ntags = "tags"\n'
            f'probes = ["probes"]\n[environment]\nprofile = ["{self.base}/profile.d/*.sh"]\n'
            f'[probes]\nenabled = ["org.bench.m{enabled}"]\npublish = "published"\n'
        )

    def write_probe(self, number: int) -> None:
        """Write one probe's directory."""
        directory = self.base / "probes" / f"m{number}"
        directory.mkdir(exist_ok=True)
        splay = "" if self._splay_s is None else f"splay_s = {self._splay_s}\n"
        (directory / "probe.toml").write_text(
            f'[probe]\nname = "org.bench.m{number}"\nversion = "1"\nsummary = "says OK"\nwhere = "head"\n'
            f"timeout_s = {self._load.limit_s}\ninterval_s = {self._load.interval_s}\n{splay}"
        )
        run = directory / "run"
        if not run.exists():
            run.write_bytes(self._check)
            run.chmod(0o755)

    @contextlib.contextmanager
    def running(self) -> Iterator["Agent"]:
        """Run the daemon until the end."""
        command = [sys.executable, "-c", _AS_INSTALLED, "--config", str(self.config), "run"]
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        try:
            yield self
        finally:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    @property
    def pids(self) -> list[int]:
        """The daemon and its runner."""
        daemon = self._daemon()
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(daemon)}
        return [daemon, *(pid for pid, command in commands.items() if b"runner.py" in command)]

    def _daemon(self) -> int:
        assert self.process is not None
        return self.process.pid

    def reload(self) -> None:
        """Have the settings and the probes read anew, and wait until the former are."""
        log = self.base / "log"
        wanted = log.read_text().count('"settings.reloaded"') + 1
        os.kill(self._daemon(), signal.SIGHUP)
        while log.read_text().count('"settings.reloaded"') < wanted:
            time.sleep(0.05)

    def count(self) -> int:
        """Give how many results are on disk in all, swept ones included."""
        return int(self.query("SELECT coalesce(max(id), 0) FROM probe_result")[0][0])

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Ask state.db, which is not there at once."""
        path = self.base / "state" / "state.db"
        if not path.exists():
            return [(0,)]
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            try:
                return list(database.execute(statement))
            except sqlite3.OperationalError:
                return [(0,)]

    def await_results(self, count: int, within_s: float = 240.0) -> None:
        """Wait until so many results are on disk. Raises: TimeoutError."""
        deadline = time.monotonic() + within_s
        while (there := self.count()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there} of {count} results; see {self.base}/log")
            time.sleep(0.02)
