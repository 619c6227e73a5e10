"""What every executor promises: the same probes are judged the same, wherever they run, and nothing stays behind."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pps_agent.state import ProbeResult
from pps_wire.report import Status
from tests.probes.executors.conftest import Prepared, prepare
from tests.support.nodes import RELEASE, make_task, name_of

BODIES = {
    "ok": "echo 'OK - fine|time=0.5s'; echo more",
    "warning": "echo slow; exit 1",
    "critical": "echo broken; exit 2",
    "unknown": "echo cannot tell; exit 3",
    "exit77": "echo odd; exit 77",
    "died": "echo OK; kill -SEGV $$",
    "silent": "exit 0",
    "complains": "echo 'cannot open' >&2; exit 2",
    "floods": "head -c 200000 /dev/zero | tr '\\0' x",
    "daemon": "sleep 300 & sleep 0.3; echo fine",
    "env": 'echo "$PPS_SITE $GRID $LC_ALL"; [ -w "$HOME" ] && [ "$HOME" = "$TMPDIR" ]',
}
EXPECTED = {
    "ok": (Status.OK, "OK - fine", 0),
    "warning": (Status.WARNING, "slow", 1),
    "critical": (Status.CRITICAL, "broken", 2),
    "unknown": (Status.UNKNOWN, "cannot tell", 3),
    "exit77": (Status.UNKNOWN, "exit 77: ", 77),
    "died": (Status.UNKNOWN, "ended by SIGSEGV: ", None),
    "silent": (Status.UNKNOWN, "exit 0 but nothing on stdout", 0),
    "complains": (Status.CRITICAL, "cannot open", 2),
    "floods": (Status.OK, "x", 0),
    "daemon": (Status.OK, "fine", 0),
    "env": (Status.OK, "TEST-SITE composed C.UTF-8", 0),
}


@pytest.fixture(params=["local", "fake", "slurm", "htcondor", "arc"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Prepared]:
    with prepare(request.param, request, tmp_path) as found:
        yield found


def test_probes_are_judged_alike_wherever_they_run(prepared: Prepared, public_directory: Path) -> None:
    """One submission for all of it: jobs are dear."""
    good = make_task(public_directory, BODIES, env={"GRID": "composed"})
    lacking = make_task(public_directory, {"lacks": "echo fine"}, commands=("no-such-command",))
    hanging = make_task(public_directory, {"hangs": "echo begun; sleep 300"}, timeout_s=1)
    tasks = {"good": good, "lacking": lacking, "hanging": hanging}
    threads = 1 if "Local" in type(prepared.executor).__name__ else len(tasks)
    with ThreadPoolExecutor(threads) as pool:  # several releases at once
        answers = dict(zip(tasks, pool.map(prepared.executor.run, tasks.values()), strict=True))
    seen: dict[str, dict[str, ProbeResult]] = {}
    for name, task in tasks.items():
        (answer,) = answers[name]
        assert answer.lost == {}
        assert answer.node or "Local" in type(prepared.executor).__name__
        assert [result.probe for result in answer.results] == [definition.name for definition in task.definitions]
        assert {result.release for result in answer.results} == {RELEASE}
        seen[name] = {result.probe: result for result in answer.results}
    for short, (status, summary, code) in EXPECTED.items():
        result = seen["good"][name_of(short)]
        assert (result.status, result.exit_code) == (status, code), result
        assert result.summary.startswith(summary), result
    assert seen["good"][name_of("died")].signal == signal.SIGSEGV
    assert seen["good"][name_of("daemon")].leftovers_killed == 1
    assert seen["good"][name_of("floods")].truncated_bytes == 200_000 - 64 * 1024
    lacks, hangs = seen["lacking"][name_of("lacks")], seen["hanging"][name_of("hangs")]
    assert (lacks.status, lacks.exit_code) == (Status.UNKNOWN, None)
    assert "command no-such-command is not in PATH" in lacks.summary
    assert (hangs.status, hangs.timed_out) == (Status.UNKNOWN, True)
    assert hangs.summary.startswith("timed out after 1 s")
    assert list(prepared.work.glob("*")) == []
    assert prepared.jobs() == []
