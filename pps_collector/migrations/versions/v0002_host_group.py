"""Latest states by host group: two groups of one site say different things of the same release."""

import sqlalchemy as sa
from alembic import op

from pps_collector.store.tables import UtcDateTime

revision = "0002"
down_revision = "0001"

_COPY = """
INSERT INTO latest (site, kind, subject, state, summary, body, at, received_at, agent)
SELECT site, kind, subject, state, summary, body, at, received_at, agent FROM latest_before
"""


def upgrade() -> None:
    """Put the host group into the key; what is there is of the group that had no name."""
    if op.get_bind().dialect.name == "sqlite":
        _write_anew()
        return
    op.add_column("latest", sa.Column("host_group", sa.String(64), nullable=False, server_default="default"))
    op.drop_constraint("latest_pkey", "latest", type_="primary")
    op.create_primary_key("latest_pkey", "latest", ["site", "kind", "host_group", "subject"])


def _write_anew() -> None:
    """SQLite changes no key in place."""
    op.rename_table("latest", "latest_before")
    op.create_table(
        "latest",
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("host_group", sa.String(64), primary_key=True, server_default="default"),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.Column("agent", sa.String(32), nullable=False),
    )
    op.execute(_COPY)
    op.drop_table("latest_before")
