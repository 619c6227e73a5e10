"""What one run can do to what is not its own: to the agent's files, to its siblings, to what they own."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pps_agent.probes import confine, namespace
from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.confine import Confinement
from pps_agent.probes.protocol import RunResponse
from tests.probes.conftest import ENV, needs_root, processes_with, wait_for_processes
from tests.support.services import need

ROOT = Path(confine.__file__).parents[2]
KERNEL = Confinement().version
ACCOUNTS = [pytest.param("", id="one account"), pytest.param("nobody", id="two users", marks=needs_root)]


def need_landlock(version: int) -> None:
    need("" if version <= KERNEL else f"Landlock {version} is missing: a kernel that has it, and lsm=landlock")


def said(outcome: RunResponse | str) -> str:
    assert isinstance(outcome, RunResponse), outcome
    assert outcome.failure == ""
    return outcome.stdout.decode() + outcome.stderr.decode()


def shell(runner: RunnerClient, script: str, **env: str) -> str:
    """Run a shell script as a probe; give all it said."""
    return said(runner.run_command(["/bin/sh", "-c", script], {**ENV, **env}, 30))


@contextmanager
def victim(runner: RunnerClient) -> Iterator[tuple[int, Path]]:
    """Give the pid and the directory of a sibling that holds a secret while the context lasts."""
    token = secrets.token_hex(8)
    body = 'echo precious > file; echo "$PWD" > where; exec sleep 600'
    run = runner.submit(["/bin/sh", "-c", body], {**ENV, "PPS_TEST": token}, 600, secret_files={"KEY": b"do not tell"})
    (pid,) = wait_for_processes(token, 1)
    while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
        os.sched_yield()
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    home = next(v.removeprefix(b"HOME=") for v in environment if v.startswith(b"HOME=")).decode()
    try:
        yield pid, Path(home)
    finally:
        os.kill(pid, signal.SIGKILL)
        while runner.open_runs:
            assert run in [answered for answered, _ in runner.poll(20)]


@pytest.mark.parametrize("user", ACCOUNTS)
def test_a_sibling_s_memory_environment_files_and_directory_are_out_of_reach(user: str) -> None:
    need_landlock(1)
    with start_runner(user) as runner, victim(runner) as (pid, home):
        attempts = [
            f"cat /proc/{pid}/environ",
            f"ls /proc/{pid}/fd",
            f"readlink /proc/{pid}/cwd",
            f"ls /proc/{pid}/cwd/",
            f"cat /proc/{pid}/maps",
            f"dd if=/proc/{pid}/mem bs=1 count=1",
            f"ls -H /proc/{pid}/root",
            f"ls -d /proc/{pid}/cwd/..",
            f"cat /proc/{pid}/cwd/.secret-0",
            # Should it learn the directory's name by other means, it cannot change a thing there.
            f"echo gone > {home}/file",
            f": > {home}/file",
            f"truncate -s 0 {home}/file",
            f"rm {home}/file",
            f"mv {home}/file {home}/other",
            f"ln {home}/file mine",
            f"mkdir {home}/new",
            f"mkfifo {home}/fifo",
            f"ln -s / {home}/link",
            f"mv {home} /tmp/elsewhere",
            f"rm -rf {home}",
        ]
        script = "\n".join(f"( {attempt} ) >/dev/null 2>&1 && echo 'DID {attempt}'" for attempt in attempts)
        assert shell(runner, f"{script}\necho end") == "end\n"
        inside = Path(f"/proc/{pid}/cwd")
        assert (inside / "file").read_text() == "precious\n"
        assert sorted(path.name for path in inside.iterdir()) == [".secret-0", "file", "where"]


@pytest.mark.parametrize("user", ACCOUNTS)
def test_a_sibling_cannot_be_signalled_nor_the_runner_nor_the_agent(user: str) -> None:
    need_landlock(6)
    with start_runner(user) as runner, victim(runner) as (pid, _):
        targets = (pid, f"-{pid}", runner.runner_pid, os.getpid(), "-1")
        script = "\n".join(
            f"kill -{number} -- {target} 2>/dev/null && echo DID {number} {target}"
            for target in targets
            for number in ("0", "STOP", "TERM", "KILL")
            if target != "-1" or number == "STOP"
        )
        assert shell(runner, f"{script}\necho end") == "end\n"
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@needs_root
@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_command_line_that_names_a_private_directory_is_not_shown_to_siblings(user: str) -> None:
    need_landlock(1)
    with start_runner(user) as runner:
        token = secrets.token_hex(8)
        run = runner.submit(["/bin/sh", "-c", 'sleep 600; : "$1"', token, "x"], {**ENV, "PPS_TEST": token}, 600)
        wait_for_processes(token, 2)
        assert shell(runner, f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c {token[:-1]}[{token[-1]}]") == "0\n"
        assert shell(runner, "ls $(dirname $PWD) >/dev/null 2>&1 || echo hidden") == ("hidden\n" if user else "")
        for pid in processes_with(token):
            with contextlib.suppress(ProcessLookupError):  # it ended with the one before
                os.kill(pid, signal.SIGKILL)
        while runner.open_runs:
            assert [answered for answered, _ in runner.poll(20)] == [run]


def test_under_one_account_a_probe_writes_no_store_no_tag_and_no_settings(public_directory: Path) -> None:
    need_landlock(3)
    area = public_directory / "agent"
    for name in ("store/tree", "tags", "etc"):
        (area / name).mkdir(parents=True)
    files = [area / "store/tree/client", area / "tags/vo.list", area / "etc/agent.toml", area / "state.db"]
    for file in files:
        file.write_text("as it was\n")
    before = sorted(str(path) for path in area.rglob("*"))
    attempts = [f"echo x > {file}" for file in files] + [f"echo x >> {file}" for file in files]
    attempts += [f"rm {file}" for file in files] + [f"mv {file} {file}.old" for file in files]
    attempts += [f"truncate -s 1 {file}" for file in files] + [f"cp /bin/true {file}" for file in files]
    attempts += [f"mkdir {area}/new", f"touch {area}/tags/new", f"ln -s / {area}/link", f"rmdir {area}/tags"]
    attempts += [f"mkfifo {area}/fifo", f"mknod {area}/null c 1 3", f"mv {area}/etc own", f"ln {files[0]} own"]
    attempts += [f"touch mine && ln mine {area}/mine", f"touch mine && mv mine {area}/mine", "echo x > /tmp/pps-x"]
    attempts += [f"dd if=/dev/zero of={files[3]} conv=notrunc bs=1 count=1"]
    script = "\n".join(f"( {attempt} ) >/dev/null 2>&1 && echo 'DID {attempt}'" for attempt in attempts)
    with start_runner() as runner:
        assert runner.single_user
        assert shell(runner, f"{script}\necho end") == "end\n"
    assert [file.read_text() for file in files] == ["as it was\n"] * len(files)
    assert sorted(str(path) for path in area.rglob("*")) == before


PYTHON = """
import os, pty, sqlite3, subprocess, tempfile
with tempfile.NamedTemporaryFile() as f:
    f.write(b"x"); f.flush()
sqlite3.connect(os.environ["HOME"] + "/db").execute("create table t(a)")
pty.openpty()
subprocess.run(["true"], check=True, stdout=subprocess.DEVNULL)
print("python works")
"""
ORDINARY = """
echo to stderr > /dev/stderr
echo to stdout > /dev/stdout
echo nothing > /dev/null
cat <<END
here document
END
mkdir a b; echo x > a/f; mv a/f b/g; ln b/g b/h; ln -s g b/s; cat b/s; rm -r a b
t=$(mktemp); echo temporary > "$t"; cat "$t"
mkfifo pipe; (echo through > pipe &) ; cat pipe
sleep 600 & kill $! && echo own child
(setsid sleep 600 & kill -9 $!) && echo own session
"""


@pytest.mark.parametrize("user", ACCOUNTS)
def test_what_ordinary_probes_do_works_confined(user: str) -> None:
    with start_runner(user) as runner:
        script = f"{ORDINARY}\n/usr/bin/python3 -IS - <<'END'\n{PYTHON}\nEND\n"
        lines = shell(runner, script).splitlines()
    wanted = ["to stdout", "here document", "x", "temporary", "through", "own child", "own session", "python works"]
    assert [line for line in lines if line != "to stderr"] == wanted
    assert "to stderr" in lines


@pytest.mark.parametrize("version", range(8))
def test_an_older_kernel_is_said_and_bounds_what_it_knows(version: int, public_directory: Path) -> None:
    file = public_directory / "file"
    file.write_text("as it was\n")
    file.chmod(0o666)
    with start_runner(options=["--landlock", str(version)]) as runner:
        assert runner.confinement == min(version, KERNEL)
        written = shell(runner, f"echo x > {file} && echo DID; echo end")
        moved = shell(runner, "mkdir a b; echo x > a/f; mv a/f b/f && cat b/f")
    assert ("DID" in written) == (min(version, KERNEL) == 0)
    assert moved == "x\n"


def test_where_no_domain_can_be_had_probes_run_all_the_same_and_that_is_said() -> None:
    """The kernel refuses a seventeenth domain around a thread: there the runner must do without."""
    program = """
import json, sys
from pps_agent.probes import contain
from pps_agent.probes.client import start_runner
from pps_agent.probes.confine import Confinement
contain._prctl(38, 1)
for _ in range(16):
    Confinement().enter("/")
with start_runner() as runner:
    answer = runner.run_command(["/bin/echo", "on"], {}, 20)
    print(json.dumps([runner.confinement, answer.stdout.decode()]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0, "on\n"]


def test_the_kinds_of_writing_grow_with_the_version() -> None:
    assert confine.writes(1) == 0b0001_1111_1111_0010
    assert confine.writes(2) == 0b0011_1111_1111_0010
    assert [confine.writes(version) for version in (3, 6, 9)] == [0b0111_1111_1111_0010] * 3


@needs_root
def test_the_runs_of_a_runner_that_starts_as_root_are_on_a_file_system_of_their_own(
    public_directory: Path,
) -> None:
    with start_runner("nobody", temporary=public_directory) as runner:
        assert shell(runner, "stat -f -c %T . ; df -P . | tail -1 | cut -d' ' -f1; stat -c %u:%a ..") == (
            f"tmpfs\npps-probes\n{os.geteuid()}:1733\n"
        )
        (base,) = public_directory.iterdir()
        assert list(base.iterdir()) == []
    assert list(public_directory.iterdir()) == []


@needs_root
def test_a_private_view_that_is_forbidden_changes_nothing(tmp_path: Path) -> None:
    """As in a container without the right to mount; there probes run in an ordinary directory."""
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pps_agent.probes.client import start_runner
with start_runner("nobody") as runner:
    answer = runner.run_command(["/bin/sh", "-c", "ls -d $PWD"], {{"PATH": "/usr/bin:/bin"}}, 20)
    print(answer.stdout.decode() if hasattr(answer, "stdout") else answer)
"""
    command = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "pps-run-" in done.stdout, done.stderr
    with pytest.raises(OSError, match="No such file"):
        namespace.enter_own_view(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (b"20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n30 20 0:30 / /cvmfs rw shared:9 - autofs auto rw\n", True),
        (b"20 1 8:1 / / rw - ext4 /dev/sda rw\n30 20 0:30 / /cvmfs rw - autofs auto rw\n", False),
        (b"20 1 8:1 / / rw - ext4 /dev/sda rw\n", True),
    ],
)
def test_a_private_view_is_taken_only_where_mounts_on_demand_still_arrive(mounts: bytes, expected: bool) -> None:
    assert namespace.mounts_arrive(mounts) is expected
