"""What a hostile or broken probe can do to the runner, and to others: nothing."""

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pps_agent.probes.client import RunnerClient
from pps_agent.state import ProbeResult
from pps_wire.report import Cause, Status
from tests.probes.conftest import ENV, WriteProbe, processes_with


def _peak_rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_an_ordinary_probe_is_reported_with_status_text_and_figures(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    result = runner.run(write_probe("echo 'WARNING - slow | a=1'; echo more; exit 1"), ENV, None)
    assert (result.status, result.summary, result.details) == (Status.WARNING, "WARNING - slow", "more")
    assert (result.perfdata, result.output_bytes, result.cause) == ("a=1", 26, Cause.VERDICT)
    assert (result.exit_code, result.signal, result.timed_out, result.leftovers_killed) == (1, None, False, 0)
    assert result.duration_s > 0
    assert result.max_rss_bytes > 0


def test_a_child_that_holds_stdout_costs_the_drain_and_is_killed(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe("sleep 600 & echo OK"), ENV, None)
    assert (result.status, result.summary, result.leftovers_killed, result.timed_out) == (Status.OK, "OK", 1, False)
    assert result.duration_s < 10  # the child would hold the pipe for 600 s


def test_a_flood_on_one_line_is_counted_cut_and_costs_the_runner_no_memory(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    runner.run(write_probe("echo OK"), ENV, None)
    before = _peak_rss_bytes(runner.runner_pid)
    result = runner.run(write_probe("head -c 100000000 /dev/zero | tr '\\0' x; echo; echo THE END"), ENV, None)
    assert Status.OK is result.status
    assert result.truncated_bytes == 100_000_009 - 64 * 1024
    assert result.details.endswith("THE END")
    assert f"(output cut: {result.truncated_bytes} of 100000009 bytes left out)" in result.details
    assert len(result.details) <= 65_536
    assert _peak_rss_bytes(runner.runner_pid) - before < 4 * 1024**2


def test_a_probe_that_ignores_sigterm_is_killed_after_the_grace(runner: RunnerClient, write_probe: WriteProbe) -> None:
    token = secrets.token_hex(8)
    probe = write_probe("trap '' TERM; echo half; while :; do sleep 0.1; done", timeout_s=1)
    result = runner.run(probe, {**ENV, "PPS_TEST": token}, None)
    assert (result.status, result.timed_out, result.signal) == (Status.UNKNOWN, True, 9)
    assert result.summary.startswith("timed out after 1 s")
    assert "half" in result.summary
    assert set() == processes_with(token)


def test_a_probe_that_heeds_sigterm_may_clean_up(runner: RunnerClient, write_probe: WriteProbe) -> None:
    probe = write_probe("trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done", timeout_s=1)
    result = runner.run(probe, ENV, None)
    assert (result.status, result.timed_out) == (Status.UNKNOWN, True)
    assert "(it had said: cleaned)" in result.summary


def test_a_crash_after_ok_is_unknown_and_names_the_signal(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe("echo 'OK - about to die'; kill -SEGV $$"), ENV, None)
    assert (result.status, result.signal, result.exit_code) == (Status.UNKNOWN, 11, None)
    assert "SIGSEGV" in result.summary
    assert "about to die" in result.summary


@pytest.mark.parametrize("code", [4, 126, 127, 255])
def test_an_exit_code_outside_0_to_3_is_unknown_and_explained(
    runner: RunnerClient, write_probe: WriteProbe, code: int
) -> None:
    result = runner.run(write_probe(f"exit {code}"), ENV, None)
    assert (Status.UNKNOWN, code) == (result.status, result.exit_code)
    assert result.summary.startswith(f"exit {code}: ")


def test_a_missing_command_says_what_to_check_and_keeps_the_shells_words(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    result = runner.run(write_probe("no-such-command-here"), ENV, None)
    assert result.exit_code == 127
    assert "check the PATH" in result.summary
    assert "no-such-command-here" in result.details


def test_stderr_stands_in_for_an_empty_stdout(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe("echo 'cannot open file' >&2; exit 2"), ENV, None)
    assert (result.status, result.summary) == (Status.CRITICAL, "cannot open file")


def test_a_silent_success_is_not_believed(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe("exit 0"), ENV, None)
    assert (result.status, result.summary) == (Status.UNKNOWN, "exit 0 but nothing on stdout")


def test_bytes_that_are_not_text_survive_visibly(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe(r"printf 'OK \377\000 caf\303\251\nmore \376\000\033[31m\n'"), ENV, None)
    assert result.summary == "OK \\xff\\x00 café"
    assert result.details == "more \\xfe\\x00\\x1b[31m"


@pytest.mark.parametrize(
    "escape",
    [
        pytest.param("setsid sleep 600 >/dev/null 2>&1 &", id="own session"),
        pytest.param("( ( setsid sleep 600 >/dev/null 2>&1 & ) & )", id="double fork"),
        pytest.param('env -i PPS_TEST="$PPS_TEST" setsid sleep 600 >/dev/null 2>&1 &', id="own session, no marker"),
    ],
)
def test_an_escapee_is_found_killed_and_counted(runner: RunnerClient, write_probe: WriteProbe, escape: str) -> None:
    token = secrets.token_hex(8)
    result = runner.run(write_probe(f"{escape}\nsleep 0.1\necho OK"), {**ENV, "PPS_TEST": token}, None)
    assert (result.status, result.leftovers_killed) == (Status.OK, 1)
    assert set() == processes_with(token)


def test_many_forks_are_all_killed(runner: RunnerClient, write_probe: WriteProbe) -> None:
    token = secrets.token_hex(8)
    body = "i=0\nwhile [ $i -lt 100 ]; do sleep 600 & setsid sleep 600 & i=$((i+1)); done\necho OK"
    result = runner.run(write_probe(body), {**ENV, "PPS_TEST": token}, None)
    assert (result.status, result.leftovers_killed >= 100) == (Status.OK, True)
    assert set() == processes_with(token)


def test_processes_that_breed_in_one_group_are_ended_by_the_time_limit(
    runner: RunnerClient, write_probe: WriteProbe
) -> None:
    token = secrets.token_hex(8)
    body = "breed() { sleep 0.05; breed & sleep 0.05; }\necho OK\nbreed &\nwhile :; do sleep 0.2; done"
    result = runner.run(write_probe(body, timeout_s=1), {**ENV, "PPS_TEST": token}, None)
    assert (result.status, result.timed_out) == (Status.UNKNOWN, True)
    assert set() == processes_with(token)


def test_an_endless_loop_ends_at_its_cpu_limit(runner: RunnerClient, write_probe: WriteProbe) -> None:
    result = runner.run(write_probe("echo OK; while :; do :; done", limits={"cpu_s": 1}), ENV, None)
    assert Status.UNKNOWN is result.status
    assert "used up its CPU time" in result.summary


def test_a_greedy_probe_meets_its_memory_and_file_limits(runner: RunnerClient, write_probe: WriteProbe) -> None:
    # Limits are set just after the start: what comes in small steps meets them.
    body = "import time\nx = []\nfor _ in range(200): time.sleep(0.005); x.append(bytearray(2**22))"
    memory = write_probe(body, interpreter="/usr/bin/python3 -IS", limits={"memory_bytes": 2**28})
    assert "MemoryError" in runner.run(memory, ENV, None).details
    file = write_probe("sleep 0.2; head -c 5000000 /dev/zero > big; echo OK; ls -s big", limits={"file_bytes": 1024**2})
    assert "1024 big" in runner.run(file, ENV, None).details


def test_a_file_that_is_no_program_is_unknown_with_the_reason(runner: RunnerClient, write_probe: WriteProbe) -> None:
    probe = write_probe("echo OK", interpreter="/no/such/interpreter")
    result = runner.run(probe, ENV, None)
    assert (result.status, result.exit_code, result.signal) == (Status.UNKNOWN, None, None)
    assert "could not be started: No such file or directory" in result.summary
    gone = replace(probe, run=probe.run.with_name("gone"))
    assert "could not be started" in runner.run(gone, ENV, None).summary


def test_a_missing_requirement_is_unknown_without_a_start(
    runner: RunnerClient, write_probe: WriteProbe, tmp_path: Path
) -> None:
    note = tmp_path / "started"
    probe = write_probe(f"touch {note}; echo OK", commands=("no-such-cmd",), variables={"PPS_X": "the address"})
    result = runner.run(probe, ENV, None)
    assert Status.UNKNOWN is result.status
    assert result.summary.startswith("missing requirement: command no-such-cmd")
    assert "variable PPS_X (the address)" in result.summary
    assert not note.exists()


def test_runs_go_side_by_side_and_a_hanging_one_delays_no_other(runner: RunnerClient, write_probe: WriteProbe) -> None:
    hanging = write_probe("sleep 600", name="hanging", timeout_s=1)
    quick = [write_probe(f"echo OK {n}", name=f"quick{n}") for n in range(20)]
    results = runner.run_all([hanging, *quick], ENV, None)
    assert [result.timed_out for result in results] == [True] + [False] * 20
    assert [f"OK {n}" for n in range(20)] == [result.summary for result in results[1:]]
    assert max(result.duration_s for result in results[1:]) < results[0].duration_s


def test_a_run_sees_a_clean_environment_and_a_private_directory_that_goes(
    runner: RunnerClient, write_probe: WriteProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPS_AGENT_SECRET", "do not tell")
    body = "echo OK $(stat -c %a .) $PWD $HOME $TMPDIR\nenv | cut -d= -f1 | sort | tr '\\n' ' '\necho\numask\n"
    body += "ls /proc/$$/fd"
    result = runner.run(write_probe(body), {**ENV, "PPS_SITE": "X", "LC_ALL": "de_DE.UTF-8"}, None)
    mode, directory, home, temporary = result.summary.split()[1:]
    assert mode == "700"
    assert directory == home == temporary
    assert not Path(directory).exists()
    names, umask, *descriptors = result.details.split("\n")
    assert names.split() == ["HOME", "LC_ALL", "PATH", "PPS_RUN", "PPS_SITE", "PWD", "TMPDIR"]
    assert umask == "0077"
    assert {"0", "1", "2"} >= set(descriptors) - {"10"}  # dash keeps its script on 10


def test_a_directory_full_of_traps_is_removed(runner: RunnerClient, write_probe: WriteProbe) -> None:
    body = (
        "echo OK $PWD\nmkdir -p locked/inner && touch locked/inner/file && chmod 0 locked/inner locked\n"
        "ln -s / root\ni=0\nwhile [ $i -lt 600 ]; do mkdir deeperdeeper && cd deeperdeeper; i=$((i+1)); done\ntouch end"
    )
    result = runner.run(write_probe(body), ENV, None)
    assert not Path(result.summary.split()[1]).exists()
    assert shutil.disk_usage("/").total > 0  # and the link was not followed


def test_after_all_that_the_runner_still_answers(runner: RunnerClient, write_probe: WriteProbe) -> None:
    results: list[ProbeResult] = [runner.run(write_probe("echo OK"), ENV, None) for _ in range(3)]
    assert [result.status for result in results] == [Status.OK] * 3
