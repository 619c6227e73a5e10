"""The command line as scripts see it."""

import importlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pps_collector import __version__
from pps_collector.cli.main import run


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process: a new one each would cost seconds in imports."""
    for name in ("serve", "migrate", "enrol_token"):
        monkeypatch.setattr(importlib.import_module(f"pps_collector.cli.{name}"), "set_up_logging", lambda: None)

    def run_one(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["pps-collector", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        return Done(ended.value.code or 0, *capsys.readouterr())

    return run_one


def test_a_module_call_is_the_same_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pps_collector", "migrate", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "schema went from nothing to 0002\n"


def test_version_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['pps-collector', '--version']\n"
        "from pps_collector.cli import main; main()\n"
        "print(sorted({'click', 'litestar', 'sqlalchemy', 'structlog', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"pps-collector {__version__}\n[]\n"


def test_help_names_every_command_without_importing_them():
    code = (
        "import sys; sys.argv = ['pps-collector', '--help']\n"
        "from pps_collector.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'litestar', 'sqlalchemy', 'structlog', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in ("serve", "migrate", "enrol-token", "openapi"))
    assert done.stdout.endswith("\n[]\n")


def test_a_dry_run_changes_nothing_and_a_migration_can_be_repeated(run_cli, tmp_path):
    state = tmp_path / "state"
    dry = run_cli("migrate", "--state", str(state), "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "schema would go from nothing to 0002\n")
    assert not state.exists()
    done = run_cli("migrate", "--state", str(state), "--output", "json")
    assert json.loads(done.stdout) == {"before": None, "after": "0002", "dry_run": False}
    assert sorted(one.name for one in state.iterdir()) == ["ca.crt", "ca.key", "collector.db"]


def test_a_token_is_printed_once_and_serving_needs_a_migration(run_cli, tmp_path):
    state = str(tmp_path / "state")
    early = run_cli("enrol-token", "--state", state, "--site", "PIC")
    assert (early.returncode, early.stdout) == (6, "")
    assert "run pps-collector migrate" in early.stderr
    serve = run_cli("serve", "--state", state, "--listen", "127.0.0.1:0", "--pages", "127.0.0.1:0")
    assert serve.returncode == 6
    assert "run pps-collector migrate" in serve.stderr
    run_cli("migrate", "--state", state)
    done = run_cli("enrol-token", "--state", state, "--site", "PIC", "--output", "json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["site"], len(facts["token"])) == (0, "PIC", 32)


def test_wrong_use_is_exit_2_and_wrong_settings_78(run_cli, tmp_path):
    state = str(tmp_path / "state")
    assert run_cli("enrol-token", "--state", state, "--site", "a b").returncode == 2
    assert run_cli("enrol-token", "--state", state, "--site", "PIC", "--valid", "9d").returncode == 2
    wrong = run_cli("serve", "--state", state, "--listen", "nonsense", "--pages", "x")
    assert wrong.returncode == 78
    assert "--listen: listen:" in wrong.stderr
    assert "--pages: pages:" in wrong.stderr


def test_a_port_in_use_is_this_machines_fault(run_cli, tmp_path):
    state = str(tmp_path / "state")
    run_cli("migrate", "--state", state)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli("serve", "--state", state, "--listen", f"127.0.0.1:{port}", "--pages", "127.0.0.1:0")
    assert done.returncode == 6
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_every_address_needs_names_for_the_certificate(run_cli, tmp_path):
    state = str(tmp_path / "state")
    run_cli("migrate", "--state", state)
    done = run_cli("serve", "--state", state, "--listen", "0.0.0.0:0", "--pages", "127.0.0.1:0")
    assert done.returncode == 78
    assert 'names = ["pps.example.org"]' in done.stderr
