"""The shipped systemd units: systemd understands them, they are hardened, and the runner's command line works."""

import configparser
import contextlib
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient, connect_runner
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.settings_file import load_settings
from pps_publisher.cli.program import run as publish
from pps_publisher.errors import UsageError
from pps_wire.names import ProbeName
from pps_wire.report import Status
from tests.services.conftest import ROOT
from tests.support.services import need

UNITS = sorted((ROOT / "config" / "systemd").iterdir())


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, which tmp_path is not."""
    path = Path(tempfile.mkdtemp(prefix="pps-units-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs and users of this machine in place of the installed ones."""
    need("" if shutil.which("systemd-analyze") else "systemd-analyze is missing: apt-get install systemd")
    for unit in UNITS:
        text = unit.read_text()
        for installed in ("/usr/bin/pps-agent", "/usr/bin/pps-publish", "/usr/bin/python3.12"):
            text = text.replace(f"ExecStart={installed}", "ExecStart=/bin/true")
        text = text.replace("pps-probe\n", "daemon\n")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", *(str(units / unit.name) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # verify exits 0 even for an unknown key: what it prints is the verdict.
    ours = [line for line in done.stderr.splitlines() if "pps-agent" in line or "pps-publish" in line]
    assert ours == []


@pytest.mark.parametrize(
    ("unit", "threshold"),
    [("pps-agent.service", "20"), ("pps-agent-runner.service", "40"), ("pps-publish-refresh.service", "10")],
)
def test_the_services_are_hardened(units: Path, unit: str, threshold: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}", str(units / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-600:]


RUNNER_UNIT = ROOT / "config" / "systemd" / "pps-agent-runner.service"


@contextlib.contextmanager
def running_unit(directory: Path, wrapper: Sequence[str] = ()) -> Iterator[RunnerClient]:
    """Give a connection to the runner as its unit starts it: as another user, with a directory that is root's."""
    nobody = pwd.getpwnam("nobody")
    unit = _read(RUNNER_UNIT)["Service"]
    place, _, options = unit["TemporaryFileSystem"].partition(":")
    mode = next(word for word in options.split(",") if word.startswith("mode="))
    base, path = directory / "base", directory / "runner.sock"
    base.mkdir()
    base.chmod(int(mode.removeprefix("mode="), 8))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        places = {
            "/usr/bin/python3.12": sys.executable,
            "/usr/lib/pps-agent/lib/pps_agent/probes/runner.py": str(ROOT / "pps_agent" / "probes" / "runner.py"),
            place: str(base),
            "3": str(listener.fileno()),
            "pps-agent": "root",
        }
        argv = [*wrapper, *(places.get(word, word) for word in _exec_start(RUNNER_UNIT))]
        argv += ["--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid)]
        with subprocess.Popen(argv, pass_fds=[listener.fileno()]) as runner:
            try:
                with connect_runner(path) as client:
                    yield client
                    os.kill(client.runner_pid, signal.SIGTERM)
                assert runner.wait(20) == 0
            finally:
                runner.kill()
    assert list(base.iterdir()) == []


def test_the_runner_of_the_unit_serves_the_agents_user_and_is_another_user(open_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to have two users")
    with running_unit(open_directory) as client:
        assert not client.single_user
        result = client.run(_probe(open_directory), {"PATH": "/usr/bin:/bin"}, None)
    assert (result.status, result.summary) == (Status.OK, "OK - I am nobody")
    assert result.details == "the others' directories are not listed"


def test_the_unit_permits_every_system_call_that_the_runner_makes(open_directory: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to have two users")
    need("" if shutil.which("strace") else "strace is missing: apt-get install strace")
    need("" if shutil.which("systemd-analyze") else "systemd-analyze is missing: apt-get install systemd")
    trace = tmp_path / "trace"
    with running_unit(open_directory, ["strace", "-f", "-qq", "-o", str(trace)]) as client:
        for _ in range(3):
            assert client.run(_probe(open_directory), {"PATH": "/usr/bin:/bin"}, None).status is Status.OK
    made = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(), re.MULTILINE))
    assert {"landlock_restrict_self", "prlimit64", "pidfd_open"} <= made
    made -= {"mount", "unshare"}  # of a runner that starts as root; for this one systemd does that
    assert made - permitted(_read(RUNNER_UNIT)["Service"]["SystemCallFilter"].split()) == set()


def permitted(words: Sequence[str]) -> set[str]:
    """Give the system calls that a filter's words stand for."""
    calls = set()
    for word in words:
        if not word.startswith("@"):
            calls.add(word)
            continue
        listing = subprocess.run(
            ["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True
        )
        lines = [line.strip() for line in listing.stdout.splitlines()[1:]]
        calls |= permitted([line for line in lines if line and not line.startswith("#")])
    return calls


def test_the_online_signer_of_the_unit_refreshes_with_a_passphrase_that_systemd_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, credentials = tmp_path / "repository", tmp_path / "credentials"
    credentials.mkdir()
    passphrase = credentials / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    publish(["init", "--repo", str(repository), "--passphrase-file", str(passphrase)])
    shutil.copy(repository / "keys" / "online.pem", credentials)
    passphrase.chmod(0o440)  # how systemd's access by ACL shows
    command = _exec_start(ROOT / "config" / "systemd" / "pps-publish-refresh.service")
    command = [
        word.replace("%d", str(credentials)).replace("/var/lib/pps-publish", str(repository)) for word in command
    ]
    assert publish(command[1:]) == UsageError.exit_code
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert publish(command[1:]) == 0
    assert (repository / "served" / "metadata" / "timestamp.json").exists()


def test_the_shipped_settings_name_the_socket_of_the_shipped_unit() -> None:
    settings = load_settings(ROOT / "config" / "agent.toml").settings
    unit = _read(ROOT / "config" / "systemd" / "pps-agent-runner.socket")
    assert str(settings.probes.socket) == unit["Socket"]["ListenStream"]


@pytest.mark.parametrize("name", ["pps-agent.service", "pps-agent@.service"])
def test_the_agent_may_write_all_lists_of_tags_where_they_are_unless_set(name: str) -> None:
    settings = load_settings(ROOT / "config" / "agent.toml").settings
    writable = _read(ROOT / "config" / "systemd" / name)["Service"]["ReadWritePaths"].split()
    for base in (settings.paths.tags, settings.paths.global_tags, settings.preproduction.tags):
        assert f"-{base}" in writable


def _probe(directory: Path) -> ProbeDefinition:
    run = directory / "whoami"
    listing = 'ls "$(dirname "$HOME")" >/dev/null 2>&1 || echo "the others\' directories are not listed"'
    run.write_text(f'#!/bin/sh\necho "OK - I am $(id -un)"\n{listing}\n')
    run.chmod(0o755)
    return ProbeDefinition(name=ProbeName("org.test.whoami"), run=run, timeout_s=20)


def _exec_start(unit: Path) -> list[str]:
    return shlex.split(_read(unit)["Service"]["ExecStart"])


def _read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser
