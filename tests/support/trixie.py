"""Debian's next release in a root of its own (``./run test`` unpacks it), beside the release that this machine has."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tests.support.services import need

ROOT = Path(__file__).resolve().parents[2] / ".cache" / "condor-root"
USER = 901
_SOURCES = Path(__file__).resolve().parents[2]
_DRIVER = """
import sys
from pathlib import Path
from demo.bdii import start_bdii
directory, site, config, agent, *subclusters = sys.argv[1:]
command = [sys.executable, "-m", "pps_agent", "--config", config, "tag"]
forms = {"plugin_argv": [*command, "ldif"], "provider_argv": [*command, "render", "--format", "glue2"]}
with start_bdii(Path(directory), site, subclusters, **forms, env={"PYTHONPATH": agent}, breathe_s=0.2) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def sandbox(base: Path, *command: str, alone: bool = True) -> list[str]:
    """Give the command that runs another in the root, with ``base`` under its own name.

    ``alone``: on a network of its own, with the host name "lab".
    """
    mounts = ["--ro-bind", str(ROOT), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp"]
    mounts += ["--tmpfs", "/home/submitter", "--bind", str(base), str(base)]
    names = ["--unshare-user", "--uid", str(USER), "--gid", str(USER), "--unshare-pid", "--unshare-ipc"]
    names += ["--unshare-net", "--unshare-uts", "--hostname", "lab"] if alone else []
    variables = {"PATH": "/usr/bin:/usr/sbin", "HOME": "/home/submitter", "USER": "submitter"}
    variables |= {"CONDOR_CONFIG": f"{base}/etc/condor_config"}
    settings = [word for name, value in variables.items() for word in ("--setenv", name, value)]
    return ["bwrap", *names, "--die-with-parent", *mounts, "--clearenv", *settings, "--chdir", str(base), *command]


@contextlib.contextmanager
def run_bdii(base: Path, site: str, config: Path, subclusters: Sequence[str]) -> Iterator[str]:
    """Run the information system of ``demo/bdii.py`` in the root, all of it of that release; give its address.

    The settings and all they name lie below ``base``. Slapd listens on this machine's loopback.
    """
    need("" if (ROOT / "usr/sbin/bdii-update").exists() else "no newer bdii: ./run test as root unpacks it")
    need("" if shutil.which("bwrap") else "bubblewrap is missing")
    write_program(agent := base / "agent", config)
    words = [str(base / "bdii"), site, str(config), str(agent), *subclusters]
    (base / "bdii").mkdir()
    command = sandbox(base, "env", f"PYTHONPATH={agent}", "python3", "-c", _DRIVER, *words, alone=False)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdin is not None
        url = driver.stdout.readline().strip()
        assert url, f"it ended with {driver.wait()}"
        assert list((base / "bdii" / "shim").iterdir()) == []  # its LDAP commands take the options it passes
        yield url
        driver.stdin.close()
        assert driver.wait(60) == 0


def write_program(directory: Path, config: Path) -> Path:
    """Copy the agent to where the root's own Python can import it; give a program that calls it with these settings.

    Only what the tag commands need, and ``demo``.
    """
    for package in (_SOURCES / "pps_agent", _SOURCES / "pps_wire", _SOURCES / "demo", Path(click.__file__).parent):
        shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    program = directory / "pps-agent"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={directory} exec python3 -m pps_agent --config {config} "$@"\n')
    program.chmod(0o755)
    return program
