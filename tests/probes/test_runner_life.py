"""The runner's own life: who may talk to it, whom it becomes, and that nothing outlives it."""

import contextlib
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_agent.errors import ConfigError, SiteError
from pps_agent.probes import client as client_module
from pps_agent.probes.client import RunnerClient, connect_runner, start_runner
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.fields import MAX_LINE_BYTES
from pps_agent.probes.peer import MAX_WAITING
from pps_agent.probes.protocol import RunRequest, parse_greeting, render_request
from pps_wire.report import Status
from tests.probes.conftest import ENV, WriteProbe, ends_within, needs_root, processes_with, wait_for_processes

RUNNER = Path(client_module.__file__).with_name("runner.py")
ROOT = RUNNER.parents[2]

# Stands for the agent: starts a runner, asks for one run, and says where the runner is.
AGENT = """
import sys
from pathlib import Path
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.client import start_runner
state, run, token, started = sys.argv[1:]
with start_runner(state=Path(state), temporary=Path(state)) as runner:
    print(runner.runner_pid, flush=True)
    runner.run(ProbeDefinition(name="org.test.it", run=Path(run)), {"PATH": "/usr/bin:/bin", "PPS_TEST": token}, None)
"""
HANGING = "setsid sleep 600 &\nexec sleep 600"


@contextlib.contextmanager
def agent_with_a_hanging_probe(
    write_probe: WriteProbe, directory: Path, token: str
) -> Iterator[tuple["subprocess.Popen[str]", int, set[int]]]:
    """Give an agent process, its runner's pid, and the pids of a probe and of its child in another session."""
    probe = write_probe(HANGING)
    command = [sys.executable, "-c", AGENT, str(directory), str(probe.run), token, "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) as agent:
        try:
            assert agent.stdout is not None
            runner_pid = int(agent.stdout.readline())
            yield agent, runner_pid, wait_for_processes(token, 2)
        finally:
            agent.kill()
            for pid in processes_with(token):
                os.kill(pid, signal.SIGKILL)


def test_when_the_agent_is_killed_no_probe_and_no_runner_survives(write_probe: WriteProbe, tmp_path: Path) -> None:
    token = secrets.token_hex(8)
    with agent_with_a_hanging_probe(write_probe, tmp_path, token) as (agent, runner_pid, pids):
        agent.kill()
        assert [ends_within(pid, 20) for pid in (*pids, runner_pid)] == [True] * 3


def test_when_the_runner_is_killed_the_run_is_lost_and_its_processes_are_swept(
    write_probe: WriteProbe,
) -> None:
    token = secrets.token_hex(8)
    with start_runner() as runner:
        run = runner.submit([str(write_probe(HANGING).run)], {**ENV, "PPS_TEST": token}, 600)
        wait_for_processes(token, 2)
        os.kill(runner.runner_pid, signal.SIGKILL)
        ((lost, reason),) = runner.poll(20)
        assert (lost, str(reason).startswith("lost: the probe runner ended")) == (run, True)
        with pytest.raises(SiteError, match="the probe runner is gone"):
            runner.run(write_probe("echo OK"), ENV, None)
    assert processes_with(token) == set()


def test_what_both_deaths_left_is_swept_by_the_next_start_for_the_same_state_only(
    write_probe: WriteProbe, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    with agent_with_a_hanging_probe(write_probe, tmp_path, token) as (agent, runner_pid, pids):
        os.kill(runner_pid, signal.SIGSTOP)
        agent.kill()
        agent.wait()
        os.kill(runner_pid, signal.SIGKILL)
        assert ends_within(runner_pid, 20)
        with start_runner(state=tmp_path / "another"):
            assert processes_with(token) == pids
        assert len(list(tmp_path.glob("pps-probes-*"))) == 1
        with start_runner(state=tmp_path, temporary=tmp_path):
            assert processes_with(token) == set()
        assert list(tmp_path.glob("pps-probes-*")) == []


def test_a_start_does_not_touch_the_runs_of_a_living_runner_of_the_same_state(
    write_probe: WriteProbe, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    with agent_with_a_hanging_probe(write_probe, tmp_path, token) as (_, _, pids):
        with start_runner(state=tmp_path) as runner:
            assert runner.run(write_probe("echo OK", name="other"), ENV, None).status is Status.OK
        assert processes_with(token) == pids


def test_the_end_of_the_context_ends_the_runner_and_removes_its_directory(
    write_probe: WriteProbe, tmp_path: Path
) -> None:
    with start_runner(temporary=tmp_path) as runner:
        runner.run(write_probe("echo OK"), ENV, None)
        assert len(list(tmp_path.iterdir())) == 1
    assert ends_within(runner.runner_pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_without_another_user_the_client_says_that_there_is_one_user_only() -> None:
    with start_runner() as runner:
        assert runner.single_user
        assert runner.runner_uid == os.geteuid()


# --- two users -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split_runner() -> Iterator[RunnerClient]:
    """Give a runner of another user than ours."""
    with start_runner("nobody") as runner:
        assert not runner.single_user
        yield runner


@needs_root
def test_the_runner_is_another_user_for_good_and_without_groups(
    split_runner: RunnerClient, write_probe: WriteProbe
) -> None:
    body = "echo OK\ngrep -E '^(Uid|Gid|Groups|NoNewPrivs|CapPrm|CapEff|CapAmb)' /proc/self/status"
    nobody = pwd.getpwnam("nobody")
    fields = dict(line.split(":") for line in split_runner.run(write_probe(body), ENV, None).details.split("\n"))
    assert fields["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert fields["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert fields["Groups"].split() == []
    assert fields["NoNewPrivs"].strip() == "1"
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}


@needs_root
def test_a_probe_of_the_other_user_reads_no_key_writes_no_store_and_enters_no_run(
    split_runner: RunnerClient, write_probe: WriteProbe, public_directory: Path
) -> None:
    key, store = public_directory / "key.pem", public_directory / "store"
    store.mkdir(mode=0o755)
    (store / "client").write_text("the real one")
    key.write_text("secret")
    key.chmod(0o600)
    private = public_directory / "pps-run-of-another"
    private.mkdir(mode=0o700)
    attempts = [
        f"cat {key}",
        f"touch {store}/new",
        f"echo wrong > {store}/client",
        f"rm {store}/client",
        f"ls {private}",
        "ls $(dirname $PWD)",
        "cat /proc/$PPID/environ",
        "ls /proc/$PPID/fd",
        "dd if=/proc/$PPID/mem bs=1 count=1",
        "kill -0 1",
    ]
    body = "\n".join(f"( {attempt} ) >/dev/null 2>&1 && echo 'DID {attempt}'" for attempt in attempts)
    result = split_runner.run(write_probe(f"{body}\ncat {store}/client >/dev/null && echo OK"), ENV, None)
    assert (result.summary, result.details) == ("OK", "")
    assert (store / "client").read_text() == "the real one"


@needs_root
def test_the_other_users_escapees_are_ended_too(split_runner: RunnerClient, write_probe: WriteProbe) -> None:
    token = secrets.token_hex(8)
    probe = write_probe("setsid sleep 600 >/dev/null 2>&1 &\nsleep 0.1\necho OK")
    result = split_runner.run(probe, {**ENV, "PPS_TEST": token}, None)
    assert (result.status, result.leftovers_killed) == (Status.OK, 1)
    assert processes_with(token) == set()


@needs_root
def test_an_unknown_account_is_the_settings_fault() -> None:
    with pytest.raises(ConfigError, match="no account 'no-such-user'"), start_runner("no-such-user"):
        pass


# --- the installed unit's socket -------------------------------------------------------------------


@contextlib.contextmanager
def listening_runner(directory: Path, allowed_uid: int) -> Iterator[Path]:
    """Give the path of a socket on which a runner serves one user's agents."""
    path, base = directory / "socket", directory / "base"
    base.mkdir(mode=0o700)
    command = [sys.executable, "-I", "-S", str(RUNNER), "--base", str(base), "--owner", secrets.token_hex(8)]
    with subprocess.Popen([*command, "--socket", str(path), "--allow-uid", str(allowed_uid)]) as process:
        try:
            while not path.exists() or not _accepts(path):
                assert process.poll() is None
            yield path
        finally:
            process.terminate()
            assert process.wait(20) == 0
    assert list(base.iterdir()) == []


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def test_several_agents_share_an_installed_runner_and_each_ends_its_own_runs(
    write_probe: WriteProbe, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    hanging = write_probe(HANGING, name="hanging")
    with listening_runner(tmp_path, os.geteuid()) as path, connect_runner(path) as staying:
        leaving = socket.socket(socket.AF_UNIX)
        leaving.connect(str(path))
        request = RunRequest("a1", (str(hanging.run),), {**ENV, "PPS_TEST": token}, 600.0, 5.0)
        leaving.sendall(render_request(request))
        pids = wait_for_processes(token, 2)
        leaving.close()
        assert [ends_within(pid, 20) for pid in pids] == [True, True]
        assert staying.run(write_probe("echo OK"), ENV, None).status is Status.OK


def test_an_agent_of_another_user_gets_no_word(tmp_path: Path) -> None:
    with (
        listening_runner(tmp_path, os.geteuid() + 1) as path,
        pytest.raises(SiteError, match="did not start"),
        connect_runner(path),
    ):
        pass


def test_a_socket_without_a_runner_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"start pps-agent-runner\.service"), connect_runner(tmp_path / "none"):
        pass


def test_a_runner_takes_the_place_of_a_dead_socket_but_not_of_a_living_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with listening_runner(tmp_path / "one", os.geteuid()) as path:
        command = [sys.executable, "-I", "-S", str(RUNNER), "--base", str(tmp_path), "--owner", "x"]
        second = subprocess.run([*command, "--socket", str(path)], capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert "another runner answers there" in second.stderr
    (tmp_path / "one" / "base").rmdir()
    with listening_runner(tmp_path / "one", os.geteuid()) as path, connect_runner(path) as runner:
        assert runner.single_user


@pytest.fixture(scope="module")
def fuzzed_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give one socket for all hostile messages."""
    with listening_runner(tmp_path_factory.mktemp("fuzz"), os.geteuid()) as path:
        yield path


def send(path: Path, content: bytes) -> bytes:
    """Send bytes to a runner; give all it answers until it closes the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                answer += chunk
        return bytes(answer)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=300).map(lambda raw: raw + b"\n"))
def test_any_bytes_only_cost_their_sender_the_connection(fuzzed_socket: Path, content: bytes) -> None:
    answer = send(fuzzed_socket, content)
    assert answer.count(b"\n") == 1
    parse_greeting(answer)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x" * (MAX_LINE_BYTES + 65_536), id="endless line"),
        pytest.param(b"[" * 500_000 + b"\n", id="deep nesting"),
        pytest.param(b'{"run":"a"}\n', id="half a request"),
        pytest.param(b"\xff\xfe{\0\n", id="another encoding"),
        pytest.param(b"\n", id="empty line"),
    ],
)
def test_a_hostile_message_ends_the_connection_and_the_runner_goes_on(fuzzed_socket: Path, content: bytes) -> None:
    parse_greeting(send(fuzzed_socket, content))
    with connect_runner(fuzzed_socket) as runner:
        definition = ProbeDefinition(name="org.test.echo", run=Path("/bin/echo"))  # type: ignore[arg-type]
        assert runner.run(definition, ENV, None).status is Status.UNKNOWN  # it prints an empty line


def test_one_run_asked_for_twice_or_too_many_runs_end_the_connection(fuzzed_socket: Path) -> None:
    request = RunRequest("a1", ("/bin/sleep", "600"), ENV, 600.0, 0.0)
    parse_greeting(send(fuzzed_socket, render_request(request) * 2))
    many = [RunRequest(f"a{n}", ("/bin/sleep", "600"), ENV, 600.0, 0.0) for n in range(MAX_WAITING + 20)]
    parse_greeting(send(fuzzed_socket, b"".join(map(render_request, many))))
