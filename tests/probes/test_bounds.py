"""What a run may take of the machine, and what it is given: disk, secrets, a start that does not come."""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.protocol import KILLED_BY_DIRECTORY, RunResponse
from pps_agent.probes.usage import ENTRY_BYTES, measure_held, measure_tree
from pps_wire.report import Status
from tests.probes.conftest import ENV, WriteProbe, needs_root, processes_with
from tests.support.services import need

MIB = 1024**2


def answer(runner: RunnerClient, script: str, timeout_s: float = 30, **limits: int) -> RunResponse:
    """Run a shell script as a probe."""
    run = runner.submit(["/bin/sh", "-c", script], ENV, timeout_s, limits=limits)
    ((answered, outcome),) = runner.poll(60)
    assert answered == run
    assert isinstance(outcome, RunResponse)
    return outcome


def test_limits_hold_for_what_a_program_starts_at_once_and_leaves_without_a_parent(runner: RunnerClient) -> None:
    script = "( (sleep 0.15; grep 'open files' /proc/self/limits >seen) & )\nsleep 0.3; cat seen"
    told = [answer(runner, script, files=200).stdout.split() for _ in range(20)]
    assert told == [[b"Max", b"open", b"files", b"200", b"200", b"files"]] * 20


# --- the size of a run's directory -----------------------------------------------------------------

PYTHON_HOLDER = """
import os, time
f = open("gone", "wb"); os.unlink("gone")
f.write(bytes(30 * 2**20)); f.flush(); time.sleep(600)
"""
PYTHON_DIGGER = """
import os
for _ in range(9000):
    os.mkdir("d" * 9); os.chdir("d" * 9)
"""
FILLERS = {
    "one large file": "head -c 30000000 /dev/zero > big",
    "many files": "i=0; while [ $i -lt 40 ]; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done",
    "many empty files": "/usr/bin/python3 -IS -c 'for n in range(6000): open(str(n), \"w\")'",
    "a directory it cannot list": "mkdir d; head -c 30000000 /dev/zero > d/big; chmod 0 d",
    "its own directory, locked": "head -c 30000000 /dev/zero > big; chmod 0 .",
    "deep directories": '/usr/bin/python3 -IS -c \'import os\nfor _ in range(9000): os.mkdir("d"*9); os.chdir("d"*9)\'',
    "a file without a name": f"/usr/bin/python3 -IS -c '{PYTHON_HOLDER}' &",
}


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_a_run_whose_directory_outgrows_its_limit_is_killed_and_that_is_said(runner: RunnerClient, filler: str) -> None:
    token = secrets.token_hex(8)
    response = answer(runner, f": {token}\n{filler}\nexec sleep 600", 60, directory_bytes=20 * MIB)
    assert (response.killed_by, response.signal, response.timed_out) == (KILLED_BY_DIRECTORY, 9, False)
    assert processes_with(token) == set()


def test_the_verdict_on_a_run_that_filled_its_directory_names_the_limit(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    probe = write_probe("echo so far OK; head -c 30000000 /dev/zero > big; sleep 600", limits={"directory_bytes": MIB})
    result = runner.run(probe, ENV, None)
    assert result.status is Status.UNKNOWN
    assert result.summary == (
        "killed: its directory had grown too large (limits.directory_bytes) (it had said: so far OK)"
    )


def test_what_takes_no_room_counts_little(runner: RunnerClient) -> None:
    script = (
        "truncate -s 100G sparse; i=0; while [ $i -lt 50 ]; do ln sparse l$i; i=$((i+1)); done; ln -s / all; sleep 2.5"
    )
    assert answer(runner, script, directory_bytes=20 * MIB).exit == 0


def test_a_tree_is_counted_by_blocks_each_file_once_and_no_further_than_needed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(MIB))
    before = measure_tree(str(tmp_path), 2**60)
    assert MIB <= before <= MIB + 4 * ENTRY_BYTES
    (tmp_path / "a" / "again").hardlink_to(tmp_path / "a" / "file")
    (tmp_path / "link").symlink_to("/")
    assert measure_tree(str(tmp_path), 2**60) == before + 2 * ENTRY_BYTES
    for number in range(100):
        (tmp_path / f"empty{number}").touch()
    assert 10 * ENTRY_BYTES < measure_tree(str(tmp_path), 10 * ENTRY_BYTES) < 2 * MIB


def test_a_tree_too_deep_for_paths_is_measured_and_an_absurd_one_counts_as_too_much(tmp_path: Path) -> None:
    def dig(levels: int, name: str) -> None:
        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=here)
            deeper = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(here)

    dig(200, "d" * 100)
    assert 200 * ENTRY_BYTES <= measure_tree(str(tmp_path), 2**60) <= 400 * ENTRY_BYTES
    dig(700, "e" * 250)
    assert measure_tree(str(tmp_path), 2**60) == 2**60 + 1
    assert len(list(Path("/proc/self/fd").iterdir())) < 200
    subprocess.run(["rm", "-rf", str(tmp_path / ("d" * 100)), str(tmp_path / ("e" * 250))], check=True)


def test_files_without_a_name_are_counted_where_they_are_held(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("wb") as held:
        held.write(bytes(MIB))
        held.flush()
        before = measure_held([os.getpid()], str(tmp_path))
        (tmp_path / "gone").unlink()
        assert measure_held([os.getpid(), os.getpid(), 2**22 + 1], str(tmp_path)) == before + MIB


# --- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
def test_a_secret_is_a_file_of_the_run_alone_and_goes_with_it(user: str) -> None:
    secret = b"tell\0 nobody\xff"
    script = 'cat "$TOKEN"; stat -c %a "$TOKEN" >&2; dirname "$TOKEN" >&2; pwd >&2; cat "$OTHER" >&2'
    with start_runner(user) as runner:
        runner.submit(["/bin/sh", "-c", script], ENV, 20, secret_files={"TOKEN": secret, "OTHER": b"second"})
        ((_, outcome),) = runner.poll(30)
        assert isinstance(outcome, RunResponse)
        mode, home, directory, second = outcome.stderr.decode().split("\n")
        assert (outcome.stdout, mode, home == directory, second) == (secret, "400", True, "second")
        assert not Path(home).exists()


def test_a_secret_is_in_no_argument_and_in_no_environment(runner: RunnerClient) -> None:
    token = secrets.token_hex(16)
    script = (
        "tr '\\0' '\\n' < /proc/self/environ; tr '\\0' '\\n' < /proc/self/cmdline; tr '\\0' '\\n' < /proc/$PPID/cmdline"
    )
    runner.submit(["/bin/sh", "-c", script], ENV, 20, secret_files={"TOKEN": token.encode()})
    ((_, outcome),) = runner.poll(30)
    assert isinstance(outcome, RunResponse)
    assert b"TOKEN=/" in outcome.stdout
    assert token.encode() not in outcome.stdout


# --- starts that hang ------------------------------------------------------------------------------


@pytest.fixture
def dead_directory(public_directory: Path) -> Iterator[Path]:
    """Give a directory on a file system that does not answer, as an NFS server that went away."""
    need("" if shutil.which("bindfs") and Path("/dev/fuse").exists() else "bindfs is missing: apt-get install bindfs")
    source, mount = public_directory / "source", public_directory / "mount"
    source.mkdir()
    mount.mkdir()
    (source / "run").write_text("#!/bin/sh\necho OK\n")
    (source / "run").chmod(0o755)
    with subprocess.Popen(["bindfs", "-f", str(source), str(mount)]) as server:
        while not (mount / "run").exists():
            assert server.poll() is None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield mount
        finally:
            os.kill(server.pid, signal.SIGCONT)
            subprocess.run(["umount", "-l", str(mount)], check=True)
            server.terminate()  # runners of other tests may have a copy of the mount, which would keep it up
            server.wait(20)


@needs_root
def test_a_start_that_hangs_holds_up_no_other_and_ends_at_its_time_limit(dead_directory: Path) -> None:
    outcomes: dict[str, RunResponse | str] = {}
    with start_runner() as runner:
        hanging = [runner.submit([str(dead_directory / "run")], ENV, 3) for _ in range(6)]
        quick = [runner.submit(["/bin/echo", str(n)], ENV, 20) for n in range(50)]
        while runner.open_runs:
            outcomes.update(runner.poll(60))
    assert set(list(outcomes)[:50]) == set(quick)
    for run in hanging:
        outcome = outcomes[run]
        assert isinstance(outcome, RunResponse)
        assert outcome.timed_out or "could not be started" in outcome.failure
        assert outcome.exit is None
