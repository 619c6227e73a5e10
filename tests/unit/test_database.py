"""state.db: made when absent, refused with advice when it cannot be used."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.database import MAX_PATH_BYTES, SCHEMA_VERSION, open_database
from pps_agent.errors import SiteError
from pps_agent.history import History
from pps_agent.policy import Consent, Decision
from pps_agent.results import KEPT_RESULTS
from pps_agent.state import ManifestRef, Offer, ProbeResult
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Cause, Status
from tests.support.worlds import make_release

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


def test_a_database_of_the_first_schema_is_brought_up_to_date_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes((Path(__file__).parent / "state-v1.db").read_bytes())  # written by the first release's code
    with closing(open_database(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        memory = History(connection).recall()
        assert memory.resolve.consents == {RELEASE: Consent(Decision.DECLINE, "too new", "", NOW)}
        assert memory.resolve.paused
        assert memory.drains == {RELEASE: NOW}
        assert memory.verdicts[RELEASE, PROBE].status is Status.OK
        assert (memory.offers, memory.served, memory.production) == ({}, frozenset(), {})
        assert connection.execute("SELECT count(*) FROM outbox").fetchone()[0] == 1
    with closing(open_database(path)) as fresh, closing(open_database(tmp_path / "new.db")) as new:
        schema = "SELECT name FROM sqlite_master ORDER BY name"
        assert [row[0] for row in fresh.execute(schema)] == [row[0] for row in new.execute(schema)]


def test_time_on_offer_is_kept_and_begins_anew_with_another_manifest_or_after_a_gap(history: History) -> None:
    def offer(digest: str) -> Offer:
        return Offer(make_release("xroot", "1.0"), ManifestRef("clients/x", 1, digest * 64))

    history.note_offers([offer("0")], NOW)
    history.note_offers([offer("0")], NOW + timedelta(hours=2))
    history.note_offers([offer("0")], NOW + timedelta(hours=1))  # a clock set back
    assert history.recall().waited_s(NOW + timedelta(hours=2)) == {RELEASE: 3 * 3600}
    assert history.offers()[RELEASE].first_seen_at == NOW
    history.note_offers([offer("1")], NOW + timedelta(hours=3))
    assert history.recall().waited_s(NOW + timedelta(hours=3)) == {RELEASE: 0}
    history.note_offers([], NOW + timedelta(hours=4))
    assert history.offers() == {}


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


def test_a_path_longer_than_sqlite_takes_is_named_as_such(tmp_path: Path) -> None:
    fits = tmp_path / "x" / "state.db"
    padding = MAX_PATH_BYTES - len(str(fits)) - 1
    directory = tmp_path / ("y" * (padding // 2)) / ("z" * (padding - padding // 2 + 1))
    open_database(directory / "state.db").close()
    with pytest.raises(SiteError, match=r"501 bytes are more than the 500 SQLite takes; shorten paths\.state"):
        open_database(directory.with_name(directory.name + "z") / "state.db")


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
    assert {RELEASE: Consent(Decision.DECLINE, "no", "", NOW)} == history.resolve().consents
    history.decide(RELEASE, Consent(Decision.ACCEPT, actor="alice (uid 1000)"), NOW + timedelta(hours=1))
    assert history.resolve().consents == {
        RELEASE: Consent(Decision.ACCEPT, "", "alice (uid 1000)", NOW + timedelta(hours=1))
    }


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


def test_a_sweep_keeps_the_newest_results_of_each_probe(history: History) -> None:
    for number in range(KEPT_RESULTS + 3):
        history.add_result(result(Status.OK, NOW + timedelta(seconds=number)), "p")
    history.add_result(result(Status.OK, release=None), "p")
    assert history.recorded.sweep() == 3
    database: sqlite3.Connection = history._db
    oldest, kept = database.execute("SELECT min(at), count(*) FROM probe_result WHERE release <> ''").fetchone()
    assert (oldest, kept) == ((NOW + timedelta(seconds=3)).isoformat(), KEPT_RESULTS)
    assert history.recorded.sweep() == 0


def test_a_slot_in_which_nothing_was_tested_hides_no_critical(history: History) -> None:
    history.add_result(result(Status.CRITICAL), "p")
    history.add_result(replace(result(Status.UNKNOWN, NOW + timedelta(hours=1)), cause=Cause.MISSED), "p")
    (seen,) = history.verdicts().values()
    assert (seen.status, seen.hard, seen.at) == (Status.CRITICAL, True, NOW + timedelta(hours=1))
    history.add_result(result(Status.OK, NOW + timedelta(hours=2)), "p")
    history.add_result(replace(result(Status.UNKNOWN, NOW + timedelta(hours=3)), cause=Cause.DEPENDENCY), "p")
    (seen,) = history.verdicts().values()
    assert seen.status is Status.UNKNOWN


def test_an_earlier_note_of_a_drain_stays_until_it_ends(history: History) -> None:
    history.start_drain(RELEASE, NOW)
    history.start_drain(RELEASE, NOW + timedelta(days=1))
    assert history.drains() == {RELEASE: NOW}
    history.end_drain(RELEASE)
    assert history.drains() == {}
