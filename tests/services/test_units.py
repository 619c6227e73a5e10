"""The shipped systemd units: systemd understands them, they are hardened, and the runner's command line works."""

import configparser
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.probes.catalogue import ProbeDefinition
from pps_agent.probes.client import connect_runner
from pps_agent.settings_file import load_settings
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
        for installed in ("/usr/bin/pps-agent", "/usr/bin/python3.12"):
            text = text.replace(f"ExecStart={installed}", "ExecStart=/bin/true")
        text = text.replace("pps-probe\n", "daemon\n")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", *(str(units / unit.name) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # verify exits 0 even for an unknown key: what it prints is the verdict.
    ours = [line for line in done.stderr.splitlines() if "pps-agent" in line]
    assert ours == []


@pytest.mark.parametrize(("unit", "threshold"), [("pps-agent.service", "20"), ("pps-agent-runner.service", "40")])
def test_the_services_are_hardened(units: Path, unit: str, threshold: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}", str(units / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-600:]


def test_the_runner_of_the_unit_serves_the_agents_user_and_is_another_user(open_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to have two users")
    nobody = pwd.getpwnam("nobody")
    command = _exec_start(ROOT / "config" / "systemd" / "pps-agent-runner.service")
    base = open_directory / "base"
    base.mkdir(mode=0o700)
    os.chown(base, nobody.pw_uid, nobody.pw_gid)
    path = open_directory / "runner.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        places = {
            "/usr/bin/python3.12": sys.executable,
            "/usr/lib/pps-agent/lib/pps_agent/probes/runner.py": str(ROOT / "pps_agent" / "probes" / "runner.py"),
            "/run/pps-agent-probes": str(base),
            "3": str(listener.fileno()),
            "pps-agent": "root",
        }
        argv = [places.get(word, word) for word in command]
        argv += ["--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid)]
        with subprocess.Popen(argv, pass_fds=[listener.fileno()]) as runner:
            try:
                with connect_runner(path) as client:
                    assert not client.single_user
                    result = client.run(_probe(open_directory), {"PATH": "/usr/bin:/bin"}, None)
            finally:
                runner.terminate()
    assert (result.status, result.summary) == (Status.OK, "OK - I am nobody")


def test_the_shipped_settings_name_the_socket_of_the_shipped_unit() -> None:
    settings = load_settings(ROOT / "config" / "agent.toml").settings
    unit = _read(ROOT / "config" / "systemd" / "pps-agent-runner.socket")
    assert str(settings.probes.socket) == unit["Socket"]["ListenStream"]


def _probe(directory: Path) -> ProbeDefinition:
    run = directory / "whoami"
    run.write_text('#!/bin/sh\necho "OK - I am $(id -un)"\n')
    run.chmod(0o755)
    return ProbeDefinition(name=ProbeName("org.test.whoami"), run=run, timeout_s=20)


def _exec_start(unit: Path) -> list[str]:
    return shlex.split(_read(unit)["Service"]["ExecStart"])


def _read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser
