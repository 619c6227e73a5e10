"""state.db: made when absent, refused with advice when it cannot be used."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.database import SCHEMA_VERSION, open_database
from pps_agent.errors import SiteError
from pps_agent.history import KEPT_RESULTS, History
from pps_agent.policy import Consent, Decision
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Status

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RELEASE = ReleaseId("xroot-1.0-x86_64-glibc2.36")
PROBE = ProbeName("org.a.b")


def result(status: Status, at: datetime = NOW, release: ReleaseId | None = RELEASE) -> ProbeResult:
    return ProbeResult(PROBE, release, status, "said", "", at, 1.0)


def test_a_new_database_is_durable_and_only_the_owner_can_enter_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state" / "state.db"
    connection = open_database(path)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert path.parent.stat().st_mode & 0o777 == 0o700
    connection.close()


def test_what_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"rubbish " * 1000)
    with pytest.raises(SiteError, match=r"state.db: file is not a database; move it away if it is damaged"):
        open_database(path)
    assert path.read_bytes() == b"rubbish " * 1000


def test_a_database_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = open_database(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(SiteError, match=f"schema {SCHEMA_VERSION + 1}.; update this one"):
        open_database(path)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match="file/state: Not a directory; check its owner"):
        open_database(tmp_path / "file" / "state" / "state.db")


def test_damage_met_later_is_the_sites_fault_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = open_database(path)
    history = History(connection)
    for number in range(200):
        history.start_drain(ReleaseId(f"r{number}-" + "x" * 200), NOW)
    connection.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    connection = open_database(path)
    with pytest.raises(SiteError, match=r"state.db: .*malformed"):
        History(connection).drains()
    connection.close()


def test_a_full_disk_is_the_sites_fault_and_leaves_what_was_there(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "state.db")
    history = History(connection)
    history.set_paused(paused=True)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1000):
            history.start_drain(ReleaseId(f"r{number}-" + "x" * 200), NOW)

    with pytest.raises(SiteError, match="database or disk is full"):
        fill()
    assert history.resolve().paused
    connection.close()


def test_two_processes_opening_a_new_database_at_once_make_one(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            open_database(tmp_path / "state.db").close()
        except SiteError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with closing(open_database(tmp_path / "state.db")) as database:
        yield History(database)


def test_the_newest_decision_counts(history: History) -> None:
    history.decide(RELEASE, Consent(Decision.ACCEPT), NOW)
    history.decide(RELEASE, Consent(Decision.DECLINE, "no"), NOW)
    assert {RELEASE: Consent(Decision.DECLINE, "no")} == history.resolve().consents


def test_pausing_and_leaving_are_kept_and_taken_back(history: History) -> None:
    history.set_paused(paused=True)
    history.set_leaving(leaving=True)
    assert (history.resolve().paused, history.resolve().leaving) == (True, True)
    history.set_paused(paused=False)
    history.set_leaving(leaving=False)
    assert (history.resolve().paused, history.resolve().leaving) == (False, False)


def test_the_newest_verdict_counts_with_its_profile_and_time_and_production_is_left_out(history: History) -> None:
    history.add_result(result(Status.OK), "profile-a")
    history.add_result(result(Status.CRITICAL, NOW - timedelta(hours=1)), "profile-b")
    history.add_result(result(Status.OK, release=None), "profile-c")
    (seen,) = history.verdicts().values()
    assert (Status.CRITICAL, NOW - timedelta(hours=1), "profile-b") == (seen.status, seen.at, seen.profile)
    history.forget_results(RELEASE)
    assert history.verdicts() == {}


def test_only_so_many_results_are_kept_of_each_probe(history: History) -> None:
    for _ in range(KEPT_RESULTS + 3):
        history.add_result(result(Status.OK), "p")
    database: sqlite3.Connection = history._db
    assert database.execute("SELECT count(*) FROM probe_result").fetchone()[0] == KEPT_RESULTS


def test_an_earlier_note_of_a_drain_stays_until_it_ends(history: History) -> None:
    history.start_drain(RELEASE, NOW)
    history.start_drain(RELEASE, NOW + timedelta(days=1))
    assert history.drains() == {RELEASE: NOW}
    history.end_drain(RELEASE)
    assert history.drains() == {}
