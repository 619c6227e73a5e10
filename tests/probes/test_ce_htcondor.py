"""ce.htcondor against a real pool of HTCondor 23, and with clients that do wrong."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_wire.report import Status
from tests.probes.conftest import wait_for_text
from tests.support.condor import CondorPool, run_condor
from tests.support.plugins import Said, oldest_python, probe_path, read_plugin, run_plugin

COLLECTOR = "127.0.0.1:19618"
STEPS = ["schedd", "ping", "queue"]
FACTS = ["schedds", "running", "idle", "held", "age"]


@pytest.fixture(scope="module")
def pool() -> Iterator[CondorPool]:
    with run_condor() as running:
        for name in ("condor_ping", "condor_transfer_data"):
            script = running.base / "bin" / name
            script.write_text((running.base / "bin" / "condor_rm").read_text().replace("condor_rm", name))
            script.chmod(0o755)
        yield running


def environment(pool: CondorPool, **env: str | Path) -> dict[str, str | Path]:
    # The job's output goes where the clients, in the pool's root, see the same directory.
    fixed: dict[str, str | Path] = {"PPS_CE_HTCONDOR": COLLECTOR, "TMPDIR": pool.work, "PATH": pool.env["PATH"]}
    return {**fixed, **env}


def ask(pool: CondorPool, python: str = "", **env: str | Path) -> Said:
    return run_plugin("ce.htcondor", python=python, **environment(pool, **env))


def stand_before(pool: CondorPool, directory: Path, name: str, body: str) -> str:
    """Give a PATH in which a script stands before one of the clients; ``$real`` is that client."""
    (directory / name).write_text(f"#!/bin/sh\nreal={pool.base}/bin/{name}\n{body}\n")
    (directory / name).chmod(0o755)
    return f"{directory}:{pool.env['PATH']}"


def test_a_real_schedd_is_known_lets_us_write_and_answers(pool: CondorPool) -> None:
    said = ask(pool, PPS_CE_HTCONDOR_MIN_SLOTS="1")
    assert said.status is Status.OK, said
    assert list(said.perfdata) == [*STEPS, "slots", "total", *FACTS, "known_slots"]


def test_it_works_under_the_oldest_python(pool: CondorPool) -> None:
    if not oldest_python():
        pytest.skip("no Python 3.9 here")
    assert ask(pool, oldest_python()).status is Status.OK


def test_a_job_goes_through_and_nothing_of_it_stays(pool: CondorPool) -> None:
    said = ask(pool, PPS_CE_HTCONDOR_JOB="1")
    assert (said.status, said.text.endswith(", a job went through")) == (Status.OK, True), said
    assert list(said.perfdata) == [*STEPS, "submit", "run", "fetch", "total", *FACTS]
    assert pool.queue() == []


def test_schedd_slots_and_port_are_as_asked_for(pool: CondorPool) -> None:
    name = pool.command("condor_status", "-schedd", "-af", "Name").strip()
    assert ask(pool, PPS_CE_HTCONDOR_SCHEDD=name).status is Status.OK
    host, port = COLLECTOR.split(":")
    assert ask(pool, PPS_CE_HTCONDOR=host, PPS_CE_HTCONDOR_PORT=port).status is Status.OK
    said = ask(pool, PPS_CE_HTCONDOR_SCHEDD="other.example.org")
    assert (said.status, said.text) == (Status.CRITICAL, "schedd: the collector knows no schedd other.example.org")
    said = ask(pool, PPS_CE_HTCONDOR_MIN_SLOTS="9999")
    assert (said.status, "at least 9999 are expected" in said.text) == (Status.CRITICAL, True), said
    assert ask(pool, PPS_CE_HTCONDOR_SCHEDD='x" || true').status is Status.UNKNOWN


def test_a_collector_that_is_not_there_is_critical(pool: CondorPool) -> None:
    said = ask(pool, PPS_CE_HTCONDOR="127.0.0.1:1")
    assert (said.status, "Failed to connect" in said.text) == (Status.CRITICAL, True), said


def test_a_way_to_log_in_that_fails_is_the_client_s_side(pool: CondorPool, tmp_path: Path) -> None:
    login = "_condor_SEC_CLIENT_AUTHENTICATION_METHODS=SCITOKENS"
    body = f'sed "s/^exec nsenter.* env -i/& {login}/" "$real" | sh -s -- "$@"'
    said = ask(pool, PATH=stand_before(pool, tmp_path, "condor_status", body))
    assert (said.status, "client side: condor_status" in said.text) == (Status.WARNING, True), said


def test_a_schedd_that_denies_us_is_critical(pool: CondorPool) -> None:
    denial = pool.base / "config.d" / "99-deny"
    denial.write_text("SCHEDD.DENY_WRITE = *\n")
    try:
        pool.command("condor_reconfig", "-schedd")
        said = ask(pool)
        while said.status is Status.OK:  # a daemon reads its settings when it next has time
            said = ask(pool)
    finally:
        denial.unlink()
        pool.command("condor_reconfig", "-schedd")
    assert (said.status, said.text.startswith("ping: condor_ping: ")) == (Status.CRITICAL, True), said
    while ask(pool).status is not Status.OK:
        pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('[{"JobStatus": 5, "HoldReason": "no | disk"}]', "is held: no / disk"),
        ('[{"JobStatus": 3}]', "is removed: no reason is told"),
        ("", "is no longer in the queue"),
    ],
)
def test_a_job_that_does_not_go_through_is_critical_and_removed(
    pool: CondorPool, tmp_path: Path, answer: str, words: str
) -> None:
    body = f"""case "$*" in *JobStatus,HoldReason*) echo '{answer}';; *) exec $real "$@";; esac"""
    said = ask(pool, PPS_CE_HTCONDOR_JOB="1", PATH=stand_before(pool, tmp_path, "condor_q", body))
    assert (said.status, said.text.startswith("run: job "), words in said.text) == (Status.CRITICAL, True, True), said
    assert pool.queue() == []


def test_other_output_is_critical(pool: CondorPool, tmp_path: Path) -> None:
    body = f'$real "$@" || exit; for file in {pool.work}/*/out; do echo other >$file; done'
    said = ask(pool, PPS_CE_HTCONDOR_JOB="1", PATH=stand_before(pool, tmp_path, "condor_transfer_data", body))
    assert (said.status, said.text.startswith("fetch: the job has printed something else")) == (Status.CRITICAL, True)
    assert pool.queue() == []


def test_a_stopped_probe_takes_its_job_away(pool: CondorPool, tmp_path: Path) -> None:
    note = tmp_path / "note"
    path = stand_before(pool, tmp_path, "condor_submit", f'$real "$@" || exit; echo >{note}')
    env = {name: str(value) for name, value in environment(pool, PPS_CE_HTCONDOR_JOB="1", PATH=path).items()}
    with subprocess.Popen(
        [probe_path("ce.htcondor")], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as probe:
        wait_for_text(note, 1, lambda: probe.poll() is None)
        os.killpg(probe.pid, signal.SIGTERM)  # as the runner does at the time limit
        said = read_plugin(probe.wait(20), probe.stdout.read() if probe.stdout else "")
    assert (said.status, said.text.removeprefix("run: ")) == (Status.UNKNOWN, "stopped by SIGTERM before the end")
    assert pool.queue() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("kill -SEGV $$", "schedd: condor_status dies of signal 11"),
        ("exec /no/such/thing", "schedd: condor_status does not start"),
        ("echo '[1]'", "the answer is no list of ads"),
        ("echo '[{'", "the answer is no list of ads"),
        ("exec sleep 600", "schedd: did not end within 8 s"),
    ],
)
def test_a_client_that_does_wrong_is_critical(pool: CondorPool, tmp_path: Path, body: str, words: str) -> None:
    said = ask(pool, PATH=stand_before(pool, tmp_path, "condor_status", body), PPS_STEP_LIMIT_S="8")
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said


def test_only_the_release_s_own_clients_count(pool: CondorPool, tmp_path: Path) -> None:
    said = ask(pool, PPS_RELEASE_ROOT=tmp_path)
    assert (said.status, "not the release's" in said.text) == (Status.CRITICAL, True), said


def test_an_old_advertisement_and_a_slow_answer_are_warnings(pool: CondorPool, tmp_path: Path) -> None:
    body = '$real "$@" | sed "s/\\"LastHeardFrom\\": [0-9]*/\\"LastHeardFrom\\": 1000000000/"'
    said = ask(pool, PATH=stand_before(pool, tmp_path, "condor_status", body))
    assert (said.status, "last heard from " in said.text) == (Status.WARNING, True), said
    assert ask(pool, PPS_CE_HTCONDOR_WARN_S="0.000001").status is Status.WARNING


@pytest.mark.parametrize("collector", ["", "http://x", "x y", "x:123456", "x|y"])
def test_what_is_no_collector_is_unknown(collector: str) -> None:
    said = run_plugin("ce.htcondor", PPS_CE_HTCONDOR=collector)
    assert (said.status, said.text) == (Status.UNKNOWN, "set PPS_CE_HTCONDOR to host:port of the collector")
