"""The agent's connection: asking without waiting, and noticing a runner that no longer answers."""

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pps_agent.errors import SiteError
from pps_agent.probes import connection as connection_module
from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.connection import RunnerConnection
from pps_agent.probes.fields import LineBuffer
from pps_agent.probes.protocol import (
    MAX_BASES,
    Base,
    Greeting,
    RunRequest,
    RunResponse,
    parse_agent_line,
    render_greeting,
)
from pps_wire.errors import WireError
from tests.probes.conftest import ENV


def outcomes_of(runner: RunnerConnection, runs: set[str]) -> dict[str, RunResponse | str]:
    """Wait for the answers as the daemon does: by the descriptor, then a poll that does not wait."""
    found: dict[str, RunResponse | str] = {}
    while found.keys() < runs:
        assert select.select([runner.fileno()], [], [], 30)[0]
        found.update(runner.poll())
    return found


def texts(outcomes: dict[str, RunResponse | str], runs: list[str]) -> list[bytes]:
    return [outcome.stdout if isinstance(outcome := outcomes[run], RunResponse) else b"" for run in runs]


def test_answers_come_by_the_descriptor_and_each_belongs_to_its_run(runner: RunnerClient) -> None:
    runs = [runner.submit(["/bin/echo", str(n)], ENV, 20) for n in range(30)]
    assert runner.open_runs == 30
    assert texts(outcomes_of(runner, set(runs)), runs) == [f"{n}\n".encode() for n in range(30)]
    assert (runner.open_runs, runner.poll()) == (0, [])


def test_a_thousand_runs_asked_for_at_once_are_all_answered(runner: RunnerClient) -> None:
    runs = {runner.submit(["/bin/true"], {**ENV, "LONG": "x" * 2000}, 60, more={"N": str(n)}) for n in range(1000)}
    found = outcomes_of(runner, runs)
    assert {outcome.exit for outcome in found.values() if isinstance(outcome, RunResponse)} == {0}
    assert found.keys() == runs


def test_a_run_s_own_variables_go_over_the_shared_ones(runner: RunnerClient) -> None:
    shared = {**ENV, "A": "shared", "B": "shared"}
    runs = [
        runner.submit(["/bin/sh", "-c", "echo $A $B"], shared, 20, more=more) for more in ({}, {"A": "own"}, {"B": ""})
    ]
    assert texts(outcomes_of(runner, set(runs)), runs) == [b"shared shared\n", b"own shared\n", b"shared\n"]


def test_more_environments_than_a_runner_remembers_work_too(runner: RunnerClient) -> None:
    numbers = [*range(MAX_BASES + 10), *range(5)]
    runs = [runner.submit(["/bin/sh", "-c", "echo $N"], {**ENV, "N": str(n)}, 60) for n in numbers]
    assert texts(outcomes_of(runner, set(runs)), runs) == [f"{n}\n".encode() for n in numbers]


@pytest.mark.parametrize("argv", [["relative"], [], ["/x\0"], ["/\ud800"], ["/x"] * 70])
def test_what_cannot_be_asked_for_is_refused_at_once_and_harms_nobody(runner: RunnerClient, argv: list[str]) -> None:
    with pytest.raises(WireError):
        runner.submit(argv, ENV, 20)
    assert runner.open_runs == 0
    answer = runner.run_command(["/bin/echo", "on"], ENV, 20)
    assert isinstance(answer, RunResponse)
    assert answer.stdout == b"on\n"


# --- runners that misbehave ------------------------------------------------------------------------


@contextmanager
def fake_runner() -> Iterator[tuple[RunnerConnection, socket.socket]]:
    """Give a connection and the other end of it, which has greeted and will do what the test does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(render_greeting(Greeting(1, os.geteuid(), landlock=7, cgroup=True)))
        yield RunnerConnection(ours), theirs


def test_the_greeting_tells_how_runs_are_confined() -> None:
    with fake_runner() as (runner, _):
        assert (runner.confinement, runner.has_cgroups, runner.single_user) == (7, True, True)


def test_an_environment_is_sent_once_for_many_runs() -> None:
    with fake_runner() as (runner, theirs):
        for _ in range(3):
            runner.submit(["/x"], dict(ENV), 20, limits={"cpu_s": 5})
        lines = list(LineBuffer().feed(theirs.recv(65_536)))
    messages = [parse_agent_line(line) for line in lines]
    assert [type(message) for message in messages] == [Base, *[RunRequest] * 3]
    assert messages[0] == Base("b0", ENV, {"cpu_s": 5})
    assert [message.base for message in messages[1:] if isinstance(message, RunRequest)] == ["b0"] * 3


def test_a_runner_that_says_nothing_is_given_up_and_one_that_beats_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_S", 0.2)
    monkeypatch.setattr(connection_module, "_DOUBT_S", 0.1)
    with fake_runner() as (runner, theirs):
        run = runner.submit(["/x"], ENV, 600)
        for _ in range(5):
            theirs.sendall(b'{"beat":1}\n')
            assert runner.poll(0.1) == []
        ((lost, reason),) = runner.poll(20)
    assert lost == run
    assert str(reason).startswith("lost: the probe runner ended or stopped answering while it ran: it said nothing")
    assert runner.is_lost


@pytest.mark.parametrize("content", [b"{}\n", b"\xff\n", b"x" * 2_000_000])
def test_a_runner_that_talks_nonsense_is_given_up(content: bytes) -> None:
    with fake_runner() as (runner, theirs):
        runs = {runner.submit(["/x"], ENV, 600) for _ in range(2)}
        theirs.setblocking(False)
        found: dict[str, RunResponse | str] = {}
        while content or found.keys() < runs:
            with suppress(BlockingIOError):
                content = content[theirs.send(content) :] if content and not runner.is_lost else b""
            found.update(runner.poll(0.01))
        assert runner.is_lost
        with pytest.raises(SiteError, match="the probe runner is gone"):
            runner.submit(["/x"], ENV, 1)


def test_a_runner_that_beats_while_a_run_takes_long_is_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_S", 12.0)
    monkeypatch.setattr(connection_module, "_DOUBT_S", 0.5)
    with start_runner() as runner:
        long = runner.submit(["/bin/sleep", "14"], ENV, 60)
        ((run, outcome),) = runner.poll(40)
        assert run == long
        assert isinstance(outcome, RunResponse)
        assert outcome.exit == 0


def test_a_stopped_runner_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_S", 0.5)
    monkeypatch.setattr(connection_module, "_DOUBT_S", 0.2)
    with start_runner() as runner:
        os.kill(runner.runner_pid, signal.SIGSTOP)
        run = runner.submit(["/bin/true"], ENV, 20)
        ((lost, reason),) = runner.poll(20)
        os.kill(runner.runner_pid, signal.SIGCONT)
    assert (lost, isinstance(reason, str)) == (run, True)
