"""The prober with a real runner, real probes and a real state.db."""

import contextlib
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from pps_agent.database import open_database
from pps_agent.errors import SiteError
from pps_agent.probes.agenda import Agenda, Watched, find_jobs
from pps_agent.probes.definition import ProbeDefinition, SecretForm
from pps_agent.probes.prober import Prober
from pps_agent.probes.running import OpenRun, RunningFile
from pps_agent.probes.slots import Key
from pps_agent.settings import (
    PathSettings,
    ProbeSettings,
    RepositorySettings,
    Settings,
    SiteSettings,
)
from pps_wire.names import ProbeName, ReleaseId, Site, Vo
from tests.probes.conftest import ENV, WriteProbe, ends_within, wait_for_processes

RELEASE = ReleaseId("grid-clients-1.0.0-x86_64-glibc2.36")
AGENT = "b" * 32


class Bench:
    """A state directory, and probers on it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.state = base / "state"
        self.state.mkdir()
        self.published = base / "run"
        self.changes = 0
        self.log: list[dict[str, Any]] = []
        self.settings = Settings(
            site=SiteSettings(name=Site("TEST-SITE"), vos=(Vo("dteam"), Vo("ops"))),
            repository=RepositorySettings(url="http://127.0.0.1:1"),
            paths=PathSettings(store=base / "store", state=self.state),
            probes=ProbeSettings(enabled=("*",), publish=self.published),
        )

    def agenda(self, *definitions: ProbeDefinition, watched: tuple[Watched, ...] = ()) -> Agenda:
        probes = self.settings.probes
        jobs = find_jobs(probes.enabled, {None: definitions}, watched, probes.max_age_s)
        env = {**ENV, "BENCH": str(self.base)}
        environments = dict.fromkeys((None, *(seen.release for seen in watched)), env)
        return Agenda(self.settings, AGENT, jobs, environments)

    def prober(self, *definitions: ProbeDefinition, watched: tuple[Watched, ...] = ()) -> Prober:
        def note_change() -> None:
            self.changes += 1

        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[self._note])
        return Prober(self.agenda(*definitions, watched=watched), log, note_change)

    def _note(self, _logger: object, _method: str, event: dict[str, Any]) -> str:
        self.log.append(dict(event))
        return ""

    def wait_for_start(self) -> int:
        """Wait until a probe runs, and give its process."""
        return min(wait_for_processes(f"BENCH={self.base}", 1))

    def rows(self, columns: str = "probe, status, cause, attempt, hard, summary") -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.state / "state.db", timeout=30)) as database:
            return list(database.execute(f"SELECT {columns} FROM probe_result ORDER BY id"))

    def reports(self) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.state / "state.db", timeout=30)) as database:
            return [json.loads(body) for (body,) in database.execute("SELECT body FROM outbox ORDER BY id")]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.published / "results.jsonl").read_text().splitlines()]

    def install(self) -> None:
        """Make a release look installed, anew."""
        directory = self.base / "store" / "releases" / RELEASE
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "new").write_text("")
        (directory / "new").rename(directory / "manifest")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@contextlib.contextmanager
def working(prober: Prober) -> Iterator[Prober]:
    """Have a prober work in a thread of its own, and stop it at the end."""
    thread = threading.Thread(target=prober.run)
    thread.start()
    try:
        yield prober
    finally:
        prober.stop()
        thread.join(60)
        prober.close()
    assert not thread.is_alive()


def soon(**facts: Any) -> dict[str, Any]:
    """Give the fields of a probe that is due at once, and not again while a test lasts."""
    return {"interval_s": 3600, "splay_s": 0, **facts}


def run_once(prober: Prober) -> float | None:
    """Run all that is due now; give what ``run`` gave."""
    try:
        return prober.run()
    finally:
        prober.close()


def watch(*names: str, profile: str = "p") -> Watched:
    return Watched(RELEASE, "1.0.0", tuple(map(ProbeName, names)), profile)


def test_what_is_due_runs_and_reaches_history_outbox_and_readers(bench: Bench, write_probe: WriteProbe) -> None:
    good = write_probe("echo 'fine | time=0.2s'", name="good", **soon(digest="d" * 64))
    bad = write_probe("echo broken; echo more; exit 2", name="bad", **soon())
    wait_s = run_once(bench.prober(good, bad))
    assert wait_s is not None
    assert 1 < wait_s <= 3600 * 1.5
    assert sorted(bench.rows()) == [
        ("org.test.bad", 2, "verdict", 1, 1, "broken"),
        ("org.test.good", 0, "verdict", 1, 1, "fine"),
    ]
    assert sorted((body["probe"], body["status"]) for body in bench.reports()) == [
        ("org.test.bad", 2),
        ("org.test.good", 0),
    ]
    lines = {line["metric"]: line for line in bench.lines()}
    assert list(lines["org.test.good"]) == [
        *("metric", "release", "status", "cause", "summary", "perfdata", "at", "fresh_until", "attempt", "hard"),
        *("details", "duration_s"),
    ]
    assert (lines["org.test.bad"]["status"], lines["org.test.bad"]["release"]) == ("CRITICAL", "")
    state = json.loads((bench.published / "agent.json").read_text())
    assert (state["site"], state["misfires"], state["outbox_waiting"]) == ("TEST-SITE", 0, 2)
    assert {path.stat().st_mode & 0o777 for path in bench.published.iterdir()} == {0o644}
    assert bench.changes == 0


def test_a_probe_that_lacks_something_is_unknown_without_a_start(bench: Bench, write_probe: WriteProbe) -> None:
    tell = "echo no"
    run_once(
        bench.prober(
            write_probe(tell, name="command", **soon(commands=("there-is-no-such",))),
            write_probe(tell, name="proxy", **soon(needs_proxy=True)),
            write_probe(
                tell, name="secret", **soon(secrets={"PPS_TOKEN": SecretForm.FILE}, variables={"PPS_TOKEN": "a token"})
            ),
            write_probe(tell, name="variable", **soon(variables={"PPS_X": "what it is"})),
        )
    )
    rows = sorted(bench.rows())
    assert [(row[0], row[1], row[2]) for row in rows] == [
        (f"org.test.{name}", 3, "requirement") for name in ("command", "proxy", "secret", "variable")
    ]
    for row, word in zip(rows, ("there-is-no-such", "probes.proxy", "probes.secrets", "PPS_X"), strict=True):
        assert word in row[5]


def test_secrets_reach_the_probe_and_never_its_result(bench: Bench, write_probe: WriteProbe) -> None:
    token = bench.base / "token"
    token.write_text("squeamish-ossifrage\n")
    bench.settings = replace(
        bench.settings, probes=replace(bench.settings.probes, secrets={"PPS_A": str(token), "PPS_B": str(token)})
    )
    form = {"PPS_A": SecretForm.FILE, "PPS_B": SecretForm.ENVIRONMENT}
    body = 'test "$(cat "$PPS_A")" = "$PPS_B" && echo "I know $PPS_B" && echo "x $PPS_B"'
    run_once(bench.prober(write_probe(body, **soon(secrets=form))))
    ((status, summary, details),) = bench.rows("status, summary, details")
    assert (status, summary) == (0, "I know [secret]")
    assert "ossifrage" not in details


def test_a_probe_gets_the_vo_it_is_meant_for_and_the_proxy_it_needs(bench: Bench, write_probe: WriteProbe) -> None:
    proxy = bench.base / "proxy.pem"
    proxy.write_text("not one")
    bench.settings = replace(bench.settings, probes=replace(bench.settings.probes, proxy=proxy))
    body = 'echo "$PPS_VO $X509_USER_PROXY"'
    run_once(bench.prober(write_probe(body, **soon(vos=(Vo("ops"),), needs_proxy=True))))
    assert [row[5] for row in bench.rows()] == [f"ops {proxy}"]


def test_children_of_a_failed_parent_are_unknown_and_say_so(bench: Bench, write_probe: WriteProbe) -> None:
    parent = write_probe("echo expired; exit 2", name="parent", **soon())
    child = write_probe("echo fine", name="child", **soon(depends_on=(ProbeName("org.test.parent"),), matrix=True))
    bench.install()
    run_once(bench.prober(parent, child, watched=(watch("org.test.child"),)))
    assert sorted(bench.rows("probe, release, status, cause, summary")) == [
        ("org.test.child", "", 3, "dependency", "dependency: org.test.parent is not OK"),
        ("org.test.child", RELEASE, 3, "dependency", "dependency: org.test.parent is not OK"),
        ("org.test.parent", "", 2, "verdict", "expired"),
    ]


def test_a_hard_change_on_a_release_is_told_at_once_and_a_soft_one_is_not(
    bench: Bench, write_probe: WriteProbe
) -> None:
    bench.install()
    mood = bench.base / "mood"
    mood.write_text("2")
    body = f"echo x; exit $(cat {mood})"
    soft = write_probe(body, name="soft", **soon(max_attempts=3))
    run_once(bench.prober(soft, watched=(watch("org.test.soft"),)))
    assert bench.changes == 0
    hard = write_probe(body, name="hard", **soon())
    run_once(bench.prober(hard, watched=(watch("org.test.hard"),)))
    assert bench.changes == 1
    assert [row[2:] for row in bench.rows("probe, release, status, attempt, hard") if row[1]] == [(2, 1, 0), (2, 1, 1)]


def test_a_result_of_a_tree_that_was_replaced_meanwhile_is_dropped(bench: Bench, write_probe: WriteProbe) -> None:
    bench.install()
    go_on = bench.base / "go"
    body = f"while [ ! -e {go_on} ]; do sleep 0.01; done; echo fine"
    probe = write_probe(body, **soon())
    bench.settings = replace(bench.settings, probes=replace(bench.settings.probes, enabled=()))
    with working(bench.prober(probe, watched=(watch("org.test.it"),))):
        bench.wait_for_start()
        bench.install()
        go_on.touch()
        wait_for_commit(bench)
    assert bench.rows() == []


def test_a_lost_runner_costs_the_runs_under_way_and_is_replaced(bench: Bench, write_probe: WriteProbe) -> None:
    go_on = bench.base / "go"
    probe = write_probe(f"[ -e {go_on} ] || exec sleep 60; echo fine", **soon(retry_interval_s=1))
    with working(bench.prober(probe)) as prober:
        bench.wait_for_start()
        runner = prober._dispatcher._runner
        assert runner is not None
        go_on.touch()
        os.kill(runner.runner_pid, signal.SIGKILL)
        wait_for_rows(bench, lambda rows: len(rows) == 2)
    first, second = bench.rows()
    assert (first[1], first[2]) == (3, "lost")
    assert (second[1], second[2], second[5]) == (0, "verdict", "fine")


def wait_for_commit(bench: Bench) -> None:
    """Wait until no run is open and no result is left in memory."""
    for _ in range(3000):
        if not (bench.state / "running.jsonl").read_bytes():
            return
        threading.Event().wait(0.01)
    raise AssertionError((bench.state / "running.jsonl").read_text())


def wait_for_rows(bench: Bench, enough: Callable[[list[tuple[Any, ...]]], bool]) -> None:
    """Wait until the results on disk are enough."""
    for _ in range(3000):
        if enough(bench.rows()):
            return
        threading.Event().wait(0.01)
    raise AssertionError(bench.rows())


def test_stopping_ends_what_runs_and_tells_of_it(bench: Bench, write_probe: WriteProbe) -> None:
    probe = write_probe("exec sleep 600", **soon(timeout_s=600))
    with working(bench.prober(probe)):
        pid = bench.wait_for_start()
    assert ends_within(pid, 10)
    assert [row[1:3] for row in bench.rows()] == [(3, "lost")]
    assert "was stopped" in bench.rows()[0][5]
    assert (bench.state / "running.jsonl").read_bytes() == b""


def test_the_last_results_before_the_end_are_published_too(bench: Bench, write_probe: WriteProbe) -> None:
    quick = write_probe("echo fine", name="quick", **soon())
    slow = write_probe("exec sleep 600", name="slow", **soon(timeout_s=600))
    with working(bench.prober(quick, slow)):
        bench.wait_for_start()
        wait_for_rows(bench, lambda rows: len(rows) == 1)
    assert {(line["metric"], line["status"]) for line in bench.lines()} == {
        (quick.name, "OK"),
        (slow.name, "UNKNOWN"),
    }


def test_runs_that_an_earlier_daemon_left_open_are_told_as_lost_and_run_again(
    bench: Bench, write_probe: WriteProbe
) -> None:
    probe = write_probe("echo fine", **soon())
    file = RunningFile(bench.state)
    file.add([OpenRun(Key(probe.name, None), 1_700_000_000.5)])
    file.close()
    with (bench.state / "running.jsonl").open("ab") as stream:
        stream.write(b'["org.test.one","",17957957821795795782.09]\n["org.test.one","",-1e300]\nhalf a li')
    run_once(bench.prober(probe))
    assert [row[1:3] for row in bench.rows()] == [(3, "lost"), (0, "verdict")]
    run_once(bench.prober(probe))
    assert len(bench.rows()) == 2


def test_a_second_daemon_on_one_state_runs_no_probe_and_tells_no_run_as_lost(
    bench: Bench, write_probe: WriteProbe
) -> None:
    probe = write_probe("exec sleep 600", **soon(timeout_s=600))
    with working(bench.prober(probe)):
        bench.wait_for_start()
        with pytest.raises(SiteError, match="another daemon runs probes with this state"):
            run_once(bench.prober(probe))
        assert bench.rows() == []
    assert "was stopped" in bench.rows()[0][5]


def test_a_reload_keeps_the_run_under_way_and_takes_what_is_new(bench: Bench, write_probe: WriteProbe) -> None:
    go_on = bench.base / "go"
    slow = write_probe(f"while [ ! -e {go_on} ]; do sleep 0.01; done; echo slow", name="slow", **soon())
    quick = write_probe("echo quick", name="quick", **soon())
    with working(bench.prober(slow)) as prober:
        bench.wait_for_start()
        for _ in range(5):
            prober.hand_over(bench.agenda(slow, quick))
        wait_for_rows(bench, lambda rows: len(rows) == 1)
        go_on.touch()
        wait_for_rows(bench, lambda rows: len(rows) == 2)
    assert [row[5] for row in bench.rows()] == ["quick", "slow"]


def open_impatiently(path: Path, journal: str, **options: bool) -> sqlite3.Connection:
    connection = open_database(path, journal, **options)
    connection.execute("PRAGMA busy_timeout = 0")
    return connection


def test_what_cannot_be_written_waits_and_is_told(
    bench: Bench, write_probe: WriteProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pps_agent.probes.desk.open_database", open_impatiently)
    go_on = bench.base / "go"
    body = f"while [ ! -e {go_on} ]; do sleep 0.01; done; echo fine"
    with working(bench.prober(write_probe(body, **soon()))):
        bench.wait_for_start()
        blocker = sqlite3.connect(bench.state / "state.db", isolation_level=None, timeout=30)
        blocker.execute("BEGIN IMMEDIATE")
        go_on.touch()
        while not any(event["event"] == "results.delayed" for event in bench.log):
            threading.Event().wait(0.01)
        blocker.execute("ROLLBACK")
        wait_for_rows(bench, lambda rows: len(rows) == 1)
    blocker.close()
    delayed = next(event for event in bench.log if event["event"] == "results.delayed")
    assert delayed["waiting"] == 1
    assert "locked" in delayed["error"]


def test_results_are_published_again_after_a_restart(bench: Bench, write_probe: WriteProbe) -> None:
    probe = write_probe("echo fine", **soon())
    run_once(bench.prober(probe))
    (bench.published / "results.jsonl").unlink()
    run_once(bench.prober(probe))
    assert [line["summary"] for line in bench.lines()] == ["fine"]
    assert len(bench.rows()) == 1


def test_old_and_new_lines_are_never_mixed_and_a_lost_directory_is_told_once(
    bench: Bench, write_probe: WriteProbe
) -> None:
    bench.published.write_text("in the way")
    run_once(bench.prober(write_probe("echo fine", **soon())))
    assert [event["event"] for event in bench.log] == ["results.unpublished"]
    assert len(bench.rows()) == 1


def test_many_at_once_are_all_run_in_few_transactions(bench: Bench, write_probe: WriteProbe) -> None:
    first = write_probe("echo fine", **soon())
    probes = [replace(first, name=ProbeName(f"org.test.n{number}")) for number in range(100)]
    database = open_database(bench.state / "state.db")
    before = database.execute("PRAGMA data_version").fetchone()[0]
    run_once(bench.prober(*probes))
    after = database.execute("PRAGMA data_version").fetchone()[0]
    database.close()
    assert len(bench.rows()) == len(bench.reports()) == 100
    assert after - before < 30


def test_probers_leave_no_descriptor_open(bench: Bench, write_probe: WriteProbe) -> None:
    probe = write_probe("echo fine", **soon())
    run_once(bench.prober(probe))
    before = len(list(Path("/proc/self/fd").iterdir()))
    run_once(bench.prober(probe))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
