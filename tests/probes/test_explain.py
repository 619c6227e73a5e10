"""What ``probe explain`` shows is what a run gets, but for secrets."""

from datetime import time
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient
from pps_agent.probes.definition import ProbeDefinition, SecretForm
from pps_agent.probes.explain import RUN_DIRECTORY, RUN_MARK, SECRET, render_environment, render_every, render_shell
from pps_wire.names import ProbeName
from tests.probes.conftest import WriteProbe


def define(**fields: object) -> ProbeDefinition:
    return ProbeDefinition(name=ProbeName("org.test.x"), run=Path("/x/run"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("env", [{}, {"PATH": "/usr/bin:/bin", "A": "it's", "HOME": "/root", "LC_ALL": "de_DE"}])
def test_the_environment_shown_is_the_one_that_a_run_has(
    runner: RunnerClient, write_probe: WriteProbe, env: dict[str, str]
) -> None:
    result = runner.run(write_probe("/usr/bin/env"), env, None)
    printed = (result.summary, *result.details.splitlines())
    had = dict(line.split("=", 1) for line in printed if not line.startswith(("PWD=", "_=", "SHLVL=", "OLDPWD=")))
    shown = render_environment(define(), env, {})
    assert set(had) == set(shown)
    own = {name for name, text in shown.items() if text in (RUN_DIRECTORY, RUN_MARK)}
    assert own == {"HOME", "TMPDIR", "PPS_RUN"}
    assert {name: text for name, text in had.items() if name not in own} == {
        name: text for name, text in shown.items() if name not in own
    }


def test_what_is_secret_or_looks_like_it_is_not_shown() -> None:
    forms = {"PPS_A": SecretForm.ENVIRONMENT, "PPS_B": SecretForm.FILE, "PPS_C": SecretForm.FILE}
    env = {"PPS_A": "hunter2", "DB_PASSWORD": "hunter2", "BEARER_TOKEN": "hunter2", "API_KEY": "hunter2", "PLAIN": "x"}
    shown = render_environment(define(secrets=forms), env, {"PPS_A": "/a", "PPS_B": "/b"})
    assert "hunter2" not in "".join(shown.values())
    assert {name for name, text in shown.items() if SECRET in text} == {
        *("PPS_A", "PPS_B", "DB_PASSWORD", "BEARER_TOKEN", "API_KEY"),
    }
    assert shown["PLAIN"] == "x"
    assert "PPS_C" not in shown


def test_the_shell_lines_quote_what_a_shell_would_read_otherwise() -> None:
    assert render_shell({"B": "a b", "A": "it's"}, ["/x y/run"]) == ["A='it'\"'\"'s' \\", "B='a b' \\", "'/x y/run'"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "when asked"),
        ({"interval_s": 90}, "every 90 s"),
        ({"interval_s": 900}, "every 15 min"),
        ({"interval_s": 7200}, "every 2 h"),
        ({"interval_s": 86_400, "at": time(3, 15)}, "every 1 d at 03:15 UTC"),
    ],
)
def test_the_rhythm_is_told_in_the_largest_unit_that_fits(fields: dict[str, object], words: str) -> None:
    assert render_every(define(**fields)) == words
