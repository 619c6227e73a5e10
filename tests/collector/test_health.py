"""Readiness when something is wrong."""

from datetime import UTC, datetime

from pps_collector.health import check
from pps_collector.ingest.writer import Writer
from pps_collector.services import Services
from pps_collector.store.database import open_database, writing


def now() -> datetime:
    return datetime.now(UTC)


def services_of(engine) -> Services:
    writer = Writer(engine, now, 1024**2)
    return Services(engine, None, writer, now, 60)  # type: ignore[arg-type]  # no certificates needed here


def test_an_older_schema_is_not_ready_and_says_what_to_run(engine):
    with writing(engine).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    ready = check(services_of(engine))
    assert not ready.ready
    assert ready.schema == "database has 0000, this program needs 0002; run pps-collector migrate"


def test_a_writer_that_ended_is_not_ready(engine):
    services = services_of(engine)
    assert (check(services).ready, check(services).writer) == (False, "ended; restart pps-collector")
    services.writer.start()
    assert check(services).ready
    services.writer.stop()
    assert not check(services).ready


def test_a_database_that_is_away_is_not_ready():
    engine = open_database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    ready = check(services_of(engine))
    assert not ready.ready
    assert "check that the database runs" in ready.database
    engine.dispose()
