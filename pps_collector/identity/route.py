"""``POST /v1/enrol``: a one-time token and a signing request for an identity."""

import structlog
from litestar import Request, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody
from litestar.response import Response
from litestar.status_codes import HTTP_200_OK, HTTP_403_FORBIDDEN, HTTP_422_UNPROCESSABLE_ENTITY

from pps_collector.errors import CsrError, TokenError
from pps_collector.identity.enrolment import enrol
from pps_collector.services import Services
from pps_wire.report import EnrolReply, EnrolRequest, Problem, Refusal

_MAX_BYTES = 64 * 1024

log = structlog.get_logger()


def _refuse(_request: Request[object, object, State], exc: Exception) -> Response[Problem]:
    is_token = isinstance(exc, TokenError)
    status = HTTP_403_FORBIDDEN if is_token else HTTP_422_UNPROCESSABLE_ENTITY
    code = Refusal.NOT_ENROLLED if is_token else Refusal.UNREADABLE
    detail = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
    if isinstance(exc, ClientException):
        status = exc.status_code if exc.status_code != 400 else status
        detail = f"{exc.detail}; send {{token, csr}} as JSON"
    log.warning("enrolment.refused", code=code.value, detail=detail)
    return Response(Problem(code=code, detail=detail[:1024]), status_code=status)


@post(
    "/v1/enrol",
    status_code=HTTP_200_OK,
    sync_to_thread=True,
    request_max_body_size=_MAX_BYTES,
    # Deeply nested JSON ends in RecursionError, which the framework does not count as unreadable.
    exception_handlers=dict.fromkeys((TokenError, CsrError, ClientException, RecursionError), _refuse),
    responses={
        403: ResponseSpec(Problem, description="The token is unknown, used or expired", generate_examples=False),
        422: ResponseSpec(Problem, description="The request cannot be read", generate_examples=False),
    },
    raises=[],
    tags=["agents"],
    summary="Turn a one-time token into an identity",
)
def enrol_agent(services: NamedDependency[Services], data: JSONBody[EnrolRequest]) -> EnrolReply:
    """Certify the agent's key for the token's site. The token is spent by it."""
    reply = enrol(services.engine, services.authority, data, services.clock())
    log.info("agent.enrolled", agent=reply.agent, site=reply.site)
    return reply
