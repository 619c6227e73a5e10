"""Migrations and the tables in code say the same, on both databases."""

import stat
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from pps_collector.errors import ConfigError, SiteError, StoreError
from pps_collector.store.database import open_database, writing
from pps_collector.store.schema import SchemaState, _config, migrate, observe_schema, wanted_revision
from pps_collector.store.tables import latest, metadata


def test_the_migrations_make_exactly_the_tables_the_program_uses(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_an_empty_database_is_not_current_until_it_is_migrated(database):
    engine = open_database(database)
    assert observe_schema(engine) == SchemaState(None, wanted_revision())
    assert migrate(engine).is_current
    assert observe_schema(engine).is_current
    engine.dispose()


def test_migrating_again_keeps_what_is_there(engine):
    with engine.connect() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM agent").all()
    assert migrate(engine).is_current
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM agent").all() == before


def test_states_of_a_database_without_host_groups_become_the_default_groups(database):
    engine = open_database(database)
    config = _config()
    row = "INSERT INTO latest (site, kind, subject, state, summary, body, at, received_at, agent) VALUES"
    moment = "'2026-06-01 00:00:00+00:00'" if engine.dialect.name == "postgresql" else "'2026-06-01 00:00:00.000000'"
    with writing(engine).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(f"{row} ('A', 'round', 'round', 'ok', '', '{{}}', {moment}, {moment}, 'x')")
    assert migrate(engine).is_current
    with writing(engine).begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO latest (site, kind, host_group, subject, state, summary, body, at, received_at, agent)"
            " SELECT site, kind, 'el9', subject, state, summary, body, at, received_at, agent FROM latest"
        )
    with engine.connect() as connection:
        assert connection.execute(select(latest.c.host_group).order_by("host_group")).scalars().all() == [
            "default",
            "el9",
        ]
    engine.dispose()


def test_sqlite_is_durable_and_private(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/new/c.db")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()
    assert stat.S_IMODE((tmp_path / "new" / "c.db").stat().st_mode) == 0o600


def test_a_database_that_does_not_answer_is_said_so_without_its_password():
    engine = open_database("postgresql+psycopg://u:secret@127.0.0.1:1/pps")
    with pytest.raises(StoreError, match="check that the database runs") as caught:
        observe_schema(engine)
    assert "secret" not in str(caught.value)
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "://"])
def test_a_database_that_cannot_keep_anything_is_refused(url):
    with pytest.raises(ConfigError, match="sqlite:///PATH"):
        open_database(url)


def test_a_directory_that_cannot_be_written_is_said_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError, match="--state"):
        open_database(f"sqlite:///{tmp_path}/file/c.db")
