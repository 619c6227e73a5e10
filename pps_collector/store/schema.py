"""The schema's version: which migrations there are, which the database has, and running them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from pps_collector.store.database import check_server, writing

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_LOCK_ID: Final = 0x707073  # any number, the same in every collector


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The schema's version in the database (None: empty) and the one this program needs."""

    found: str | None
    wanted: str

    @property
    def is_current(self) -> bool:
        """Whether this program may use the database."""
        return self.found == self.wanted


def observe_schema(engine: Engine) -> SchemaState:
    """Look which schema the database has. Raises: StoreError when it does not answer."""
    check_server(engine)
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return SchemaState(found, wanted_revision())


def wanted_revision() -> str:
    """Give the newest migration that this program ships."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def migrate(engine: Engine) -> SchemaState:
    """Bring the database to this program's schema; what is there stays. Raises: StoreError, SiteError."""
    check_server(engine)
    config = _config()
    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            # Two collectors that start together must not both create the tables.
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return observe_schema(engine)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config
