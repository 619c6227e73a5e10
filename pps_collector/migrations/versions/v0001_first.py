"""Enrolment, watermarks, records, latest states, quarantine."""

import sqlalchemy as sa
from alembic import op

from pps_collector.store.tables import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first schema."""
    _create_identity()
    _create_records()
    _create_latest()


def _create_identity() -> None:
    op.create_table(
        "enrol_token",
        sa.Column("sha256", sa.String(64), primary_key=True, comment="the token itself is never stored"),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.Column("used_at", UtcDateTime),
        sa.Column("agent", sa.String(32)),
    )
    op.create_table(
        "agent",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("issuer_sha256", sa.String(64), nullable=False, comment="of the certificate issuer's DER"),
        sa.Column("subject_sha256", sa.String(64), nullable=False, comment="of the certificate subject's DER"),
        sa.Column("spki_sha256", sa.String(64), nullable=False, comment="of the public key's DER"),
        sa.Column("enrolled_at", UtcDateTime, nullable=False),
        sa.Column("last_seen_at", UtcDateTime, comment="last batch taken, by the collector's clock"),
    )
    op.create_index("ix_agent_site", "agent", ["site"])
    op.create_index("agent_certificate", "agent", ["issuer_sha256", "subject_sha256"], unique=True)
    op.create_table(
        "watermark",
        sa.Column("agent", sa.String(32), sa.ForeignKey("agent.id"), primary_key=True),
        sa.Column("epoch", sa.String(32), primary_key=True),
        sa.Column("lane", sa.String(16), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, comment="everything up to it is stored"),
        sa.Column("digest", sa.String(64), nullable=False, comment="rolling digest up to it"),
        comment="kept for ever: it is what makes a record come once",
    )


def _create_records() -> None:
    op.create_table(
        "record",
        sa.Column("agent", sa.String(32), nullable=False),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("lane", sa.String(16), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("agent", sa.String(32), primary_key=True),
        sa.Column("epoch", sa.String(32), primary_key=True),
        sa.Column("lane", sa.String(16), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False, comment="the record's bytes, at most 64 KiB of them"),
    )


def _create_latest() -> None:
    op.create_table(
        "latest",
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("agent", sa.String(32), nullable=False),
    )
