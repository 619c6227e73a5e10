import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pps_publisher.cli.program import run
from pps_publisher.keys import create_key
from tests.support.repository import DEFAULT_FILES, LinkTo, write_tree

RELEASE = "hello-1.0.0-noarch-glibc0.0"


class Desk:
    """A release manager's machine: runs commands in this process and reads what they print."""

    def __init__(self, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.base = base
        self.repo = base / "repo"
        self._capsys = capsys
        self.passphrase = base / "passphrase"
        self.passphrase.write_text("correct horse\n")
        self.passphrase.chmod(0o600)
        write_tree(base / "tree", DEFAULT_FILES)
        self.stderr = ""

    def run(self, *arguments: object, exit_code: int = 0) -> str:
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        printed = self._capsys.readouterr()
        self.stderr = printed.err
        assert exit_code == code, printed.err
        return printed.out

    def signing(self, command: str, *arguments: object, key: str, exit_code: int = 0) -> Any:
        path = self.repo / "keys" / f"{key}.pem"
        out = self.run(
            command, *arguments, "--repo", self.repo, "--key", path, "--passphrase-file", self.passphrase,
            "--output", "json", exit_code=exit_code,
        )  # fmt: skip
        return json.loads(out) if out else None

    def init(self) -> Any:
        return json.loads(
            self.run("init", "--repo", self.repo, "--passphrase-file", self.passphrase, "--output", "json")
        )

    def build(self, *arguments: object, exit_code: int = 0) -> Any:
        out = self.run(
            "build", "--from-tree", self.base / "tree", "--out", self.base / "out", "--component", "hello",
            "--version", "1.0.0", "--class", "client-bc", "--vo", "dteam", "--output", "json", *arguments,
            exit_code=exit_code,
        )  # fmt: skip
        return json.loads(out) if out else None


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_from_nothing_to_a_withdrawn_release_each_command_names_the_next(desk: Desk) -> None:
    made = desk.init()
    assert [role["served"] for role in made["roles"]] == [True] * 5
    assert "refresh" in made["next"]
    desk.signing("refresh", key="online")
    built = desk.build("--probe", "org.pps.wn.softver", "--reference", "patch:3064", "--expires", "2027-01-31")
    assert (built["release"], built["files"]) == (RELEASE, 3)
    assert "publish" in built["next"]
    first = desk.signing("publish", desk.base / "out", key="release-manager")
    assert (first["signed_by"], first["threshold"], first["served"]) == (["release-manager"], 2, False)
    assert "sa3 runs 'pps-publish sign'" in first["next"]
    assert "1 of 2 signatures" in desk.run("verify", "--repo", desk.repo) + desk.stderr
    waiting = json.loads(desk.run("sign", "--repo", desk.repo, "--dry-run", "--output", "json"))
    (change,) = waiting["waiting"][0]["changes"]
    sha256 = json.loads(next((desk.base / "out").glob("*.release.json")).read_text())["artifact"]["sha256"]
    assert change.startswith(f"adds {RELEASE}: client-bc, VOs ")
    assert change.endswith(f"artifact {sha256}")
    second = desk.signing("sign", key="sa3")
    assert second["roles"][0]["served"] is True
    assert "sites see it only then" in second["next"]
    desk.signing("refresh", key="online")
    assert "1 releases, 0 withdrawn" in desk.run("verify", "--repo", desk.repo)
    taken = desk.signing("withdraw", RELEASE, "crashes", key="sa3")
    assert (taken["changes"], taken["served"]) == ([f"withdraws {RELEASE}: crashes"], True)
    desk.signing("refresh", key="online")
    assert "1 withdrawn" in desk.run("verify", "--repo", desk.repo)


def test_text_output_says_how_many_signatures_there_are(desk: Desk) -> None:
    desk.init()
    desk.build()
    key = desk.repo / "keys" / "sa3.pem"
    options = ("--repo", desk.repo, "--key", key, "--passphrase-file", desk.passphrase)
    out = desk.run("publish", desk.base / "out", *options)
    assert "clients version 2: 1 of 2 signatures (sa3)" in out
    assert "staged: no site can see it; may still sign: release-manager" in out
    assert out.splitlines()[-1] == "Next: release-manager runs 'pps-publish sign'"


def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in desk.base.rglob("*") if path.is_file()}

    before = state()
    desk.run("init", "--repo", desk.repo, "--dry-run")
    desk.build("--dry-run")
    desk.run("keys", "new", desk.base / "keys", "sa3", "--dry-run")
    assert state() == before
    desk.init()
    desk.build()
    before = state()
    assert f"adds {RELEASE}" in desk.run("publish", desk.base / "out", "--repo", desk.repo, "--dry-run")
    assert "timestamp 1" in desk.run("refresh", "--repo", desk.repo, "--dry-run")
    desk.run("withdraw", RELEASE, "why", "--repo", desk.repo, "--dry-run", exit_code=2)
    assert state() == before


@pytest.mark.parametrize(
    ("content", "mode", "told", "exit_code"),
    [
        ("wrong passphrase\n", 0o600, "the passphrase is wrong", 4),
        ("correct horse\n", 0o644, "others may read it; run: chmod 600", 2),
        ("\n", 0o600, "its first line is empty", 2),
    ],
)
def test_a_passphrase_file_that_will_not_do_is_refused(
    desk: Desk, content: str, mode: int, told: str, exit_code: int
) -> None:
    desk.init()
    desk.passphrase.write_text(content)
    desk.passphrase.chmod(mode)
    desk.signing("refresh", key="online", exit_code=exit_code)
    assert told in desk.stderr


def test_the_wrong_key_is_refused_with_the_right_ones_named(desk: Desk) -> None:
    desk.init()
    desk.build()
    desk.signing("publish", desk.base / "out", key="targets", exit_code=4)
    assert "the key of targets may not sign clients; use one of: release-manager, sa3" in desk.stderr
    desk.signing("refresh", key="sa3", exit_code=4)
    assert "use one of: online" in desk.stderr


def test_without_a_terminal_the_passphrase_must_come_from_a_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.init()
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        desk.run("refresh", "--repo", desk.repo, "--key", desk.repo / "keys" / "online.pem", exit_code=2)
    assert "give --passphrase-file FILE" in desk.stderr


def test_a_changed_artifact_makes_verify_fail_with_exit_code_4(desk: Desk) -> None:
    desk.init()
    desk.build()
    desk.signing("publish", desk.base / "out", key="sa3")
    desk.signing("sign", key="release-manager")
    desk.signing("refresh", key="online")
    (artifact,) = (desk.repo / "served" / "artifacts").iterdir()
    artifact.write_bytes(artifact.read_bytes()[:-5] + b"wrong")
    out = desk.run("verify", "--repo", desk.repo, "--output", "json", exit_code=4)
    assert len(json.loads(out)["problems"]) >= 1
    assert "has other bytes than the release says" in desk.stderr


@pytest.mark.parametrize(
    ("arguments", "told", "exit_code"),
    [
        (["--from-debian"], "one of --from-tree DIR, --from-debian", 2),
        (["--package", "x"], "--package belongs to --from-debian", 2),
        (["--vo", "has blank"], "vo: 'has blank' is not valid", 7),
        (["--expires", "soon"], "write a date such as", 2),
        (["--config-step", "no equals sign"], "write ID=TEXT", 2),
        (["--config-step", "open-port=Open port 1094"], "needs configuration step open-port", 1),
        (["--changes", "/nonexistent"], "/nonexistent: No such file", 78),
        (["--class", "other"], "Invalid value for '--class'", 2),
    ],
)
def test_bad_input_to_build_is_a_clear_error_and_leaves_no_build(
    desk: Desk, arguments: list[str], told: str, exit_code: int
) -> None:
    desk.build(*arguments, exit_code=exit_code)
    assert told in desk.stderr
    assert not (desk.base / "out").exists()


def test_what_was_dropped_from_a_tree_is_reported(desk: Desk) -> None:
    write_tree(desk.base / "tree", {"lib/out": LinkTo("../../outside")})
    assert desk.build()["found"] == [
        {"path": "lib/out", "finding": "link that leaves the tree dropped", "detail": "pointed to '../../outside'"}
    ]


def test_keys_are_listed_without_a_passphrase_and_made_for_somebody_else(desk: Desk) -> None:
    keys = desk.base / "keys"
    desk.run("keys", "new", keys, "sa3", "--passphrase-file", desk.passphrase)
    (keys / "sa3.pem").unlink()
    made = json.loads(
        desk.run("init", "--repo", desk.repo, "--keys", keys, "--passphrase-file", desk.passphrase, "--output", "json")
    )
    assert {role["role"]: role["served"] for role in made["roles"]}["clients"] is False
    assert made["next"] == "sa3 runs 'pps-publish sign'"
    assert "sa3              " in desk.run("keys", "list", keys)
    assert "public only" in desk.run("keys", "list", keys)


def test_a_collectors_key_is_listed_in_the_fleet_role(desk: Desk) -> None:
    create_key(desk.base / "collector", "collector", b"collector passphrase")
    desk.run(
        "init", "--repo", desk.repo, "--passphrase-file", desk.passphrase,
        "--fleet-key", desk.base / "collector" / "collector.pub",
    )  # fmt: skip
    (listing,) = (desk.repo / "served" / "targets" / "fleet").iterdir()
    assert [key["comment"] for key in json.loads(listing.read_bytes())["keys"]] == ["collector"]


def test_a_repository_that_is_not_there_is_named(desk: Desk) -> None:
    desk.run("refresh", "--repo", desk.repo, "--dry-run", exit_code=2)
    assert "see 'pps-publish init'" in desk.stderr


def test_version_and_help_load_neither_tuf_nor_cryptography() -> None:
    script = (
        "import sys\n"
        "from pps_publisher.cli.program import run\n"
        "run(['--help'])\n"
        "heavy = {'tuf', 'cryptography', 'zstandard', 'elftools', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=Path.cwd())
    asked = (
        "import sys; sys.argv = ['x', '--version']\n"
        "from pps_publisher.cli import main; main(); sys.exit('click' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout == "pps-publish 0.1.0\n"


def test_a_source_without_any_file_is_no_release(desk: Desk) -> None:
    empty = desk.base / "empty"
    (empty / "bin").mkdir(parents=True)
    desk.run(
        "build", "--from-tree", empty, "--out", desk.base / "out", "--component", "hello", "--version", "1.0.0",
        "--class", "client-bc", "--vo", "dteam", exit_code=2,
    )  # fmt: skip
    assert "holds no file" in desk.stderr
    assert not (desk.base / "out").exists()


@pytest.mark.parametrize("reason", ["two\nlines", "clears \x1b[2J the screen", "turned \u202e round"])
def test_a_reason_that_is_no_line_of_text_is_refused(desk: Desk, reason: str) -> None:
    desk.init()
    desk.build()
    desk.signing("publish", desk.base / "out", key="release-manager")
    desk.signing("withdraw", RELEASE, reason, key="sa3", exit_code=2)
    assert "write it as one line" in desk.stderr
