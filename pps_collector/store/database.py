"""Connections to the database, set up so that both kinds behave alike."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pps_collector.errors import ConfigError, SiteError, StoreError

_WRITES = "pps_writes"
_BUSY_TIMEOUT_MS = 10_000
_LOCK_TIMEOUT_MS = 10_000
_MIN_POSTGRESQL = (15,)


def open_database(url: str) -> Engine:
    """Give an engine for ``sqlite:///PATH`` or ``postgresql+psycopg://…``; connects on first use.

    Transactions on it read; write through ``writing(engine)``. Raises: ConfigError for a URL that
    cannot be read, SiteError when SQLite's file cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            _make_private_file(parsed.database)
            engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
        else:
            timeouts = {"connect_timeout": 5, "options": f"-c lock_timeout={_LOCK_TIMEOUT_MS}"}
            engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, connect_args=timeouts)
    except (ArgumentError, ImportError) as exc:
        raise ConfigError([f"database: {exc}; write sqlite:///PATH or postgresql://HOST/NAME"]) from exc
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def writing(engine: Engine) -> Engine:
    """Give the same engine for transactions that write; SQLite then takes its one write lock at once."""
    return engine.execution_options(**{_WRITES: True})


def check_server(engine: Engine) -> None:
    """Connect once. Raises: StoreError when the database does not answer, SiteError when it is too old."""
    try:
        with engine.connect() as connection:
            version = connection.dialect.server_version_info or ()
    except SQLAlchemyError as exc:
        where = engine.url.render_as_string(hide_password=True)
        raise StoreError(f"{where}: {_first_line(exc)}; check that the database runs and lets us in") from exc
    if engine.dialect.name == "postgresql" and version < _MIN_POSTGRESQL:
        raise SiteError(f"PostgreSQL {version[0]} is too old; use 15 or newer")


def is_missing(url: str) -> bool:
    """Whether this is SQLite and the file is not there yet; looking must not create it."""
    parsed = make_url(url)
    return parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()


def insert_or_keep(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet."""
    if rows:
        connection.execute(insert_of(connection, table).on_conflict_do_nothing(), rows)


def insert_of(connection: Connection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Give this database's INSERT with ON CONFLICT; both speak the same clauses."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _make_private_file(path: str | None) -> None:
    # SQLite would create it with the umask's mode; what is inside is not for everybody.
    if not path or path == ":memory:":
        raise ConfigError(["database: SQLite needs a file; write sqlite:///PATH"])
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise SiteError(f"{path}: {exc.strerror}; make the directory writable, or name another with --state") from exc


def _prepare_sqlite(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # the driver must not begin transactions behind our back
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        raw.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: a read that turns into a write would fail as busy without waiting.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _first_line(exc: SQLAlchemyError) -> str:
    return str(exc).splitlines()[0]
