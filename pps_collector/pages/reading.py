"""Reads what the page shows: the small table of latest states, never the records themselves."""

from datetime import datetime

from sqlalchemy import Engine, func, select

from pps_collector.pages.matrix import LatestRow, Matrix, SiteRow, build_matrix
from pps_collector.store.tables import agent, latest
from pps_wire.report import BODIES


def read_matrix(engine: Engine, now: datetime, silent_after_s: int) -> Matrix:
    """Give the matrix as the database has it. Raises: SQLAlchemyError."""
    states = (
        select(latest.c.site, latest.c.kind, latest.c.body, latest.c.at, latest.c.host_group, agent.c.last_seen_at)
        .outerjoin(agent, agent.c.id == latest.c.agent)
        .where(latest.c.kind.in_(BODIES))
    )
    sites = select(agent.c.site, func.count(), func.max(agent.c.last_seen_at)).group_by(agent.c.site)
    with engine.connect() as connection:
        rows = [LatestRow(*row) for row in connection.execute(states)]
        known = [SiteRow(*row) for row in connection.execute(sites)]
    return build_matrix(rows, known, now, silent_after_s)
