"""The payload's code on its own, under every Python it may meet: what it runs, what it says, what it leaves."""

import ast
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pps_agent.probes import node_run
from pps_agent.probes.executors.answers import make_request
from pps_agent.probes.executors.payload import parse_document, render_payload
from pps_agent.probes.protocol import KILLED_BY_DIRECTORY
from pps_wire.node import NodeDocument, NodeRequest, NodeRun
from tests.probes.conftest import ends_within, needs_root, processes_with
from tests.support.nodes import make_task, name_of
from tests.support.services import need

SOURCE = Path(node_run.__file__)


def find_pythons() -> dict[str, str]:
    """Give the interpreters of this machine, by version: the system's, ours, and what pyenv has."""
    candidates = [sys.executable, "/usr/bin/python3"]
    candidates += [str(path) for path in Path.home().glob(".pyenv/versions/3.*/bin/python3")]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = {}
    for path in candidates:
        if os.access(path, os.X_OK):
            done = subprocess.run([path, "-IS", "-c", ask], capture_output=True, text=True, check=False)
            found.setdefault(done.stdout.strip(), path)
    return {version: path for version, path in found.items() if version}


PYTHONS = find_pythons()
GOOD = sorted(version for version in PYTHONS if tuple(map(int, version.split("."))) >= (3, 9))
OLD = sorted(set(PYTHONS) - set(GOOD))


class Payloads:
    """Runs payloads in a directory of their own, as a batch system would."""

    def __init__(self, base: Path) -> None:
        self.base, self.nonce = base, secrets.token_hex(16)
        self.scratch = base / "scratch"
        self.scratch.mkdir()
        self.probes = base / "probes"
        self.probes.mkdir()

    def write(self, request: NodeRequest, python: str = sys.executable) -> Path:
        """Write a payload."""
        path = self.base / "payload.py"
        path.write_text(render_payload(request, SOURCE.read_text(), python))
        path.chmod(0o700)
        return path

    def request(self, bodies: dict[str, str], **fields: object) -> NodeRequest:
        """Give a request for shell probes."""
        return make_request(
            make_task(self.probes, bodies, **fields), self.nonce, datetime.now(UTC) + timedelta(hours=1)
        )

    def start(self, payload: Path, **env: str) -> "subprocess.Popen[bytes]":
        """Start a payload by its own first line."""
        environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.scratch), **env}
        return subprocess.Popen([payload], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/")

    def run(self, request: NodeRequest, python: str = sys.executable, **env: str) -> NodeDocument:
        """Run a payload that must print its document; nothing of it may be left."""
        process = self.start(self.write(request, python), **env)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, b""), stderr.decode()
        assert list(self.scratch.iterdir()) == []
        return parse_document(stdout, self.nonce)

    def one(self, body: str, **fields: object) -> NodeRun:
        """Run one probe and give its facts."""
        (run,) = self.run(self.request({"it": body}, **fields)).runs
        return run


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[Payloads]:
    made = Payloads(tmp_path)
    yield made
    assert processes_with(f"PPS_RUN={made.nonce}") == set()


@pytest.mark.parametrize("version", GOOD)
def test_a_payload_runs_under_every_python_from_3_9_on(payloads: Payloads, version: str) -> None:
    request = payloads.request(
        {"ok": "echo fine; echo aside >&2", "bad": "echo broken; exit 2", "died": "kill -SEGV $$"}
    )
    document = payloads.run(request, PYTHONS[version])
    assert document.python.startswith(f"{version}.")
    assert document.node == os.uname().nodename
    told = [(run.probe, run.exit, run.signal, run.stdout, run.stderr) for run in document.runs]
    assert told[:2] == [("org.test.ok", 0, None, b"fine\n", b"aside\n"), ("org.test.bad", 2, None, b"broken\n", b"")]
    assert told[2][:3] == ("org.test.died", None, signal.SIGSEGV)


@pytest.mark.parametrize("version", OLD)
def test_an_older_python_hands_over_to_a_newer_one(payloads: Payloads, version: str) -> None:
    document = payloads.run(payloads.request({"ok": "echo fine"}), PYTHONS[version])
    assert tuple(map(int, document.python.split(".")[:2])) >= (3, 9)


def test_the_payload_is_understood_by_python_3_6_and_needs_the_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 6))
    imported = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_a_probe_sees_the_composed_environment_and_nothing_of_the_job_but_its_credentials(payloads: Payloads) -> None:
    request = payloads.request({"it": "env; pwd; echo $HOME; umask"}, env={"GRID": "composed"})
    (run,) = payloads.run(request, X509_USER_PROXY="/job/proxy", SECRET="of the job", SLURM_JOB_ID="7").runs
    lines = run.stdout.decode().splitlines()
    known = {line.partition("=")[0]: line.partition("=")[2] for line in lines if "=" in line}
    home = known.pop("HOME")
    assert {known.pop(name) for name in ("TMPDIR", "PWD")} == {home}
    assert lines[-3:] == [home, home, "0077"]
    assert home.startswith(f"{payloads.scratch}/pps-node-")
    assert {name: known[name] for name in known if name not in ("_", "OLDPWD", "SHLVL")} == {
        "GRID": "composed",
        "LC_ALL": "C.UTF-8",
        "LC_NUMERIC": "C",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PPS_RUN": payloads.nonce,
        "PPS_SITE": "TEST-SITE",
        "X509_USER_PROXY": "/job/proxy",
    }


def test_what_a_node_lacks_is_named_without_a_start(payloads: Payloads) -> None:
    fields = {"commands": ("sh", "no-such-command"), "variables": {"PPS_SITE": "here", "GONE": "its meaning"}}
    run = payloads.one("touch /tmp/started", **fields, needs_proxy=True)
    assert run.missing == (
        "command no-such-command is not in PATH",
        "variable GONE (its meaning)",
        "a proxy: X509_USER_PROXY of the job names no readable file",
    )
    assert (run.exit, run.signal, run.stdout) == (None, None, b"")


def test_a_hanging_probe_is_ended_and_the_next_one_runs(payloads: Payloads) -> None:
    bodies = {"hangs": "trap '' TERM; echo begun; sleep 60", "ok": "echo fine"}
    request = payloads.request(bodies, timeout_s=1)
    quick = tuple(msgspec.structs.replace(probe, grace_s=0.2) for probe in request.probes)
    hangs, fine = payloads.run(msgspec.structs.replace(request, probes=quick)).runs
    assert (hangs.timed_out, hangs.signal, hangs.stdout) == (True, signal.SIGKILL, b"begun\n")
    assert (fine.timed_out, fine.exit) == (False, 0)


def test_what_a_probe_leaves_behind_is_killed_and_counted(payloads: Payloads) -> None:
    run = payloads.one("setsid sleep 60 & sleep 60 & echo fine")
    assert (run.exit, run.stdout, run.leftovers_killed) == (0, b"fine\n", 2)


def test_output_is_cut_in_the_middle_and_counted(payloads: Payloads) -> None:
    run = payloads.one("head -c 300000 /dev/zero | tr '\\0' a; echo end; head -c 100000 /dev/zero >&2")
    assert (len(run.stdout), run.stdout_bytes, run.stdout[-5:]) == (64 * 1024, 300_004, b"aend\n")
    assert (len(run.stderr), run.stderr_bytes) == (32 * 1024, 100_000)


@pytest.mark.parametrize(
    ("limit", "body", "number"),
    [
        ({"cpu_s": 1}, "while :; do :; done", signal.SIGXCPU),
        ({"file_bytes": 4096}, "exec head -c 100000 /dev/zero > big", signal.SIGXFSZ),
    ],
)
def test_limits_hold_on_the_node(payloads: Payloads, limit: dict[str, int], body: str, number: int) -> None:
    run = payloads.one(body, limits=limit)
    assert (run.signal, run.timed_out) == (number, False)


def test_a_directory_that_grows_too_large_ends_the_probe(payloads: Payloads) -> None:
    body = "head -c 3000000 /dev/zero > a; echo filled; sleep 60"
    run = payloads.one(body, limits={"directory_bytes": 1_000_000})
    assert run.killed_by == KILLED_BY_DIRECTORY
    assert (run.timed_out, run.signal) == (False, signal.SIGTERM)


def test_nothing_is_left_of_a_tree_that_closes_itself_off(payloads: Payloads) -> None:
    body = "d=.; for i in 1 2 3 4 5; do d=$d/deep; mkdir $d; done; touch $d/f; chmod 0 $d deep; echo fine"
    assert payloads.one(body).exit == 0


def test_a_full_scratch_is_said_and_the_document_comes_all_the_same(payloads: Payloads) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", payloads.scratch], check=False)
    need("" if mount.returncode == 0 else "needs to mount a file system, so root")
    try:
        (payloads.scratch / "full").write_bytes(bytes(56 * 1024))
        process = payloads.start(
            payloads.write(payloads.request({"big": "echo fine\n#" + "x" * 20_000, "ok": "echo fine"}))
        )
        stdout, _ = process.communicate(timeout=60)
        big, fine = parse_document(stdout, payloads.nonce).runs
    finally:
        subprocess.run(["umount", payloads.scratch], check=True)
    assert (big.failure, big.exit) == ("could not be started: No space left on device", None)
    assert fine.exit == 0


def test_a_scratch_that_may_not_execute_does_with_the_interpreter(payloads: Payloads) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", payloads.scratch], check=False)
    need("" if mount.returncode == 0 else "needs to mount a file system, so root")
    try:
        bodies = {"sh": "echo fine", "python": f"#!{sys.executable} -IS\nprint('fine')\n"}
        document = payloads.run(payloads.request(bodies))
    finally:
        subprocess.run(["umount", payloads.scratch], check=True)
    assert [(run.exit, run.stdout) for run in document.runs] == [(0, b"fine\n")] * 2


def test_a_probe_that_cannot_be_started_is_said(payloads: Payloads) -> None:
    assert payloads.one("#!/no/such/interpreter\n").failure == "could not be started: No such file or directory"


def test_probes_that_the_jobs_time_does_not_reach_are_skipped_not_judged(payloads: Payloads) -> None:
    request = payloads.request({"slow": "sleep 60", "next": "echo fine"})
    slow, following = payloads.run(msgspec.structs.replace(request, time_limit_s=6.0)).runs
    assert (slow.skipped, slow.timed_out) == ("the job's time was used up while it ran", True)
    assert following.skipped == "the job's time was used up before it could start"


def test_a_payload_that_starts_too_late_does_nothing(payloads: Payloads) -> None:
    request = payloads.request({"it": f"touch {payloads.base}/started"})
    late = msgspec.structs.replace(request, not_after=datetime.now(UTC) - timedelta(seconds=2))
    process = payloads.start(payloads.write(late))
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (3, b"")
    assert b"nobody waits for the answer any more" in stderr
    assert not (payloads.base / "started").exists()


def test_a_payload_that_was_changed_on_its_way_does_nothing(payloads: Payloads) -> None:
    path = payloads.write(payloads.request({"it": "echo fine"}))
    text = path.read_text()
    place = text.index('REQUEST = """\n') + 30
    path.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    process = payloads.start(path)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (3, b"", b"pps node run: this payload was changed on its way\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_end_ends_its_probes_and_says_nothing(payloads: Payloads, number: int) -> None:
    fifo = payloads.base / "begun"
    os.mkfifo(fifo)
    process = payloads.start(payloads.write(payloads.request({"it": f"setsid sleep 60 & echo > {fifo}; sleep 60"})))
    fifo.read_bytes()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (143, b"")
    assert stderr == b"pps node run: told to end before all probes had run\n"
    assert list(payloads.scratch.iterdir()) == []


def test_the_probe_under_way_ends_with_a_payload_that_is_killed(payloads: Payloads) -> None:
    fifo = payloads.base / "begun"
    os.mkfifo(fifo)
    process = payloads.start(payloads.write(payloads.request({"it": f"echo $$ > {fifo}; exec sleep 60"})))
    pid = int(fifo.read_text())
    process.kill()
    process.communicate(timeout=60)
    assert ends_within(pid, 10)


@needs_root
def test_a_probe_cannot_write_into_the_jobs_output(public_directory: Path) -> None:
    payloads = Payloads(public_directory)
    request = payloads.request({"it": "(echo forged > /proc/$PPID/fd/1) 2>/dev/null || echo could not"})
    payload = payloads.write(request, "/usr/bin/python3")
    for path in (payload, payloads.scratch):
        os.chown(path, 65534, 65534)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", payload]
    done = subprocess.run(command, env={"TMPDIR": str(payloads.scratch)}, capture_output=True, check=False)
    (run,) = parse_document(done.stdout, payloads.nonce).runs
    assert run.stdout == b"could not\n"


def test_the_agents_command_runs_a_request_file_by_the_same_code(payloads: Payloads) -> None:
    request, document = payloads.base / "request.json", payloads.base / "document"
    request.write_bytes(msgspec.json.encode(payloads.request({"it": "echo fine"})))
    command = [sys.executable, "-m", "pps_agent", "node-run", str(request), str(document)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    (run,) = parse_document(document.read_bytes(), payloads.nonce).runs
    assert (run.probe, run.stdout) == (name_of("it"), b"fine\n")


def test_a_file_that_is_no_request_is_refused(payloads: Payloads) -> None:
    file = payloads.base / "request.json"
    for content in (b"", b"{}", b"[]", b'{"v": 2}', b"\xff", b'{"v": 1, "not_after": 7}'):
        file.write_bytes(content)
        done = subprocess.run([sys.executable, "-IS", SOURCE, file], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (3, b""), content
        assert b"Traceback" not in done.stderr
    usage = subprocess.run([sys.executable, "-IS", SOURCE], capture_output=True, check=False)
    assert usage.returncode == 2
