"""The agent's state.db: only what cannot be observed again. SQLite, WAL, synchronous=FULL.

One connection per process; every change is one transaction. What SQLite says of a full disk, a
locked or a damaged file is the administrator's to mend and comes out as SiteError everywhere.
Tables: ``setting`` (paused, leaving, epoch), ``consent``, ``drain``, ``probe_result``, ``outbox``,
``lane``.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

from pps_agent.errors import SiteError

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE consent (
    release TEXT PRIMARY KEY, decision TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE drain (release TEXT PRIMARY KEY, since TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE probe_result (
    id INTEGER PRIMARY KEY, release TEXT NOT NULL, probe TEXT NOT NULL, status INTEGER NOT NULL,
    summary TEXT NOT NULL, details TEXT NOT NULL, at TEXT NOT NULL, duration_s REAL NOT NULL,
    profile TEXT NOT NULL
) STRICT;
CREATE INDEX probe_result_newest ON probe_result (release, probe, id);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at TEXT NOT NULL, body BLOB NOT NULL,
    lane TEXT, seq INTEGER, record BLOB, UNIQUE (lane, seq)
) STRICT;
CREATE TABLE lane (
    name TEXT PRIMARY KEY, next_seq INTEGER NOT NULL, acked INTEGER NOT NULL, digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class _Connection(sqlite3.Connection):
    """A connection that raises SiteError where SQLite's own error would be no bug of ours."""

    path = Path()

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with _explained(self.path):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with _explained(self.path):
            return super().executemany(*arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        with _explained(self.path):
            return super().__exit__(kind, error, trace)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # bugs
    except sqlite3.DatabaseError as exc:
        advice = "move it away if it is damaged, else check its owner, free space and that it is a local file system"
        raise SiteError(f"{path}: {exc}; {advice}") from exc


def open_database(path: Path) -> sqlite3.Connection:
    """Open state.db, making it when absent. Autocommit mode: transactions are explicit (``with``).

    Raises: SiteError when it cannot be opened, is damaged or was written by a newer agent.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise SiteError(f"{path.parent}: {exc.strerror}; check its owner and mode, or move paths.state") from exc
    with _explained(path):
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, factory=_Connection)
    connection.path = path
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.row_factory = sqlite3.Row
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise SiteError(f"{path}: written by a newer agent (schema {version}); update this one")
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
