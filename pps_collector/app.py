"""The two applications: the agents' API, which speaks TLS, and the pages, which stay on loopback."""

from functools import cache

import msgspec
import structlog
from litestar import Litestar, MediaType, Request, asgi, get
from litestar.config.compression import CompressionConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.status_codes import HTTP_503_SERVICE_UNAVAILABLE
from litestar.types import Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError

from pps_collector.errors import CollectorError
from pps_collector.health import healthz, readyz
from pps_collector.identity.route import enrol_agent
from pps_collector.ingest.route import BatchRoute
from pps_collector.openapi import BATCHES, build_document
from pps_collector.pages.views import HEADERS, give_matrix, show_matrix, static_files
from pps_collector.services import Services

log = structlog.get_logger()


def make_agents_app(services: Services) -> Litestar:
    """Give the application behind TLS: enrolment, batches, health."""
    route = BatchRoute(services.engine, services.writer, services.clock)

    @asgi(BATCHES, copy_scope=False)
    async def take_batch(scope: Scope, receive: Receive, send: Send) -> None:
        await route(scope, receive, send)

    return _make_app(services, [enrol_agent, take_batch, healthz, readyz, give_openapi])


def make_pages_app(services: Services) -> Litestar:
    """Give the application for browsers and monitoring: nothing on it changes anything."""
    return _make_app(services, [show_matrix, give_matrix, static_files, healthz, readyz, give_openapi])


@get("/openapi.json", sync_to_thread=True, include_in_schema=False)
def give_openapi() -> Response[bytes]:
    """Give the OpenAPI document."""
    return Response(_document(), media_type=MediaType.JSON)


@cache
def _document() -> bytes:
    return msgspec.json.encode(build_document())


def _make_app(services: Services, routes: list[object]) -> Litestar:
    return Litestar(
        route_handlers=routes,  # type: ignore[arg-type]  # the framework's union of handlers is private
        dependencies={"services": Provide(lambda: services, sync_to_thread=False, use_cache=True)},
        exception_handlers={SQLAlchemyError: _answer_store_away},
        after_exception=[_log_bug],
        response_headers=HEADERS,
        compression_config=CompressionConfig(backend="gzip", minimum_size=1024),
        openapi_config=None,
        logging_config=None,
    )


def _answer_store_away(_request: Request[object, object, State], exc: SQLAlchemyError) -> Response[str]:
    log.warning("store.failed", error=str(exc).splitlines()[0])
    text = "The database does not answer. Try again in a minute; /readyz says more."
    return Response(
        text, status_code=HTTP_503_SERVICE_UNAVAILABLE, media_type=MediaType.TEXT, headers={"Retry-After": "60"}
    )


def _log_bug(exc: Exception, scope: Scope) -> None:
    if not isinstance(exc, HTTPException | SQLAlchemyError | CollectorError):
        log.error("request.failed", path=scope["path"], exc_info=exc)
