"""``/healthz``: the process lives. ``/readyz``: it can do its work."""

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.response import Response
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from pps_collector import __version__
from pps_collector.errors import CollectorError
from pps_collector.services import Services
from pps_collector.store.schema import observe_schema


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """Says that the process answers, and which version it is."""

    status: str
    version: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, each ``ok`` or the reason why not."""

    ready: bool
    database: str
    schema: str
    writer: str


@get("/healthz", sync_to_thread=False, tags=["health"], summary="Whether the process lives")
def healthz() -> Alive:
    """Answer; nothing is looked at."""
    return Alive(status="ok", version=__version__)


@get("/readyz", sync_to_thread=True, tags=["health"], summary="Whether batches can be stored; 503 when not")
def readyz(services: NamedDependency[Services]) -> Response[Ready]:
    """Check the database, its schema and the writer."""
    ready = check(services)
    return Response(ready, status_code=HTTP_200_OK if ready.ready else HTTP_503_SERVICE_UNAVAILABLE)


def check(services: Services) -> Ready:
    """Look at everything that storing a batch needs."""
    database, schema = "ok", "ok"
    try:
        state = observe_schema(services.engine)
        if not state.is_current:
            schema = f"database has {state.found}, this program needs {state.wanted}; run pps-collector migrate"
    except CollectorError as exc:
        database, schema = str(exc), "not looked at"
    writer = "ok" if services.writer.is_alive else "ended; restart pps-collector"
    ready = {database, schema, writer} == {"ok"}
    return Ready(ready=ready, database=database, schema=schema, writer=writer)
