"""A real site in a temporary directory: settings file, sample profile.d, tag files; driven by the real program."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUBCLUSTER = "ce01.example.org"


@dataclass(frozen=True)
class Answer:
    """What one command line gave."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Give stdout as JSON, showing stderr when it is none."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"no JSON, exit {self.code}:\n{self.stdout}\n{self.stderr}") from None


@dataclass(frozen=True)
class RoundSeen:
    """The JSON of one round and its stderr."""

    value: dict[str, Any]
    stderr: str

    @property
    def actions(self) -> list[str]:
        """The kinds of actions in order; a failed one with ``!``."""
        return [outcome["action"] + ("" if outcome["ok"] else "!") for outcome in self.value["outcomes"]]

    @property
    def errors(self) -> str:
        """All errors in one text."""
        return "\n".join([*self.value["errors"], *(outcome["error"] for outcome in self.value["outcomes"])])

    def release(self, release: str) -> dict[str, Any]:
        """Give one release's standing."""
        return next(seen for seen in self.value["releases"] if seen["release"] == release)

    def outcome(self, action: str) -> dict[str, Any]:
        """Give the first outcome of this kind."""
        return next(outcome for outcome in self.value["outcomes"] if outcome["action"] == action)


class Running:
    """A started ``pps-agent`` and its log."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    def wait_for(self, name: str, **facts: Any) -> dict[str, Any]:
        """Give the next event of this name that has these facts."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            assert line.startswith("{"), line
            self.events.append(json.loads(line))
            event = self.events[-1]
            if event["event"] == name and facts.items() <= event.items():
                return event
        raise AssertionError(f"it ended with {self.process.wait()} before {name}: {self.events}")

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.end()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; give the exit code and what stood in the log since."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for the end; give the exit code and what stood in the log since."""
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, rest


class SmallSite:
    """One site below ``base`` that trusts ``root`` and fetches from ``url``."""

    def __init__(self, base: Path, url: str, root: bytes, **sections: dict[str, Any]) -> None:
        self.base = base
        self.started: list[Running] = []
        self.store = base / "store"
        self.state = base / "state"
        self.tags = base / "tags"
        self.profile = base / "profile.d"
        for directory in (self.tags, self.profile):
            directory.mkdir(parents=True)
        self.certificates = base / "certificates"
        self.certificates.mkdir()
        (self.profile / "grid.sh").write_text(f"export X509_CERT_DIR={self.certificates}\n")
        (base / "root.json").write_bytes(root)
        self.config = base / "agent.toml"
        self.sections: dict[str, dict[str, Any]] = {
            "site": {"name": "TEST-SITE", "vos": ["dteam"], "subclusters": [SUBCLUSTER]},
            "repository": {"url": url, "root": "root.json", "timeout_s": 10},
            "paths": {"store": "store", "state": "state", "cache": "cache", "tags": "tags"},
            "policy": {"install_bc": "auto"},
            "environment": {"profile": [str(self.profile / "*.sh")]},
        }
        self.configure(**sections)

    def configure(self, **sections: dict[str, Any]) -> None:
        """Merge these sections into the settings file."""
        for name, values in sections.items():
            self.sections[name] = self.sections.get(name, {}) | values
        self.config.write_text(render_toml(self.sections))

    def command(self, *arguments: str) -> list[str]:
        """Give the command line of ``pps-agent`` with these arguments."""
        return [sys.executable, "-m", "pps_agent", "--config", str(self.config), *arguments]

    def run(
        self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> Answer:
        """Run ``pps-agent`` with these arguments as a process of its own, ``prefix`` before the command."""
        done = subprocess.run(
            [*prefix, *self.command(*arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(env or {}),
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, stdout: int = subprocess.DEVNULL) -> "Running":
        """Start ``pps-agent`` and go on."""
        command = self.command(*arguments)
        running = Running(
            subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=_environment({}))
        )
        self.started.append(running)
        return running

    def close(self) -> None:
        """Kill what a failed test left running."""
        for running in self.started:
            if running.process.returncode is None:
                running.kill()

    def processes(self) -> list[int]:
        """Give the processes that name this site's settings file."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.fsencode(self.config) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
        return found

    def once(self, code: int = 0) -> "RoundSeen":
        """Run one round that must end with this exit code; give what it printed."""
        answer = self.run("once", "--output", "json")
        value = answer.json()
        assert code == answer.code == value["exit_code"], (answer.code, answer.stdout, answer.stderr)
        return RoundSeen(value, answer.stderr)

    def state_of(self, release: str) -> str:
        """Give a release's state as ``status`` tells it."""
        return {r["release"]: r["state"] for r in self.run("status", "--output", "json").json()["releases"]}[release]

    def installed(self) -> list[str]:
        """Give the release directories in the store."""
        releases = self.store / "releases"
        return sorted(path.name for path in releases.iterdir()) if releases.exists() else []

    def listed(self, vo: str = "dteam") -> list[str]:
        """Give the tags in the VO's file."""
        path = self.tags / SUBCLUSTER / vo / f"{vo}.list"
        return path.read_text().split() if path.exists() else []

    def current(self) -> dict[str, str]:
        """Give the current release of each component, as the links on disk say."""
        current = self.store / "current"
        return {path.name: path.readlink().name for path in current.iterdir()} if current.exists() else {}


def _environment(more: dict[str, str]) -> dict[str, str]:
    """Give this process's environment and ``more``; an installed program has its byte code at hand."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more


def render_toml(sections: dict[str, dict[str, Any]]) -> str:
    """Write settings as TOML; JSON's texts, numbers and lists are TOML's."""
    lines = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        for key, value in values.items():
            if isinstance(value, dict):
                pairs = ", ".join(f"{inner} = {json.dumps(text)}" for inner, text in value.items())
                lines.append(f"{key} = {{ {pairs} }}")
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
