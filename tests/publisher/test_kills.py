"""kill -9 between any two changes of a file: what is served verifies, and the same command again ends the work."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pps_publisher.cli.program import run
from pps_publisher.metadata import MetadataStore
from pps_publisher.repository import Repository
from pps_publisher.verify import verify_repository
from tests.support.repository import DEFAULT_FILES, write_tree

RELEASE = "hello-1.0.0-noarch-glibc0.0"
TIMES = 9
NURSERY = """
import json, os, signal, sys
from pps_publisher.cli import build, init, keys, publish, refresh, sign, withdraw
from pps_publisher.cli.program import run

EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}

def work(arguments, step):
    left = step

    def count(event, args):
        nonlocal left
        creates = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT
        if event in EVENTS or creates:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    code = run(arguments)
    return code, step - left

for line in sys.stdin:
    order = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, json.dumps(work(**order)).encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 100).decode()
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, told]), flush=True)
"""
"""Starts once and forks a child for every command; the child counts its changes of files and may kill itself."""


class Desk:
    """A repository and its people's keys in a directory that can be put back to how it was."""

    def __init__(self, base: Path, process: subprocess.Popen[str]) -> None:
        self.base = base
        self.repo = base / "work" / "repository"
        self._process = process
        base.mkdir(exist_ok=True)
        self._passphrase = base / "passphrase"
        self._passphrase.write_text("correct horse\n")
        self._passphrase.chmod(0o600)
        (base / "work").mkdir()
        write_tree(base / "tree", DEFAULT_FILES)

    def arguments(self, *words: object, key: str = "") -> list[str]:
        signing = ["--key", self.repo / "keys" / f"{key}.pem"] if key else []
        options = ["--repo", self.repo, "--passphrase-file", self._passphrase, *signing]
        return [str(word) for word in (*words, *options)]

    def do(self, *words: object, key: str = "") -> None:
        assert run(self.arguments(*words, key=key)) == 0

    def build(self) -> Path:
        out = self.base / "out"
        command = ["build", "--from-tree", self.base / "tree", "--out", out, "--component", "hello"]
        command += ["--version", "1.0.0", "--class", "client-bc", "--vo", "dteam"]
        assert run([str(word) for word in command]) == 0
        return out

    def new_keys(self, name: str) -> Path:
        new = self.base / "new"
        assert run(["keys", "new", str(new), name, "--passphrase-file", str(self._passphrase)]) == 0
        return new

    def keep(self) -> None:
        shutil.copytree(self.base / "work", self.base / "kept")

    def put_back(self) -> None:
        shutil.rmtree(self.base / "work")
        shutil.copytree(self.base / "kept", self.base / "work")

    def attempt(self, arguments: list[str], step: int = 10**9) -> tuple[int, Any]:
        """Run a command that dies at a step; give its signal and, if it lived, exit code and steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "step": step}) + "\n")
        self._process.stdin.flush()
        status, told = json.loads(self._process.stdout.readline())
        return status, json.loads(told) if told else None

    def state(self) -> dict[str, Any]:
        repository = Repository(self.repo)
        store = repository.store
        waiting = [
            (change.role, change.metadata.signed.version, sorted(store.signatures(change.role, change.metadata).signed))
            for change in repository.staging.pending()
        ]
        roles = ("root", "targets", "clients", "withdrawals", "fleet")
        return {"served": {role: store.versions(role) for role in roles}, "waiting": waiting}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Desk(tmp_path / "desk", process)


def prepare(desk: Desk, what: str) -> list[str]:
    """Bring the desk to where a command is to be run, and give that command."""
    if what == "init":
        return desk.arguments("init")
    desk.do("init")
    desk.do("refresh", key="online")
    if what == "rotate":
        return desk.arguments("keys", "rotate", "sa3", "online", "--keys", new_of(desk), key="targets")
    if what == "sign an exchange":
        new = new_of(desk)
        desk.do("sign", "--renew", "withdrawals", key="sa3")
        desk.do("keys", "rotate", "sa3", "online", "--keys", new, key="root-1")
        desk.do("sign", key="root-2")
        desk.do("sign", key="release-manager")
        shutil.copy(new / "sa3.pem", desk.repo / "keys" / "new-sa3.pem")
        desk.do("sign", key="new-sa3")
        return desk.arguments("sign", key="targets")
    builds = desk.build()
    if what == "publish":
        return desk.arguments("publish", builds, key="release-manager")
    desk.do("publish", builds, key="release-manager")
    if what == "sign":
        return desk.arguments("sign", key="sa3")
    desk.do("sign", key="sa3")
    if what == "withdraw":
        return desk.arguments("withdraw", RELEASE, "crashes", key="sa3")
    return desk.arguments("refresh", key="online")


def new_of(desk: Desk) -> Path:
    desk.new_keys("sa3")
    return desk.new_keys("online")


@pytest.mark.parametrize("what", ["init", "publish", "sign", "withdraw", "refresh", "rotate", "sign an exchange"])
def test_a_command_that_was_killed_is_ended_by_the_same_command_and_sites_see_no_half_of_it(
    desk: Desk, what: str
) -> None:
    arguments = prepare(desk, what)
    desk.keep()
    status, (code, steps) = desk.attempt(arguments)
    assert (status, code) == (0, 0)
    after = desk.state()
    assert desk.attempt(arguments)[1][0] == 0, "as after a kill between the last change and the answer"
    assert desk.state() == after
    served_before = (desk.base / "kept" / "repository" / "served").is_dir()
    for step in sorted({max(1, round(steps * (number + 0.5) / TIMES)) for number in range(TIMES - 1)} | {steps}):
        desk.put_back()
        assert desk.attempt(arguments, step) == (-signal.SIGKILL, None)
        if served_before:
            copy = MetadataStore.of_copy(desk.repo / "served")
            assert verify_repository(copy, datetime.now(UTC)).problems == (), f"killed at {step} of {steps}"
        assert desk.attempt(arguments)[1][0] == 0, f"killed at {step} of {steps}"
        assert desk.state() == after
        assert list(desk.repo.rglob("*.tmp")) == []
        assert desk.attempt(desk.arguments("refresh", key="online"))[1][0] == 0
        assert verify_repository(MetadataStore(desk.repo), datetime.now(UTC)).problems == ()
