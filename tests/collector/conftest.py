"""Fixtures: one real collector a worker, databases of both kinds, a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine

from pps_collector.store.database import open_database
from pps_collector.store.schema import migrate
from tests.collector.running import RunningCollector
from tests.collector.servers import PostgresServer, find_postgres, run_postgres
from tests.support.services import need

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing(what: str) -> NoReturn:
    """Fail under CI, skip with a name otherwise."""
    need(f"{what} is missing; install it")
    raise AssertionError(what)


@pytest.fixture(scope="session", autouse=True)
def shared_bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the interpreters that tests start share compiled modules: importing takes most of a start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    programs = find_postgres()
    if programs is None:
        missing("PostgreSQL (Debian package postgresql)")
    with run_postgres(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/collector.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A migrated database, of each kind in turn."""
    engine = open_database(database)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    """A running collector; tests share it, each with sites of its own."""
    running = RunningCollector(tmp_path_factory.mktemp("collector"))
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real chromium."""
    if not CHROMIUM.exists():
        missing("chromium (Debian package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
