"""Hostile probes of every kind a shell can express: contained, one readable result each, nobody else delayed."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.probes import client as client_module
from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.protocol import RunResponse
from pps_wire.report import Status
from tests.probes.conftest import ENV, WriteProbe, ends_within, needs_root, processes_with, wait_for_processes
from tests.support.services import need

ROOT = Path(client_module.__file__).parents[2]
FORKER = "import os\nwhile True:\n    try: os.fork()\n    except OSError: break\nimport time; time.sleep(600)"
HOLDER = "import socket,os,time\nkept=[]\ntry:\n  while True: kept.append(socket.socket())\nexcept OSError: pass\n"
LISTENER = 'import socket\ns=socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(); print("OK listening")'

KINDS = {
    "output on both streams at once": "yes OK | head -c 20000000 & yes bad | head -c 20000000 >&2 & wait",
    "closed streams": "exec >&- 2>&- <&-; sleep 0.1",
    "stdout closed, child goes on": "(sleep 600) & exec >&- 2>&-",
    "no newline ever": "head -c 200000 /dev/zero | tr '\\0' x",
    "NUL bytes": "head -c 100000 /dev/zero",
    "every byte": 'i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %o $i)"; i=$((i+1)); done',
    "invalid UTF-8, half characters": "printf 'OK \\303\\n\\355\\240\\200\\377\\n|a=\\200;\\n'",
    "terminal escapes": "printf 'OK \\033]0;title\\007\\033[2J\\r\\b\\b\\b all gone\\n'",
    "a million lines": "yes '' | head -n 1000000",
    "forged records": 'printf \'metricName: org.other\\nmetricStatus: OK\\nEOT\\n{"run":"x"}\\n{"beat":1}\\n\'',
    "kills its group": "echo OK; kill -KILL 0",
    "kills all it can": "kill -KILL -1; echo OK",
    "kills the runner": "kill -KILL $PPID; kill -TERM $PPID; kill -STOP $PPID; kill -HUP $PPID; echo OK",
    "stops itself": "echo OK; kill -STOP $$",
    "stops its group": "echo OK; sleep 600 & kill -STOP 0",
    "ignores every signal": "trap '' TERM INT HUP QUIT PIPE USR1 USR2 ALRM XCPU; echo OK; while :; do sleep 0.2; done",
    "own session, no mark, ignoring signals": "env -i /bin/sh -c 'trap \"\" TERM; setsid sleep 600 & exit' & echo OK",
    "a chain of sessions": "setsid sh -c 'setsid sh -c \"setsid sleep 600 &\" &' & sleep 0.2; echo OK",
    "forks without end": f"/usr/bin/python3 -IS -c '{FORKER}'",
    "all descriptors": f"/usr/bin/python3 -IS -c '{HOLDER}time.sleep(600)'",
    "a listening socket": f"/usr/bin/python3 -IS -c '{LISTENER}'",
    "waits on a FIFO": "mkfifo f; echo OK; cat < f",
    "reads its input": "cat; echo OK read",
    "a sparse file": "truncate -s 1000G sparse; echo OK",
    "names that are no text": "for n in '\\012' '\\377' '-rf' '\\033[2J'; do : > \"$(printf \"x$n\")\"; done; echo OK",
    "locked directories": "mkdir -p a/b/c; touch a/b/c/f; chmod 0 a/b/c a/b a .; echo OK",
    "links everywhere": "ln -s / r; ln -s . l; ln -s ../../.. up; ln -s /dev/zero z; mkdir d; ln -s ../l d/l; echo OK",
    "deep directories": "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; echo OK",
    "removes its own directory": 'rm -rf "$PWD"; cd /; rm -rf "$HOME"; echo OK',
    "moves its own directory": 'mv "$HOME" "$HOME.moved"; echo OK',
    "fills its own directory with names": "i=0; while [ $i -lt 3000 ]; do : > $i; i=$((i+1)); done; echo OK",
    "an interpreter that is not there": "printf '#!/no/such\\n' > x; chmod 755 x; exec ./x",
    "exec of a directory": "exec /",
    "wiped environment": "exec env -i /bin/sh -c 'echo OK; exec sleep 600'",
    "a wild environment": "A=$(head -c 100000 /dev/zero | tr '\\0' x) exec /bin/echo OK",
    "lowers its own limits": "ulimit -t 1 -f 0 -n 4; echo OK; : > f; while :; do :; done",
    "busy in many processes": "for i in 1 2 3 4 5 6; do while :; do :; done & done; echo OK",
    "writes into /proc": "for f in oom_score_adj comm clear_refs; do echo 1 > /proc/self/$f; done; echo OK",
    "control groups": "for g in /sys/fs/cgroup/*procs /sys/fs/cgroup/*/*procs; do echo $$ > $g; done; echo OK",
    "namespaces of its own": "unshare -Urm true; unshare -p true; echo OK",
}
KILLERS = {KINDS["kills all it can"], KINDS["kills the runner"]}
"""Where signals are not bounded these hit the runner, or under one account every process of it."""
LIMITS = {"cpu_s": 5, "memory_bytes": 1024**3, "files": 256, "file_bytes": 10**8, "processes": 200}


@pytest.fixture(scope="module", params=["", pytest.param("nobody", marks=needs_root)], ids=["one account", "two users"])
def shared(request: pytest.FixtureRequest) -> Iterator[RunnerClient]:
    """Give one runner for all kinds, one after the other, so that what one of them did harms the next."""
    with start_runner(request.param) as client:
        yield client


@pytest.mark.parametrize("body", KINDS.values(), ids=KINDS)
def test_any_hostile_kind_is_one_readable_result_and_delays_nobody(
    shared: RunnerClient, write_probe: WriteProbe, body: str
) -> None:
    if body in KILLERS:
        need("" if shared.confinement >= 6 else "Landlock 6 is missing: a kernel that has it, and lsm=landlock")
    token = secrets.token_hex(8)
    # As many processes as an account may have are all processes of that account: not of root in single-user tests.
    limits = LIMITS if not shared.single_user else {**LIMITS, "cpu_s": 2}
    hostile = write_probe(f'cd "$HOME"\n{body}', name="hostile", timeout_s=2, limits=limits)
    quick = [write_probe(f"echo OK {n}", name=f"quick{n}", timeout_s=20) for n in range(4)]
    if shared.single_user and body == KINDS["forks without end"]:
        hostile = write_probe("i=0; while [ $i -lt 300 ]; do sleep 600 & i=$((i+1)); done; wait", timeout_s=2)
    results = shared.run_all([hostile, *quick], {**ENV, "PPS_TEST": token}, None)
    assert [result.summary for result in results[1:]] == ["OK 0", "OK 1", "OK 2", "OK 3"]
    assert results[0].summary.isprintable()
    assert 0 < len(results[0].summary) <= 512
    assert processes_with(token) == set()
    assert results[0].status in (Status.OK, Status.UNKNOWN, Status.WARNING, Status.CRITICAL)
    if results[0].timed_out:
        assert results[0].status is Status.UNKNOWN


def _anonymous_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def test_a_hundred_megabytes_on_one_line_of_both_streams_cost_the_runner_less_than_two(runner: RunnerClient) -> None:
    line = "head -c 100000000 /dev/zero | tr '\\0' x"
    for _ in range(3):
        assert isinstance(runner.run_command(["/bin/echo", "OK"], ENV, 20), RunResponse)
    before, peak = _anonymous_bytes(runner.runner_pid), 0
    run = runner.submit(["/bin/sh", "-c", f"{line} & {line} >&2; wait; echo THE END"], ENV, 120)
    answers: dict[str, RunResponse | str] = {}
    while not answers:
        answers.update(runner.poll(0.005))
        peak = max(peak, _anonymous_bytes(runner.runner_pid))
    outcome = answers[run]
    assert isinstance(outcome, RunResponse)
    assert (outcome.exit, outcome.stdout_bytes, outcome.stderr_bytes) == (0, 100_000_008, 100_000_000)
    assert outcome.stdout.endswith(b"THE END\n")
    assert peak - before <= 2 * 1024**2


# --- both deaths at once ---------------------------------------------------------------------------

AGENT = """
import sys
from pathlib import Path
from pps_agent.probes.client import start_runner
state, user, token, *scripts = sys.argv[1:]
with start_runner(user, state=Path(state), temporary=Path(state)) as runner:
    for script in scripts:
        runner.submit(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin", "PPS_TEST": token}, 600)
    print(runner.runner_pid, flush=True)
    while True:
        runner.poll(60)
"""
SURVIVORS = [
    "exec sleep {n}",
    "trap '' TERM HUP INT; sleep {n} & while :; do sleep {n}; done",
    "setsid sleep {n} & exec sleep {n}",
    "( ( setsid sleep {n} & ) & ); exec sleep {n}",
    "exec env -i sleep {n}",
    "env -i setsid sleep {n} & exec env -i sleep {n}",
    "env -i setsid sh -c 'trap \"\" TERM; ( sleep {n} & ); exec sleep {n}' & exec sleep {n}",
    "(cd /; exec >&- 2>&- <&-; exec env -i setsid sleep {n}) & exec sleep {n}",
]


def _sleepers(argument: str) -> set[int]:
    """List the processes that sleep for this long, which is how they are known once they wiped all else."""
    found = set()
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                if (directory / "cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", argument.encode()]:
                    found.add(int(directory.name))
    return found


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
def test_when_agent_and_runner_are_killed_at_once_the_next_start_ends_all_that_hostile_probes_left(
    user: str, public_directory: Path
) -> None:
    seconds = str(100_000_000 + secrets.randbelow(100_000_000))
    token = secrets.token_hex(8)
    scripts = [script.format(n=seconds) for script in SURVIVORS]
    command = [sys.executable, "-c", AGENT, str(public_directory), user, token, *scripts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) as agent:
        assert agent.stdout is not None
        runner_pid = int(agent.stdout.readline())
        wait_for_processes(token, 6)
        while len(_sleepers(seconds)) < 14:
            assert agent.poll() is None
        for pid in (runner_pid, agent.pid):
            os.kill(pid, signal.SIGSTOP)
        for pid in (runner_pid, agent.pid):
            os.kill(pid, signal.SIGKILL)
        agent.wait()
    assert ends_within(runner_pid, 20)
    assert len(_sleepers(seconds)) >= 14
    with start_runner(user, state=public_directory, temporary=public_directory) as runner:
        assert _sleepers(seconds) == set()
        assert processes_with(token) == set()
        assert isinstance(runner.run_command(["/bin/echo", "OK"], ENV, 20), RunResponse)
    assert list(public_directory.iterdir()) == []


@needs_root
def test_who_takes_all_processes_makes_no_neighbour_critical(write_probe: WriteProbe) -> None:
    """The limit counts the account, so a good probe's shell cannot fork, and says so with exit 2."""
    limits = {**LIMITS, "processes": 100}
    taker = "i=0; while [ $i -lt 95 ]; do sleep 600 & i=$((i+1)); done; wait"
    hog = write_probe(taker, name="hog", timeout_s=8, limits=limits)
    good = write_probe("sleep 4; i=0; while [ $i -lt 20 ]; do sleep 2 & i=$((i+1)); done; wait; echo OK", name="good",
                       timeout_s=20, limits=limits)  # fmt: skip
    with start_runner("games") as runner:  # whom no other test is
        results = runner.run_all([hog, good], ENV, None)
        alone = runner.run_all([good], ENV, None)
    assert (results[1].status, "could not be tested: probes had nearly all" in results[1].summary) == (
        *(Status.UNKNOWN, True),
    )
    assert alone[0].status is Status.OK


@needs_root
def test_before_a_runs_own_limits_are_set_the_account_has_one(public_directory: Path) -> None:
    with start_runner("nobody", temporary=public_directory) as runner:
        text = Path(f"/proc/{runner.runner_pid}/limits").read_text()
    assert re.search(r"^Max processes +1024 ", text, re.MULTILINE)
