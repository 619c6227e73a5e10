"""The tables, the same on SQLite and PostgreSQL. Migrations in ``pps_collector/migrations`` make them.

A test compares both, so that neither can be changed alone.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from pps_wire.names import DEFAULT_GROUP


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps it as fixed-width text, which sorts as time does."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the database a UTC time, without its zone where the database knows none."""
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give the program an aware UTC time."""
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


metadata = MetaData()

enrol_token = Table(
    "enrol_token",
    metadata,
    Column("sha256", String(64), primary_key=True, comment="the token itself is never stored"),
    Column("site", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("agent", String(32)),
)

agent = Table(
    "agent",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("site", String(64), nullable=False, index=True),
    Column("issuer_sha256", String(64), nullable=False, comment="of the certificate issuer's DER"),
    Column("subject_sha256", String(64), nullable=False, comment="of the certificate subject's DER"),
    Column("spki_sha256", String(64), nullable=False, comment="of the public key's DER"),
    Column("enrolled_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, comment="last batch taken, by the collector's clock"),
    Index("agent_certificate", "issuer_sha256", "subject_sha256", unique=True),
)

watermark = Table(
    "watermark",
    metadata,
    Column("agent", String(32), ForeignKey("agent.id"), primary_key=True),
    Column("epoch", String(32), primary_key=True),
    Column("lane", String(16), primary_key=True),
    Column("seq", BigInteger, nullable=False, comment="everything up to it is stored"),
    Column("digest", String(64), nullable=False, comment="rolling digest up to it"),
    comment="kept for ever: it is what makes a record come once",
)

# Append-only and without a unique index: the watermark decides what is new, and a plain append is
# what a later COPY into day partitions (by received_at) needs.
record = Table(
    "record",
    metadata,
    Column("agent", String(32), nullable=False),
    Column("epoch", String(32), nullable=False),
    Column("lane", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("site", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    # Text, not a JSON type: kept as it travelled, and no database's idea of JSON (NUL escapes,
    # nesting depth, number range) can refuse what the contract allows.
    Column("body", Text, nullable=False),
)

latest = Table(
    "latest",
    metadata,
    Column("site", String(64), primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("host_group", String(64), primary_key=True, server_default=DEFAULT_GROUP),
    Column("subject", Text, primary_key=True),
    Column("state", String(32), nullable=False),
    Column("summary", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("agent", String(32), nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("agent", String(32), primary_key=True),
    Column("epoch", String(32), primary_key=True),
    Column("lane", String(16), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("site", String(64), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("code", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("raw", LargeBinary, nullable=False, comment="the record's bytes, at most 64 KiB of them"),
)
