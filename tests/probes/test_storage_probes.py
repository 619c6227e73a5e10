"""The storage probes against real servers: xrootd with TLS, GSI and https, and Globus's GridFTP server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_wire.report import Status
from tests.probes.conftest import wait_for_text
from tests.support.lab import Lab, start_lab
from tests.support.netns import missing_reason as network_missing
from tests.support.plugins import SYSTEM_PATH, Said, oldest_python, probe_path, read_plugin, run_plugin
from tests.support.services import need
from tests.support.storage import Storage, gridftp_missing, start_gridftp, start_tls_xrootd, xrootd_missing

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["put", "stat", "checksum", "get", "remove", "total", "leftovers"]
QUICK = {"XRD_CONNECTIONRETRY": "1", "XRD_CONNECTIONWINDOW": "2", "XRD_STREAMERRORWINDOW": "2"}
KINDS = ["xroot", "dav-python", "dav-curl", "dav-davix", "gsiftp"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    need(network_missing())
    with start_lab() as made:
        yield made


@pytest.fixture(scope="module")
def xrootd(lab: Lab) -> Iterator[Storage]:
    need(xrootd_missing())
    with start_tls_xrootd(lab.directory / "xrootd", lab.network, lab.ca, lab.user) as running:
        yield running


@pytest.fixture(scope="module")
def gsi_xrootd(lab: Lab) -> Iterator[Storage]:
    need(xrootd_missing())
    with start_tls_xrootd(lab.directory / "gsi", lab.network, lab.ca, lab.user, gsi=True) as running:
        yield running


@pytest.fixture(scope="module")
def gridftp(lab: Lab) -> Iterator[Storage]:
    need(gridftp_missing())
    with start_gridftp(lab.directory / "gridftp", lab.network, lab.ca, lab.user) as running:
        yield running


class Subject:
    """One probe, its client and its server, so that one test can ask the same of all."""

    def __init__(self, kind: str, lab: Lab, storage: Storage) -> None:
        self.kind, self.lab, self.storage = kind, lab, storage
        short, _, self.client = kind.partition("-")
        self.name, self.variable = f"se.{short}", f"PPS_SE_{short.upper()}"
        self.root = {"xroot": storage.xroot, "dav": storage.dav, "gsiftp": storage.gsiftp}[short]

    def run(self, directory: str = "probe", *, python: str = "", **env: str | Path) -> Said:
        return run_plugin(self.name, self.lab.network, python=python, **{**self.environment(directory), **env})

    def environment(self, directory: str = "probe") -> dict[str, str | Path]:
        client: dict[str, str | Path] = {"PPS_SE_DAV_CLIENT": self.client} if self.client else {}
        return {self.variable: f"{self.root}/{directory}", **self.lab.credentials(), **QUICK, **client}


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, lab: Lab) -> Subject:
    programs = {"xroot": "xrdcp", "dav-curl": "curl", "dav-davix": "davix-put", "dav-python": "python3"}
    program = programs.get(request.param, "globus-gridftp-server")
    need("" if shutil.which(program, path="/usr/sbin:/usr/bin") else f"{program} is not installed: see TEST_PACKAGES")
    if request.param == "gsiftp":
        found = subprocess.run(["/usr/bin/python3", "-I", "-c", "import gfal2"], capture_output=True, check=False)
        need("gfal2 needs: apt-get install python3-gfal2 gfal2-plugin-file gfal2-plugin-gridftp" * found.returncode)
    server = request.getfixturevalue("gridftp" if request.param == "gsiftp" else "xrootd")
    return Subject(request.param, lab, server)


# One client each, where it is the probe and not the client that is looked at.
each_probe = pytest.mark.parametrize("subject", ["xroot", "dav-python", "gsiftp"], indirect=True)


def test_all_steps_go_well_and_nothing_is_left(subject: Subject) -> None:
    said = subject.run()
    assert (said.status, [label for label in said.perfdata if label != "start"]) == (Status.OK, STEPS), said
    assert "262144 bytes on" in said.text
    assert subject.storage.files() == []


def test_xroot_logs_in_with_a_proxy_over_tls(lab: Lab, gsi_xrootd: Storage) -> None:
    address = f"{gsi_xrootd.xroot}/probe"
    said = run_plugin("se.xroot", lab.network, PPS_SE_XROOT=address, **lab.credentials())
    assert said.status is Status.OK, said


@each_probe
def test_all_steps_go_well_under_the_oldest_python(subject: Subject) -> None:
    if not oldest_python():
        pytest.skip("no Python 3.9 here")
    assert subject.run(python=oldest_python()).status is Status.OK


@each_probe
def test_an_empty_file_and_an_uneven_one_survive_too(subject: Subject) -> None:
    variable = f"{subject.variable}_BYTES"
    assert [subject.run(**{variable: size}).status for size in ("1", "1000003")] == [Status.OK] * 2


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("probe", {"": "OK", "put": "OK", "get": "OK", "del": "OK"}),
        ("locked", {"": "CRITICAL", "put": "CRITICAL", "get": "UNKNOWN", "del": "UNKNOWN"}),
    ],
)
def test_the_agent_gets_a_result_of_each_step_that_jobs_know(
    subject: Subject, directory: str, expected: dict[str, str]
) -> None:
    variables = {"PATH": SYSTEM_PATH, "PPS_SITE": "TEST-SITE", **subject.environment(directory)}
    text = json.dumps({name: str(value) for name, value in variables.items()})
    command = [sys.executable, "-m", "tests.support.contained_run", subject.name, text]
    done = subject.lab.network.run(command, {"PATH": SYSTEM_PATH, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    name = f"org.pps.{subject.name}"
    wanted = {f"{name}.{step}".rstrip("."): status for step, status in expected.items()}
    assert {metric: status for metric, status, _ in json.loads(done.stdout)} == wanted, done.stdout


def test_storage_that_refuses_to_be_written_is_critical(subject: Subject) -> None:
    said = subject.run("locked")
    assert (said.status, said.text.startswith("put: ")) == (Status.CRITICAL, True), said


def test_storage_that_is_full_is_critical_although_its_client_may_report_success(subject: Subject) -> None:
    said = subject.run("full")
    assert (said.status, said.text.partition(":")[0] in ("put", "stat")) == (Status.CRITICAL, True), said
    # The part that was stored went away again: now the same fits that could not fit beside it.
    assert subject.run("full", **{f"{subject.variable}_BYTES": "60000"}).status is Status.OK


def test_a_server_that_is_not_there_is_critical(subject: Subject) -> None:
    said = subject.run(**{subject.variable: f"{subject.root.partition(':')[0]}://localhost:1//probe"})
    assert (said.status, said.text.startswith("put: ")) == (Status.CRITICAL, True), said


def test_an_expired_credential_is_the_client_s_side(subject: Subject, request: pytest.FixtureRequest) -> None:
    more = {}
    if subject.kind == "xroot":  # where only a login looks at the credential
        more["PPS_SE_XROOT"] = f"{request.getfixturevalue('gsi_xrootd').xroot}/probe"
    said = subject.run(X509_USER_PROXY=subject.lab.expired, **more)
    assert (said.status, "client side: the credential" in said.text, " expired at " in said.text) == (
        Status.WARNING,
        True,
        True,
    ), said


def test_a_credential_that_cannot_be_read_is_the_client_s_side(subject: Subject) -> None:
    said = subject.run(X509_USER_PROXY=subject.lab.directory / "nothing")
    assert (said.status, "client side: the credential" in said.text) == (Status.WARNING, True), said


def test_a_server_of_an_unknown_authority_is_the_client_s_side(subject: Subject) -> None:
    said = subject.run(X509_CERT_DIR=subject.lab.strange)
    assert (said.status, said.text.startswith("put: client side")) == (Status.WARNING, True), said


def test_a_server_that_never_answers_is_critical_within_the_step_s_limit(lab: Lab, subject: Subject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{subject.root.partition(':')[0]}://localhost:{silent.getsockname()[1]}//probe"
        limit = "6" if subject.kind == "gsiftp" else "1"  # gfal2's own start counts too
        env = {
            **subject.environment(),
            subject.variable: address,
            "PPS_STEP_LIMIT_S": limit,
            "XRD_REQUESTTIMEOUT": "30",
        }
        said = run_plugin(subject.name, **env)
    assert (said.status, said.text) == (Status.CRITICAL, f"put: did not end within {limit} s")


@each_probe
def test_a_slow_server_is_a_warning_or_critical_as_asked(subject: Subject) -> None:
    slow = subject.run(**{f"{subject.variable}_WARN_S": "0.000001"})
    assert (slow.status, ", but it took " in slow.text) == (Status.WARNING, True)
    limits = {f"{subject.variable}_WARN_S": "0.000001", f"{subject.variable}_CRIT_S": "0.000002"}
    assert subject.run(**limits).status is Status.CRITICAL
    assert subject.run(**{f"{subject.variable}_WARN_S": "600"}).status is Status.OK


def test_what_an_earlier_run_left_is_removed_and_nothing_else(subject: Subject) -> None:
    now = int(time.time())
    names = {
        f"pps-probe-node7.example.org-{now - 7200}-42-0123456789abcdef": False,
        f"pps-probe-node7.example.org-{now - 60}-42-0123456789abcdef": True,
        f"pps-probe-{now - 7200}": True,
        f"my-pps-probe-node7-{now - 7200}-42-0123456789abcdef": True,
        "data.root": True,
    }
    for name in names:
        path = subject.storage.data / "probe" / name
        path.write_bytes(b"x")
        shutil.chown(path, path.parent.owner(), path.parent.group())
    said = subject.run()
    assert (said.status, said.perfdata["leftovers"]) == (Status.OK, 1), said
    assert subject.storage.files() == sorted(name for name, stays in names.items() if stays)
    for name in subject.storage.files():
        (subject.storage.data / "probe" / name).unlink()


# --- clients and servers that do not do what they say -----------------------------------------------

WRAPPERS = {
    "xroot": ("xrdcp", "got=$4; case $4 in *://*) moment=put;; *) moment=get;; esac"),
    "dav-davix": ("davix-{moment}", "moment={moment}; for got; do :; done"),
    "dav-curl": (
        "curl",
        """case "$*" in *" -T "*) moment=put;; *"-X GET"*) moment=get;; *) moment=other;; esac
previous=; for word; do [ "$previous" = -o ] && got=$word; previous=$word; done""",
    ),
}
"""Which program to stand before, and how it tells what it is asked for and where it puts what it gets."""

GFAL2 = """
import glob, importlib.util, subprocess, sys
me = sys.modules[__name__]
(path,) = glob.glob("/usr/lib/python3/dist-packages/gfal2*.so")
spec = importlib.util.spec_from_file_location("gfal2", path)
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
sys.modules[__name__] = me  # which the binding has put itself in place of
GError, get_version = real.GError, real.get_version
class Context:
    def __init__(self):
        self.real = real.creat_context()
    def __getattr__(self, name):
        return getattr(self.real, name)
    def filecopy(self, parameters, source, target):
        self.real.filecopy(parameters, source, target)
        if ("get" if source.startswith("gsiftp:") else "put") == {moment!r}:
            subprocess.run(["sh", "-c", "got=$1\\n" + {deed!r}, "sh", target.replace("file://", "")], check=True)
creat_context = Context
"""


def meddle(kind: str, tools: Path, moment: str, deed: str) -> dict[str, str]:
    """Give the environment in which shell text runs after the real client has put or got; ``$got`` is the file."""
    tools.mkdir()
    if kind == "gsiftp":
        (tools / "gfal2.py").write_text(GFAL2.format(moment=moment, deed=deed))
        return {"PYTHONPATH": str(tools)}
    program, tell = (text.replace("{moment}", moment) for text in WRAPPERS[kind])
    wrapper = tools / program
    wrapper.write_text(
        f'#!/bin/sh\n{tell}\n/usr/bin/{program} "$@" || exit\n[ $moment != {moment} ] || {{ {deed}; }}\n'
    )
    wrapper.chmod(0o755)
    return {"PATH": f"{tools}:{SYSTEM_PATH}"}


# Python's own TLS has no client to stand before; tests/probes/test_dav_faults.py has a server for it.
with_client = pytest.mark.parametrize("subject", [k for k in KINDS if k != "dav-python"], indirect=True)


@with_client
def test_content_that_changes_on_the_server_s_disk_is_critical(subject: Subject, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    place = subject.storage.data / "probe"
    deed = f"for file in {place}/pps-probe-*; do printf XXXXXXXX | dd of=$file bs=8 conv=notrunc status=none; done"
    said = subject.run(**meddle(subject.kind, tmp_path / "tools", "put", deed))
    assert (said.status, "checksum: the server says adler32" in said.text) == (Status.CRITICAL, True), said
    assert subject.storage.files() == []


@with_client
def test_content_that_is_cut_on_the_server_s_disk_is_critical(subject: Subject, tmp_path: Path) -> None:
    deed = f"for file in {subject.storage.data}/probe/pps-probe-*; do truncate -s 1000 $file; done"
    said = subject.run(**meddle(subject.kind, tmp_path / "tools", "put", deed))
    assert (said.status, said.text) == (Status.CRITICAL, "stat: 1000 bytes are stored of the 262144 that were put")
    assert subject.storage.files() == []


@with_client
def test_content_that_comes_back_wrong_is_critical(subject: Subject, tmp_path: Path) -> None:
    deed = 'printf XXXXXXXX | dd of="$got" bs=8 conv=notrunc status=none'
    said = subject.run(**meddle(subject.kind, tmp_path / "tools", "get", deed))
    assert (said.status, said.text) == (
        Status.CRITICAL,
        "get: 262144 bytes came back that are not the 262144 that were put",
    )
    assert subject.storage.files() == []


@with_client
def test_a_stopped_probe_removes_its_file(subject: Subject, tmp_path: Path) -> None:
    note = tmp_path / "note"
    env = {**subject.environment(), **meddle(subject.kind, tmp_path / "tools", "get", f"echo > {note}; exec sleep 600")}
    command = subject.lab.network.command([probe_path(subject.name)])
    with subprocess.Popen(
        command, env={"PATH": SYSTEM_PATH, **env}, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as probe:
        wait_for_text(note, 1, lambda: probe.poll() is None)
        assert len(subject.storage.files()) == 1
        os.killpg(probe.pid, signal.SIGTERM)  # as the runner does at the time limit
        said = read_plugin(probe.wait(20), probe.stdout.read() if probe.stdout else "")
    assert (said.status, said.text) == (Status.UNKNOWN, "get: stopped by SIGTERM before the end")
    assert subject.storage.files() == []


@with_client
def test_a_client_that_crashes_is_critical(subject: Subject, tmp_path: Path) -> None:
    deed = "kill -SEGV $PPID" if subject.kind == "gsiftp" else "kill -SEGV $$"
    said = subject.run(**meddle(subject.kind, tmp_path / "tools", "put", deed))
    assert (said.status, "dies of signal 11" in said.text) == (Status.CRITICAL, True), said
    assert subject.storage.files() == []


@with_client
def test_only_the_release_s_own_client_counts(subject: Subject, tmp_path: Path) -> None:
    said = subject.run(PPS_RELEASE_ROOT=tmp_path)
    assert (said.status, "not the release's" in said.text) == (Status.CRITICAL, True), said


@pytest.mark.parametrize("name", ["se.xroot", "se.dav", "se.gsiftp"])
@pytest.mark.parametrize(
    "address", ["", "http://x//y", "root://host", "davs://host", "gsiftp://h/p|q", "https://u:p@h/x"]
)
def test_without_a_usable_address_it_says_what_to_set(name: str, address: str) -> None:
    variable = f"PPS_SE_{name[3:].upper()}"
    said = run_plugin(name, **{variable: address})
    assert (said.status, said.text.startswith(f"set {variable} to ")) == (Status.UNKNOWN, True)


@pytest.mark.parametrize("size", ["-1", "x", "104857601", "nan"])
def test_a_size_that_is_none_is_unknown(size: str) -> None:
    said = run_plugin("se.dav", PPS_SE_DAV="https://localhost/x", PPS_SE_DAV_BYTES=size)
    assert (said.status, said.text) == (Status.UNKNOWN, "PPS_SE_DAV_BYTES must be a number from 0 to 104857600")
