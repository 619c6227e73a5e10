"""Control groups of runs: on the kernel's real ones, and what is written where controllers can be had."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes import cgroup
from pps_agent.probes.cgroup import Leaf, Leaves, find_own_group, parse_oom_kills
from tests.probes.conftest import needs_root
from tests.support.services import need

ROOT = Path(cgroup.__file__).parents[2]

# Becomes a service to which its group was delegated, as systemd does with Delegate=yes, then runs probes.
SERVICE = """
import json, os, pwd, shutil, sys
from pathlib import Path
from pps_agent.probes.client import start_runner
from tests.probes.conftest import processes_with
group, user, token = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
account = pwd.getpwnam(user or "root")
for path in (group, *(group / name for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))):
    shutil.chown(path, account.pw_uid)
(group / "cgroup.procs").write_text(str(os.getpid()))
escape = "env -i setsid sh -c 'setsid sleep 600 & exec sleep 600' & (setsid sleep 600 &)"
escape += "; sleep 0.2; cat /proc/self/cgroup"
said = []
with start_runner(user, options=["--delegated"]) as runner:
    said.append(runner.has_cgroups)
    env = {"PATH": "/usr/bin:/bin", "PPS_TEST": token}
    for _ in range(3):
        answer = runner.run_command(["/bin/sh", "-c", escape], env, 20)
        own = [line[3:] for line in answer.stdout.decode().splitlines() if line.startswith("0::")]
        said.append([answer.exit, own[0].rpartition("/")[2], answer.leftovers_killed > 1, len(processes_with(token))])
    runs = {runner.submit(["/bin/sh", "-c", "sleep 0.5; grep ^0:: /proc/self/cgroup"], env, 20) for _ in range(4)}
    groups = set()
    while runs:
        for run, answer in runner.poll(20):
            runs.discard(run)
            groups.add(answer.stdout.decode().strip().rpartition("/")[2])
    said.append(sorted(groups))
    attempt = f"echo $$ > {group}/cgroup.procs; echo max > {group}/run-1/cgroup.max.depth; echo tried"
    said.append(runner.run_command(["/bin/sh", "-c", attempt], env, 20).stdout.decode())
(group.parent / "cgroup.procs").write_text(str(os.getpid()))
print(json.dumps(said))
"""


@pytest.fixture
def hierarchy() -> Iterator[Path]:
    """Give a mount of the unified hierarchy that only processes below ``unshare -m`` see, empty for all others."""
    path = Path(tempfile.mkdtemp(prefix="pps-cgroup-"))
    path.chmod(0o755)
    yield path
    path.rmdir()


@needs_root
@pytest.mark.parametrize("user", ["", "nobody"])
def test_each_run_has_a_group_of_its_own_that_ends_all_in_it(user: str, hierarchy: Path) -> None:
    need("" if "cgroup2" in Path("/proc/filesystems").read_text() else "cgroup2 is missing: a kernel that has it")
    group = f"{hierarchy}/pps-test-{os.getpid()}"
    script = (
        f"mount -t cgroup2 none {hierarchy} && mkdir {group} || exit 1\n"
        f'"$@"; result=$?; rmdir {group}/run-* {group}/runner {group}; exit $result'
    )
    program = [sys.executable, "-c", SERVICE, group, user, os.urandom(8).hex()]
    command = ["unshare", "-m", "sh", "-c", script, "sh", *program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    exist, *runs, groups, tried = json.loads(done.stdout)
    assert exist is True
    assert runs == [[0, "run-1", True, 0]] * 3
    assert groups == ["run-1", "run-2", "run-3", "run-4"]
    assert tried == "tried\n"


def test_without_a_delegated_group_runs_have_none(tmp_path: Path) -> None:
    for own in (None, str(tmp_path), str(tmp_path / "none")):
        leaves = Leaves(own)
        assert (leaves.exist, leaves.take({})) == (False, None)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Give a directory of ordinary files named as a group's are: it shows what is written, and bounds nothing."""
    for name in ("cgroup.procs", "memory.max", "memory.oom.group", "pids.max"):
        (tmp_path / name).write_text("")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
    return tmp_path


def test_limits_are_written_for_the_controllers_there_are_and_only_when_they_change(plain: Path) -> None:
    leaf = Leaf(str(plain), frozenset({"memory", "pids"}))
    leaf.limit({"memory_bytes": 1000, "cpu_s": 5})
    assert [(plain / name).read_text() for name in ("memory.max", "pids.max", "memory.oom.group")] == [
        "1000",
        "max",
        "1",
    ]
    (plain / "memory.max").write_text("untouched")
    leaf.limit({"memory_bytes": 1000, "processes": 7})
    assert [(plain / name).read_text() for name in ("memory.max", "pids.max")] == ["untouched", "7"]
    without = Leaf(str(plain), frozenset())
    without.limit({"memory_bytes": 5})
    assert (plain / "memory.max").read_text() == "untouched"
    assert not without.had_oom()


def test_a_kill_for_want_of_memory_is_told_once(plain: Path) -> None:
    leaf = Leaf(str(plain), frozenset({"memory"}))
    assert not leaf.had_oom()
    (plain / "memory.events").write_text("oom_kill 3\n")
    assert [leaf.had_oom(), leaf.had_oom()] == [True, False]


def test_a_group_that_went_away_is_empty(plain: Path) -> None:
    leaf = Leaf(str(plain), frozenset({"memory"}))
    leaf.admit(1)
    shutil.rmtree(plain)
    plain.mkdir()
    leaf.kill()
    assert not leaf.had_oom()


MOUNTS = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 24 0:26 / /sys/fs/cgroup {options} shared:4 - cgroup2 cgroup2 rw,nsdelegate
31 24 0:27 {root} /mnt/groups rw,relatime - cgroup2 none rw
"""


@pytest.mark.parametrize(
    ("options", "root", "membership", "expected"),
    [
        ("rw,nosuid", "/", "0::/system.slice/x.service\n", "/sys/fs/cgroup/system.slice/x.service"),
        ("ro,nosuid", "/", "0::/system.slice/x.service\n", "/mnt/groups/system.slice/x.service"),
        ("ro,nosuid", "/system.slice", "0::/system.slice/x.service\n", "/mnt/groups/x.service"),
        ("ro,nosuid", "/system.slice/x.service", "0::/system.slice/x.service\n", "/mnt/groups"),
        ("ro,nosuid", "/system", "0::/system.slice/x.service\n", None),
        ("rw,nosuid", "/", "4:memory:/x\n1:name=systemd:/y\n", None),
        ("rw,nosuid", "/", "0::/../outside\n", None),
        ("rw,nosuid", "/", "", None),
    ],
)
def test_a_process_s_own_group_is_found_where_it_can_be_written(
    options: str, root: str, membership: str, expected: str | None
) -> None:
    assert find_own_group(MOUNTS.format(options=options, root=root), membership) == expected


@given(events=st.binary(max_size=100))
def test_any_events_give_a_number(events: bytes) -> None:
    assert parse_oom_kills(events) >= 0


def test_the_number_of_processes_killed_for_want_of_memory_is_read() -> None:
    assert parse_oom_kills(b"low 0\noom 4\noom_kill 12\noom_group_kill 3\n") == 12
