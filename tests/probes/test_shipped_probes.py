"""The shipped probes against the real thing: a real xrootd server, Debian's real clients."""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from demo.xrootd import XrootdServer, missing_reason, start_xrootd
from pps_agent.probes.catalogue import load_catalogue
from pps_agent.probes.client import RunnerClient
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.parse import parse_perfdata
from pps_agent.state import ProbeResult
from pps_wire.names import ReleaseId
from pps_wire.report import Status
from tests.probes.conftest import wait_for_text
from tests.support.services import need

RELEASE = ReleaseId("grid-clients-5.5.3-x86_64-glibc2.36")
STAT = '[ "$2" != stat ] || { echo "Size: 262144"; exit; }'
QUICK = {"XRD_CONNECTIONRETRY": "1", "XRD_CONNECTIONWINDOW": "2", "XRD_STREAMERRORWINDOW": "2"}


def shipped(name: str) -> ProbeDefinition:
    definition = load_catalogue().find(name)
    assert definition is not None
    return definition


def tree_environment(tree: Path, **more: str) -> dict[str, str]:
    """Give the environment in which the agent probes a release."""
    return {
        "PATH": f"{tree}/bin:/usr/bin:/bin",
        "PPS_RELEASE": RELEASE,
        "PPS_RELEASE_ROOT": str(tree),
        "PPS_RELEASE_VERSION": "5.5.3",
        "PPS_VO": "dteam",
        "PPS_SITE": "TEST-SITE",
        **QUICK,
        **more,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[XrootdServer]:
    """Give a real xrootd server."""
    need(missing_reason())
    with start_xrootd() as running:
        yield running


@pytest.fixture
def tree(public_directory: Path) -> Path:
    """Give a release's tree: a copy of Debian's xrdcp, a link to its xrdfs, a script, the libraries of xrdcp."""
    need("" if shutil.which("xrdcp", path="/usr/bin") else "xrdcp is not installed: apt-get install xrootd-client")
    tree = public_directory / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy2("/usr/bin/xrdcp", tree / "bin" / "xrdcp")
    (tree / "bin" / "xrdfs").symlink_to("/usr/bin/xrdfs")
    write_client(tree, "arcinfo", "echo arcinfo version 6.17.0")
    (tree / "VERSION").write_text("5.5.3-1\n")
    return tree


def write_client(tree: Path, name: str, body: str) -> None:
    path = tree / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def run(runner: RunnerClient, name: str, env: Mapping[str, str]) -> ProbeResult:
    return runner.run(shipped(name), env, RELEASE)


def perfdata(result: ProbeResult) -> dict[str, float | None]:
    return {datum.label: datum.value for datum in parse_perfdata(result.perfdata)}


# --- wn.softver ------------------------------------------------------------------------------------


def test_softver_passes_a_tree_that_is_what_it_says(runner: RunnerClient, tree: Path) -> None:
    result = run(runner, "wn.softver", tree_environment(tree))
    assert (result.status, result.summary) == (
        Status.OK,
        "SOFTVER OK - 5.5.3: VERSION agrees, 2 clients start",
    )
    assert "xrdcp: v5.5.3" in result.details
    assert (perfdata(result)["clients"], perfdata(result)["failed"]) == (2, 0)


def test_softver_passes_a_tree_without_a_version_file_by_its_clients(runner: RunnerClient, tree: Path) -> None:
    (tree / "VERSION").unlink()
    result = run(runner, "wn.softver", tree_environment(tree))
    assert result.status is Status.OK
    assert "no VERSION file" in result.summary


@pytest.mark.parametrize("stated", ["5.5.4", "5.5.30", "5.5", "\n", "\udcff".encode("utf-8", "surrogateescape").hex()])
def test_softver_fails_a_tree_of_another_version(runner: RunnerClient, tree: Path, stated: str) -> None:
    (tree / "VERSION").write_text(stated)
    assert run(runner, "wn.softver", tree_environment(tree)).status is Status.CRITICAL


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("kill -SEGV $$", "arcinfo: --version dies of SIGSEGV"),
        ("echo 'ImportError: no gfal2' >&2; exit 1", "fails with exit 1: ImportError: no gfal2"),
        ("exec /no/such/thing", "fails with exit 127"),
    ],
)
def test_softver_fails_a_client_that_does_not_work(runner: RunnerClient, tree: Path, body: str, words: str) -> None:
    write_client(tree, "arcinfo", body)
    result = run(runner, "wn.softver", tree_environment(tree))
    assert result.status is Status.CRITICAL
    assert words in result.summary


def test_softver_fails_a_real_client_whose_library_is_gone(runner: RunnerClient, tree: Path) -> None:
    original = (tree / "bin" / "xrdcp").read_bytes()
    assert b"libXrdCl.so.3" in original
    (tree / "bin" / "xrdcp").write_bytes(original.replace(b"libXrdCl.so.3", b"libXrdXX.so.3"))
    result = run(runner, "wn.softver", tree_environment(tree))
    assert result.status is Status.CRITICAL
    assert "libXrdXX.so.3" in result.summary


def test_softver_fails_a_client_that_cannot_be_executed_or_leads_nowhere(runner: RunnerClient, tree: Path) -> None:
    (tree / "bin" / "arcinfo").chmod(0o644)
    assert "does not start: Permission denied" in run(runner, "wn.softver", tree_environment(tree)).summary
    (tree / "bin" / "arcinfo").unlink()
    (tree / "bin" / "arcinfo").symlink_to("nowhere")
    assert "does not start: No such file" in run(runner, "wn.softver", tree_environment(tree)).summary


def test_softver_does_not_pass_what_it_could_not_check(runner: RunnerClient, public_directory: Path) -> None:
    empty = public_directory / "empty"
    empty.mkdir()
    assert run(runner, "wn.softver", tree_environment(empty)).status is Status.UNKNOWN
    assert run(runner, "wn.softver", tree_environment(empty / "gone")).status is Status.CRITICAL
    result = run(runner, "wn.softver", {"PATH": "/usr/bin:/bin"})
    assert result.summary.startswith("missing requirement: variable PPS_RELEASE_ROOT")


# --- wn.env ----------------------------------------------------------------------------------------


def test_env_passes_a_sane_environment(runner: RunnerClient, tree: Path) -> None:
    env = tree_environment(tree, X509_CERT_DIR="/etc", PPS_INHERITED="X509_CERT_DIR, PPS_VO")
    result = run(runner, "wn.env", env)
    assert (result.status, result.summary) == (
        Status.OK,
        "ENV OK - PATH, variables and the libraries of 3 clients are in order",
    )
    assert (perfdata(result)["clients"], perfdata(result)["faults"]) == (3, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PATH": "/usr/bin:/bin"}, "PATH begins with /usr/bin, not in the release"),
        ({"LD_LIBRARY_PATH": "/opt/lib"}, "LD_LIBRARY_PATH is set"),
        ({"PPS_INHERITED": "X509_CERT_DIR BDII_LIST"}, "the site's BDII_LIST was not inherited"),
    ],
)
def test_env_fails_an_environment_that_leads_elsewhere(
    runner: RunnerClient, tree: Path, change: dict[str, str], words: str
) -> None:
    result = run(runner, "wn.env", tree_environment(tree, X509_CERT_DIR="/etc", **change) | change)
    assert result.status is Status.CRITICAL
    assert words in result.summary


def test_env_warns_of_a_site_directory_that_is_not_there(runner: RunnerClient, tree: Path) -> None:
    result = run(runner, "wn.env", tree_environment(tree, X509_CERT_DIR="/no/such/certificates"))
    assert (result.status, "X509_CERT_DIR names /no/such" in result.summary) == (Status.WARNING, True)


def test_env_fails_a_client_whose_library_is_not_found(runner: RunnerClient, tree: Path) -> None:
    client = tree / "bin" / "xrdcp"
    client.write_bytes(client.read_bytes().replace(b"libXrdCl.so.3", b"libXrdXX.so.3"))
    result = run(runner, "wn.env", tree_environment(tree))
    assert result.status is Status.CRITICAL
    assert "xrdcp: library libXrdXX.so.3 is not found" in result.summary


def test_env_fails_a_library_that_is_carried_but_taken_from_the_system(runner: RunnerClient, tree: Path) -> None:
    (tree / "lib").mkdir()
    (library,) = (p for p in Path("/usr/lib").glob("*/libXrdCl.so.3"))
    shutil.copy2(library, tree / "lib" / "libXrdCl.so.3")  # no RUNPATH in the client leads there
    result = run(runner, "wn.env", tree_environment(tree))
    assert result.status is Status.CRITICAL
    assert re.search(r"libXrdCl\.so\.3 comes from /\S+ although the release carries it", result.summary)


# --- se.xroot --------------------------------------------------------------------------------------


def test_xroot_makes_the_round_trip_and_leaves_nothing(runner: RunnerClient, tree: Path, server: XrootdServer) -> None:
    result = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=server.url))
    assert (result.status, result.release) == (Status.OK, RELEASE), result.summary
    assert list(perfdata(result)) == ["put", "stat", "checksum", "get", "remove", "total", "leftovers"]
    assert list(server.data.iterdir()) == []


def test_xroot_uses_the_release_s_client_and_no_other(runner: RunnerClient, tree: Path, server: XrootdServer) -> None:
    (tree / "bin" / "xrdcp").unlink()
    result = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=server.url))
    assert result.status is Status.CRITICAL
    assert "xrdcp is /usr/bin/xrdcp, not the release's" in result.summary


def test_xroot_fails_when_the_server_refuses_or_is_not_there(
    runner: RunnerClient, tree: Path, server: XrootdServer
) -> None:
    refused = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=server.url.replace("probe", "other")))
    assert (refused.status, "put: the server refused (exit 54)" in refused.summary) == (Status.CRITICAL, True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"root://localhost:{unused.getsockname()[1]}//probe"
        absent = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=address))
    assert (absent.status, "put: the connection failed (exit 51)" in absent.summary) == (Status.CRITICAL, True)


@pytest.mark.parametrize(
    ("client", "body", "status", "words"),
    [
        ("xrdcp", "kill -SEGV $$", Status.CRITICAL, "put: xrdcp dies of signal 11"),
        ("xrdcp", "exec /no/such/thing", Status.CRITICAL, "put: xrdcp does not start"),
        ("xrdcp", "echo 'auth failed: no proxy'; exit 52", Status.WARNING, "put: client side, exit 52"),
        ("xrdcp", "exit 0", Status.CRITICAL, "stat: the server refused"),
        ("xrdfs", f"{STAT}; echo adler32 deadbeef", Status.CRITICAL, "checksum: the server says adler32 deadbeef"),
        ("xrdfs", f"{STAT}; echo md5 1234", Status.CRITICAL, "checksum: the server says md5 1234, it should be "),
        ("xrdfs", f"{STAT}; echo crc64 1234", Status.CRITICAL, "answers with crc64, which this probe cannot compare"),
        ("xrdfs", "echo 'Flags: 16'", Status.CRITICAL, "stat: no size in the answer"),
    ],
)
def test_xroot_tells_whose_fault_a_failure_is(
    runner: RunnerClient,
    tree: Path,
    server: XrootdServer,
    client: str,
    body: str,
    status: Status,
    words: str,
) -> None:
    write_client(tree, client, body)
    result = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=server.url))
    assert (result.status, words in result.summary) == (status, True), result.summary
    for path in server.data.iterdir():  # an xrdfs that is none cannot remove either
        path.unlink()


def test_xroot_notices_wrong_bytes_and_still_removes_its_file(
    runner: RunnerClient, tree: Path, server: XrootdServer
) -> None:
    spoil = 'printf XXXXXXXX | dd of="$4" bs=8 conv=notrunc status=none'
    body = f'/usr/bin/xrdcp "$@" || exit\ncase $4 in root:*) ;; *) {spoil};; esac'
    write_client(tree, "xrdcp", body)
    result = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=server.url))
    assert (result.status, "get: 262144 bytes came back that are not" in result.summary) == (Status.CRITICAL, True)
    assert list(server.data.iterdir()) == []


def test_xroot_warns_when_it_is_slower_than_asked(runner: RunnerClient, tree: Path, server: XrootdServer) -> None:
    env = tree_environment(tree, PPS_SE_XROOT=server.url, PPS_SE_XROOT_WARN_S="0.000001")
    result = run(runner, "se.xroot", env)
    assert (result.status, "but it took" in result.summary) == (Status.WARNING, True)


def test_xroot_removes_its_file_when_it_is_stopped(tree: Path, server: XrootdServer, tmp_path: Path) -> None:
    note = tmp_path / "got"
    body = f'/usr/bin/xrdcp "$@" || exit\ncase $4 in root:*) ;; *) echo got > {note}; exec sleep 600;; esac'
    write_client(tree, "xrdcp", body)
    env = tree_environment(tree, PPS_SE_XROOT=server.url)
    with subprocess.Popen(
        [shipped("se.xroot").run], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as probe:
        wait_for_text(note, 1, lambda: probe.poll() is None)
        assert len(list(server.data.iterdir())) == 1
        os.killpg(probe.pid, signal.SIGTERM)  # as the runner does at the time limit
        said = probe.communicate(timeout=20)[0]
    assert probe.returncode == Status.UNKNOWN
    assert "stopped by SIGTERM" in said
    assert list(server.data.iterdir()) == []


@pytest.mark.parametrize("address", ["", "http://x//y", "root://host", "root://host/one/slash", "root://h//p|q"])
def test_xroot_without_a_usable_address_says_what_to_set(runner: RunnerClient, tree: Path, address: str) -> None:
    result = run(runner, "se.xroot", tree_environment(tree, PPS_SE_XROOT=address))
    assert (result.status, "PPS_SE_XROOT" in result.summary) == (Status.UNKNOWN, True)


SERVICES = ["se.xroot", "se.dav", "se.gsiftp", "bdii.query", "ce.arc", "ce.htcondor", "squid.cache"]


@pytest.mark.parametrize("name", ["wn.softver", "wn.env", *SERVICES])
def test_by_hand_a_probe_speaks_as_a_plugin_without_any_settings(name: str) -> None:
    done = subprocess.run([shipped(name).run], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (Status.UNKNOWN, b"")
    assert b" UNKNOWN - set PPS_" in done.stdout


@pytest.mark.parametrize("name", ["wn.softver", "wn.env", *SERVICES])
def test_a_shipped_probe_keeps_to_the_oldest_python_it_promises(name: str) -> None:
    source = shipped(name).run.read_text()
    assert source.startswith("#!/usr/bin/python3 -IS\n")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Match)]


def test_what_probes_share_is_the_same_in_each() -> None:
    """A probe is one file, so that it travels alone; what several have is marked, and changed in all or none."""
    blocks: dict[str, set[str]] = {}
    for name in SERVICES:
        source = shipped(name).run.read_text()
        for block, text in re.findall(r"# --- shared: (\w+) ---\n(.*?)# --- end of \1 ---\n", source, re.DOTALL):
            blocks.setdefault(block, set()).add(text)
    assert {"plugin", "clients", "storage", "credential", "https"} == blocks.keys()
    assert [block for block, texts in blocks.items() if len(texts) != 1] == []


# --- the server itself -----------------------------------------------------------------------------


def test_the_demo_s_server_answers_this_machine_only(server: XrootdServer) -> None:
    def list_over(address: str) -> int:
        command = ["/usr/bin/xrdfs", f"root://{address}:{server.port}", "ls", "/probe"]
        return subprocess.run(command, env={**os.environ, **QUICK}, capture_output=True, check=False).returncode

    assert list_over("127.0.0.1") == 0
    assert list_over("localhost") == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # sends nothing; tells the address others know us by
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = outward.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    assert list_over(address) != 0
    assert "permission denied" in (server.directory / "xrootd.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have two users")
def test_the_demo_s_server_is_not_root_and_goes_with_its_files() -> None:
    need(missing_reason())
    with start_xrootd() as server:
        assert server.process.pid > 0
        assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0
    assert server.process.poll() is not None
    assert not server.directory.exists()
