"""A real PostgreSQL server in a directory of its own, on a unix socket only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

_USER = "postgres"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server; ``directory`` holds its socket."""

    directory: Path

    def new_database(self) -> str:
        """Create an empty database and give its URL."""
        name = f"pps_{uuid4().hex[:12]}"
        with psycopg.connect(host=str(self.directory), user=_USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://{_USER}@/{name}?host={self.directory}"


def find_postgres() -> Path | None:
    """Give the directory of PostgreSQL's server programs, or None when there is none."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: one.parent.name, reverse=True)
    candidates += [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    return next((one for one in candidates if (one / "initdb").exists() and (one / "postgres").exists()), None)


@contextmanager
def run_postgres(programs: Path) -> Iterator[PostgresServer]:
    """Run a server, as user postgres when we are root: it refuses to run as root."""
    # Not pytest's tmp_path: its parents are closed to other users, and socket paths must be short.
    directory = Path(tempfile.mkdtemp(prefix="pps-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(directory, _USER)
        prefix = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--"]
    data = directory / "data"
    log = directory / "log"
    initdb = [programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"]
    try:
        subprocess.run([*prefix, *map(str, initdb)], check=True, capture_output=True, cwd=directory)
        control = [*prefix, str(programs / "pg_ctl"), "-D", str(data), "-w", "-s"]
        options = f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off -c max_connections=50"
        start = [*control, "-l", str(log), "-o", options, "start"]
        subprocess.run(start, check=True, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            yield PostgresServer(directory)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=directory)
    finally:
        shutil.rmtree(directory)
