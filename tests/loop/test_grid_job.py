"""One grid job: an ordinary user, everything below a home directory, no daemon, no system paths."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loop.test_rounds import FIRST, ONE, TAG_ONE
from tests.support.releases import publish_passing
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.services import need
from tests.support.site import SUBCLUSTER, render_toml

REPO = Path(__file__).parents[2]
NOBODY = 65534
STRANGE = "vö area with blanks/" + "/".join("long-" + "x" * 60 for _ in range(4))


def closed_to_others(path: Path) -> list[Path]:
    """Give the topmost directory on the way to ``path`` that another user may not pass; none or one."""
    return [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001][:1]


class Job:
    """An account's home with settings of relative paths, and jobs in it: nobody's, before a read-only root."""

    def __init__(self, home: Path, url: str, root: bytes) -> None:
        self.home = home
        self.config = home / "agent.toml"
        for directory in (home, home / "tags", home / "scratch"):
            directory.mkdir(parents=True)
        (home / "root.json").write_bytes(root)
        sections = {
            "site": {"name": "TEST-SITE", "vos": ["dteam"], "subclusters": [SUBCLUSTER]},
            "repository": {"url": url, "root": "root.json", "timeout_s": 10},
            "paths": {"store": "store", "state": "state", "cache": "cache", "tags": "tags"},
            "store": {"kind": "shared"},
            "policy": {"install_bc": "auto"},
            "environment": {"profile": ["profile.d/*.sh"]},
        }
        self.config.write_text(render_toml(sections))
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY)

    def command(self, *arguments: str, umask: str = "022") -> list[str]:
        """Give a job's command line: only its home can be written, no terminal, no capability."""
        programs = (REPO, Path(sys.prefix), Path(sys.base_prefix))
        boxed: list[str | Path] = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for closed in sorted({path for program in (*programs, self.home) for path in closed_to_others(program)}):
            boxed += ["--tmpfs", closed]
        for program in (*programs, self.home):  # else the ways there are made for root alone
            for above in reversed(program.parents) if closed_to_others(program) else ():
                boxed += ["--perms", "0755", "--dir", above] if above != Path("/") else []
        for program in programs:
            boxed += ["--ro-bind", program, program]
        boxed += ["--bind", self.home, self.home, "--chdir", "/", "--unshare-pid", "--die-with-parent", "--new-session"]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        user += ["--inh-caps=-all", "--bounding-set=-all"]
        shell = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
        return [*map(str, boxed), *user, *shell, sys.executable, "-m", "pps_agent", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        """Give what a batch system leaves of an environment: no USER, no TERM."""
        home = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", "PPS_AGENT_CONFIG": str(self.config)}
        return home | {"TMPDIR": str(self.home / "scratch")} | more

    def run(self, *arguments: str, umask: str = "022", **more: str) -> "subprocess.CompletedProcess[str]":
        """Run one job to its end."""
        return subprocess.run(
            self.command(*arguments, umask=umask),
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def job(tmp_path: Path, repository: SmallRepository, server: FaultyServer) -> Job:
    usable = os.geteuid() == 0 and shutil.which("bwrap") and shutil.which("setpriv")
    need("" if usable else "root, bwrap or setpriv is missing: a job of another user cannot be started")
    publish_passing(repository)
    return Job(tmp_path / STRANGE, server.url, repository.root_bytes)


@pytest.mark.parametrize("umask", ["077", "000"])
def test_an_ordinary_users_job_installs_probes_and_tags_whatever_its_umask(job: Job, umask: str) -> None:
    done = job.run("once", "--output", "json", umask=umask)
    assert done.returncode == 0, done.stderr
    assert [outcome["action"] for outcome in json.loads(done.stdout)["outcomes"]] == FIRST
    assert (job.home / "tags" / SUBCLUSTER / "dteam" / "dteam.list").read_text() == f"{TAG_ONE}\n"
    tree = job.home / "store" / "releases" / ONE / "tree"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tree, tree / "bin", tree / "bin" / "hello")}
    assert modes == {"tree": 0o755, "bin": 0o755, "hello": 0o555}
    private = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (job.home / "state", job.home / "store" / "lock")
    }
    assert private == {"state": 0o700, "lock": 0o600}
    assert list((job.home / "scratch").iterdir()) == []
    hello = subprocess.run(
        ["sh", "-c", '. "$0"; hello', job.home / "store" / "releases" / ONE / "env.sh"], capture_output=True, check=True
    )
    assert hello.stdout == b"hello 1.0.0\n"


def test_a_node_without_any_temporary_directory_is_told_and_the_next_job_does_the_work(job: Job) -> None:
    done = job.run("once", "--output", "json", TMPDIR="/nowhere")
    seen = json.loads(done.stdout)
    assert (done.returncode, [seen["action"] for seen in seen["outcomes"] if not seen["ok"]]) == (6, ["probe"])
    assert "No usable temporary directory found in ['/nowhere'" in seen["outcomes"][-1]["error"]
    assert job.run("once").returncode == 0


def test_of_two_jobs_at_once_one_works_and_the_other_says_try_again(job: Job) -> None:
    (job.home / "profile.d").mkdir()
    entered, leave = job.home / "entered", job.home / "leave"
    for fifo in (entered, leave):
        os.mkfifo(fifo)
        os.chown(fifo, NOBODY, NOBODY)
    # The first round sources the site's files, and so waits for us, with its locks held.
    (job.home / "profile.d" / "slow.sh").write_text(f"echo > '{entered}'; read -r line < '{leave}'\n")
    first = subprocess.Popen(
        job.command("once"),
        env=job.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with first:
        entered.read_text()
        second = job.run("once")
        leave.write_text("go\n")
        _, said = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 75), (said, second.stderr)
    assert "is running a round; wait for it to end" in second.stderr
    assert job.run("status").returncode == 0


def test_settings_are_found_by_the_option_then_the_variable_then_the_system_path(job: Job) -> None:
    assert job.run("config", "check").returncode == 0
    elsewhere = job.run("--config", "/nowhere/a.toml", "config", "check")
    assert (elsewhere.returncode, "/nowhere/a.toml" in elsewhere.stderr) == (78, True)
    lost = job.run("config", "check", PPS_AGENT_CONFIG="")
    assert (lost.returncode, "/etc/pps-agent/agent.toml" in lost.stderr) == (78, True)
