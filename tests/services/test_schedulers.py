"""Real schedulers run what ``probe export`` wrote: Nagios by itself and through NRPE, with TLS on loopback."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.services import need
from tests.support.site import SmallSite

ME = pwd.getpwuid(os.geteuid()).pw_name
HOST = "head.example.org"
CHECK_NRPE = "/usr/lib/nagios/plugins/check_nrpe"
NRPE = shutil.which("nrpe") or "/usr/sbin/nrpe"
PATIENCE_S = 90
STATES = {"org.test.fine": 0, "org.test.slow": 1, "org.test.broken": 2, "org.test.old": 3}


class Schedulers:
    """A site with probes and published results, below a directory whose name tests every quoting."""

    def __init__(self, base: Path, odd: str) -> None:
        probes = base / "probes"
        paths = {"store": "store", "state": "state", "cache": "cache", "tags": "tags", "probes": [str(probes)]}
        self.odd = base / odd
        for directory in (probes, self.odd):
            directory.mkdir()
        self.site = SmallSite(
            base / "site", "http://127.0.0.1:9", b"{}", paths=paths, probes={"publish": str(self.odd)}
        )
        for program in ("pps-agent", "check_pps"):
            (self.odd / program).symlink_to(Path(sys.executable).with_name(program))
        for name, code in STATES.items():
            self._write_probe(probes / name.rpartition(".")[2], name, code)
        lines = [self._published(name, code) for name, code in STATES.items()]
        (self.odd / "results.jsonl").write_text("".join(lines))

    def _write_probe(self, directory: Path, name: str, code: int) -> None:
        directory.mkdir()
        parent = "" if name == "org.test.fine" else 'depends_on = ["org.test.fine"]'
        (directory / "probe.toml").write_text(
            f'[probe]\nname = "{name}"\nversion = "1"\nsummary = "a; $test"\nwhere = "head"\n'
            f"interval_s = 300\n{parent}\n"
        )
        (directory / "run").write_text(f'#!/bin/sh\necho "ran by itself|took=1s"; echo "line two"; exit {code}\n')
        (directory / "run").chmod(0o755)

    def _published(self, name: str, code: int) -> str:
        at = datetime.now(UTC) - timedelta(seconds=9000 if code == 3 else 5)
        fields = {
            "metric": name,
            "release": "",
            "status": ("OK", "WARNING", "CRITICAL", "OK")[code],
            "cause": "verdict",
            "summary": "published",
            "perfdata": "took=2s",
            "at": at.isoformat(),
            "fresh_until": (at + timedelta(seconds=3600)).isoformat(),
            "attempt": 1,
            "hard": True,
            "details": "with a line more",
            "duration_s": 2.0,
        }
        return json.dumps(fields, separators=(",", ":")) + "\n"

    def export(self, scheduler: str, mode: str, *names: str) -> str:
        words = ("probe", "export", "--for", scheduler, "--mode", mode, "--host", HOST, "--programs", str(self.odd))
        answer = self.site.run(*words, *(names or STATES))
        assert answer.code == 0, answer.stderr
        return answer.stdout


@pytest.fixture(scope="module")
def schedulers(tmp_path_factory: pytest.TempPathFactory) -> Schedulers:
    return Schedulers(tmp_path_factory.mktemp("schedulers"), "it's; odd $dir")


class Nagios:
    """A running Nagios and what its ``status.dat`` says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def services(self) -> dict[str, dict[str, str]]:
        """Give the services by their description, as Nagios last wrote them."""
        with contextlib.suppress(FileNotFoundError):
            blocks = re.findall(
                r"^servicestatus \{\n(.*?)^\t\}", (self.directory / "status.dat").read_text(), re.MULTILINE | re.DOTALL
            )
            found = [dict(re.findall(r"^\t(\w+)=(.*)$", block, re.MULTILINE)) for block in blocks]
            return {service["service_description"]: service for service in found}
        return {}

    def wait_for_checks(self) -> dict[str, dict[str, str]]:
        """Give the services when each has been checked."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            services = self.services()
            if services.keys() == STATES.keys() and all(one["has_been_checked"] == "1" for one in services.values()):
                return services
            time.sleep(0.2)
        raise AssertionError(f"not checked in {PATIENCE_S} s: {self.services()}\n{self.log()}")

    def submit(self, line: str) -> None:
        """Give Nagios an external command."""
        with (self.directory / "nagios.cmd").open("w") as pipe:
            pipe.write(f"[{int(time.time())}] {line}\n")

    def log(self) -> str:
        return (self.directory / "nagios.log").read_text()


@contextlib.contextmanager
def run_nagios(directory: Path, definitions: str) -> Iterator[Nagios]:
    """Run Nagios on these definitions beside Debian's own objects; its minute takes a second."""
    need("" if shutil.which("nagios4") else "nagios4 is missing: install Debian's package nagios4-core")
    directory.mkdir()
    (directory / "results").mkdir()
    (directory / "pps.cfg").write_text(definitions)
    (directory / "host.cfg").write_text(
        f"define host {{\n use generic-host\n host_name {HOST}\n address 127.0.0.1\n max_check_attempts 1\n"
        " active_checks_enabled 0\n}\n"
    )
    objects = [f"/etc/nagios4/objects/{name}.cfg" for name in ("commands", "contacts", "timeperiods", "templates")]
    settings = {
        "log_file": directory / "nagios.log",
        "object_cache_file": directory / "objects.cache",
        "status_file": directory / "status.dat",
        "state_retention_file": directory / "retention.dat",
        "check_result_path": directory / "results",
        "temp_path": directory,
        "temp_file": directory / "nagios.tmp",
        "lock_file": directory / "nagios.pid",
        "command_file": directory / "nagios.cmd",
        "query_socket": directory / "nagios.qh",
        "nagios_user": ME,
        "nagios_group": ME,
        "interval_length": 1,
        "status_update_interval": 1,
        "service_inter_check_delay_method": "n",
        "check_external_commands": 1,
        "check_for_updates": 0,
        "use_syslog": 0,
        "enable_notifications": 0,
        "service_check_timeout": 300,
        "check_result_reaper_frequency": 1,
        "check_workers": 2,
    }
    files = [directory / "host.cfg", directory / "pps.cfg", *objects]
    lines = [*(f"cfg_file={file}" for file in files), *(f"{name}={value}" for name, value in settings.items())]
    (directory / "nagios.cfg").write_text("\n".join([*lines, ""]))
    process = subprocess.Popen(
        ["nagios4", str(directory / "nagios.cfg")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # As an init script starts it: what the tests' own environment holds is not what a probe gets.
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        yield Nagios(directory)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_nagios_runs_the_probes_and_shows_their_states(schedulers: Schedulers, tmp_path: Path) -> None:
    with run_nagios(tmp_path / "active", schedulers.export("nagios", "active")) as nagios:
        services = nagios.wait_for_checks()
    assert {name: int(service["current_state"]) for name, service in services.items()} == STATES
    assert {service["plugin_output"].partition(" - ")[2] for service in services.values()} == {"ran by itself"}
    assert {service["performance_data"] for service in services.values()} == {"took=1s"}
    assert "line two" in services["org.test.broken"]["long_plugin_output"]


def test_nagios_reads_cached_results_and_sees_that_one_is_old(schedulers: Schedulers, tmp_path: Path) -> None:
    with run_nagios(tmp_path / "cached", schedulers.export("nagios", "cached")) as nagios:
        services = nagios.wait_for_checks()
    assert {name: int(service["current_state"]) for name, service in services.items()} == STATES
    assert services["org.test.broken"]["plugin_output"] == "CRITICAL - published"
    assert services["org.test.slow"]["performance_data"] == "took=2s"
    assert services["org.test.fine"]["long_plugin_output"] == "with a line more"
    assert "and good for 3600 s" in services["org.test.old"]["plugin_output"]


def test_nagios_takes_submitted_results_and_asks_only_when_none_comes(schedulers: Schedulers, tmp_path: Path) -> None:
    definitions = schedulers.export("nagios", "passive")
    with run_nagios(tmp_path / "passive", definitions) as nagios:
        deadline = time.monotonic() + PATIENCE_S
        while nagios.services().keys() != STATES.keys() and time.monotonic() < deadline:
            time.sleep(0.1)
        command = [str(schedulers.odd / "check_pps"), "--file", str(schedulers.odd / "results.jsonl")]
        for name in STATES:
            done = subprocess.run([*command, name], capture_output=True, text=True)
            nagios.submit(f"PROCESS_SERVICE_CHECK_RESULT;{HOST};{name};{done.returncode};{done.stdout.strip()}")
        services = nagios.wait_for_checks()
    assert {name: int(service["current_state"]) for name, service in services.items()} == STATES
    assert {service["check_type"] for service in services.values()} == {"1"}


@pytest.fixture(scope="module")
def nrpe_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """NRPE with TLS on a free loopback port, with the commands that were exported for it."""
    need("" if Path(NRPE).exists() else "nrpe is missing: install Debian's package nagios-nrpe-server")
    need("" if Path(CHECK_NRPE).exists() else "check_nrpe is missing: install Debian's package nagios-nrpe-plugin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with run_nrpe(tmp_path_factory.mktemp("nrpe"), port):
        yield port


@contextlib.contextmanager
def run_nrpe(directory: Path, port: int) -> Iterator[None]:
    """Run NRPE until the context ends. It refuses to be root, so root calls itself another name for it."""
    # It reads $ as a macro, which the export refuses; all else must pass.
    site = Schedulers(directory, "it's; odd dir")
    active = site.export("nrpe", "active", "org.test.fine", "org.test.slow", "org.test.broken")
    commands = active + site.export("nrpe", "cached", "org.test.old")
    lines = (
        *("server_address=127.0.0.1", f"server_port={port}", "allowed_hosts=127.0.0.1", "dont_blame_nrpe=0"),
        *(f"pid_file={directory}/nrpe.pid", f"log_file={directory}/nrpe.log", f"nrpe_user={ME}", f"nrpe_group={ME}"),
        *("command_timeout=300", "connection_timeout=300", commands),
    )
    (directory / "nrpe.cfg").write_text("\n".join(lines))
    another = ["unshare", "--user", "--map-user=1", "--map-group=1"] if os.geteuid() == 0 else []
    process = subprocess.Popen([*another, NRPE, "-c", str(directory / "nrpe.cfg"), "-f"], start_new_session=True)
    try:
        wait_for_port(port, process, directory / "nrpe.log")
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.05)
    raise AssertionError(f"nrpe does not answer: {log.read_text()}")


def ask_nrpe(port: int, name: str) -> "subprocess.CompletedProcess[str]":
    command = [CHECK_NRPE, "-H", "127.0.0.1", "-p", str(port), "-t", "120:UNKNOWN", "-c", f"pps_{name}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


@pytest.mark.parametrize("name", STATES)
def test_check_nrpe_brings_the_state_through_tls(nrpe_port: int, name: str) -> None:
    done = ask_nrpe(nrpe_port, name)
    assert done.returncode == STATES[name], done.stdout
    first = "UNKNOWN - the result is" if name == "org.test.old" else "ran by itself"
    assert first in done.stdout.partition("\n")[0]


def test_nrpe_runs_nothing_that_was_not_exported(nrpe_port: int) -> None:
    assert ask_nrpe(nrpe_port, "org.test.fine;id").returncode == 3


def test_nrpe_speaks_to_nobody_without_tls(nrpe_port: int) -> None:
    command = [CHECK_NRPE, "-n", "-H", "127.0.0.1", "-p", str(nrpe_port), "-t", "20:UNKNOWN", "-c", "pps_org.test.fine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0, "ran by itself" in done.stdout) == (False, False)
