"""The agent's state.db: only what cannot be observed again. SQLite, WAL, synchronous=FULL.

WAL keeps an index in memory that processes share, which no network file system carries to another host:
there the journal is SQLite's older one, deleted after each commit, and its locks are those of fcntl(2).
Source: https://www.sqlite.org/wal.html, section 1.
One connection per process; every change is one transaction. What SQLite says of a full disk, a
locked or a damaged file is the administrator's to mend and comes out as SiteError everywhere.
Tables: ``setting`` (paused, leaving, epoch), ``consent``, ``drain``, ``probe_result``, ``outbox``,
``lane``; since schema 2 ``acknowledgement``, ``offer``, ``served``, ``production``; since 3 ``request``, ``approval``.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

from pps_agent.disk import file_system_type, site_error
from pps_agent.errors import SiteError

MAX_PATH_BYTES: Final = 500
"""SQLite opens no longer one (512 bytes, the names of its journals included), whatever the system allows."""
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        0x6969,  # NFS
        0x517B,  # SMB
        0xFF534D42,  # CIFS
        0xFE534D42,  # SMB 2
        0x65735546,  # FUSE: sshfs, CVMFS, GlusterFS; a local one loses nothing but some speed
        0x0BD00BD0,  # Lustre
        0x47504653,  # GPFS
        0x19830326,  # BeeGFS
        0x00C36400,  # Ceph
        0x5346414F,  # AFS
        0x6B414653,  # kAFS
        0x73757245,  # Coda
        0x01021997,  # 9P
        0xAAD7AAEA,  # PanFS
        0x7461636F,  # OCFS2
        0x01161970,  # GFS2
    }
)
"""As statfs(2) names them. Source: linux/magic.h, and the clients of those that Linux does not carry."""
_FIRST: Final = """
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
_SECOND: Final = """
ALTER TABLE consent ADD COLUMN actor TEXT NOT NULL DEFAULT '';
CREATE TABLE acknowledgement (
    release TEXT NOT NULL, step TEXT NOT NULL, actor TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (release, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE offer (
    release TEXT PRIMARY KEY, manifest TEXT NOT NULL, first_seen TEXT NOT NULL, seen TEXT NOT NULL,
    waited_s REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE served (
    subcluster TEXT NOT NULL, vo TEXT NOT NULL, PRIMARY KEY (subcluster, vo)
) STRICT, WITHOUT ROWID;
CREATE TABLE production (
    component TEXT PRIMARY KEY, version TEXT NOT NULL, at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_THIRD: Final = """
ALTER TABLE probe_result ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE probe_result ADD COLUMN hard INTEGER NOT NULL DEFAULT 1;
ALTER TABLE probe_result ADD COLUMN cause TEXT NOT NULL DEFAULT 'verdict';
ALTER TABLE probe_result ADD COLUMN perfdata TEXT NOT NULL DEFAULT '';
ALTER TABLE probe_result ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE probe_result ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE probe_result ADD COLUMN parent TEXT NOT NULL DEFAULT '';
CREATE TABLE request (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, at TEXT NOT NULL, deadline TEXT NOT NULL, outcome TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE approval (
    probe TEXT PRIMARY KEY, digest TEXT NOT NULL, actor TEXT NOT NULL, at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_MIGRATIONS: Final = (_FIRST, _SECOND, _THIRD)
"""What leads from each schema to the next; what is here never changes, new ones come after."""
SCHEMA_VERSION: Final = len(_MIGRATIONS)


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


def choose_journal(wanted: str, file_system: int) -> str:
    """Give the journal for a file system's magic number; ``wanted`` other than ``auto`` is obeyed. Pure."""
    if wanted != "auto":
        return wanted
    return "delete" if file_system in NETWORK_FILE_SYSTEMS else "wal"


def open_database(path: Path, journal: str = "auto", *, one_thread: bool = True) -> sqlite3.Connection:
    """Open state.db, making it when absent. Autocommit mode: transactions are explicit (``with``).

    ``journal`` is ``paths.journal``; ``one_thread`` False is for who sees to it that threads take turns. Raises:
    SiteError when it cannot be opened, is damaged or was written by a newer agent.
    """
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise SiteError(f"{path}: {length} bytes are more than the {MAX_PATH_BYTES} SQLite takes; shorten paths.state")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise SiteError(f"{path.parent}: {exc.strerror}; check its owner and mode, or move paths.state") from exc
    try:
        journal = choose_journal(journal, file_system_type(path.parent))
    except OSError as exc:
        raise site_error(exc, path.parent) from exc
    with _explained(path):
        connection = sqlite3.connect(
            path, timeout=30, isolation_level=None, factory=_Connection, check_same_thread=one_thread
        )
    connection.path = path
    try:
        connection.execute(f"PRAGMA journal_mode = {journal}")
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
        for script in _MIGRATIONS[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        if version < SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
