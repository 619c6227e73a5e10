"""The OpenAPI document of both listeners: generated, never written by hand."""

from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from pps_collector import __version__
from pps_collector.health import healthz, readyz
from pps_collector.identity.route import enrol_agent
from pps_collector.pages.views import give_matrix
from pps_wire.report import MAX_BODY_BYTES, MAX_RECORDS, MAX_WIRE_BYTES, Ack, Batch, Problem, Record

BATCHES: Final = "/v1/batches"
_REFUSALS: Final = {
    "401": "No client certificate, or it expired",
    "403": "The certificate is of another agent or site",
    "409": "Numbering went apart: ``gap`` or ``epoch-conflict``; ``expected`` says what is wanted next",
    "413": "Too large on the wire or after decompression",
    "415": "Unknown content encoding",
    "422": "The envelope cannot be read",
    "429": "The queue is full; come back after ``Retry-After`` seconds",
    "503": "The database does not take records; come back after ``Retry-After`` seconds",
}


def build_document() -> dict[str, Any]:
    """Give the document as JSON-like objects; the same bytes for the same program."""
    app = Litestar(
        route_handlers=[enrol_agent, healthz, readyz, give_matrix],
        openapi_config=OpenAPIConfig(title="PPS collector", version=__version__, use_handler_docstrings=True),
        dependencies={"services": Provide(_no_services, sync_to_thread=False)},
        logging_config=None,
    )
    document: dict[str, Any] = app.openapi_schema.to_schema()
    # The framework knows nothing of the raw ASGI route.
    _, components = msgspec.json.schema_components(
        [Batch, Record, Ack, Problem], ref_template="#/components/schemas/{name}"
    )
    components["Batch"]["properties"]["records"]["items"] = _ref("Record")
    # The framework documents its own answer to unreadable bodies; ours is 422 (identity/route.py).
    document["paths"]["/v1/enrol"]["post"]["responses"].pop("400", None)
    document["components"].setdefault("schemas", {}).update(components)
    document["paths"][BATCHES] = {"post": _describe_batches()}
    document["paths"] = dict(sorted(document["paths"].items()))
    return document


def _describe_batches() -> dict[str, Any]:
    answers = {"200": _answer("Everything up to ``ack`` is stored for good", "Ack")}
    answers |= {status: _answer(text, "Problem") for status, text in _REFUSALS.items()}
    encoding = {"type": "string", "enum": ["identity", "gzip", "zstd"], "default": "identity"}
    return {
        "tags": ["agents"],
        "summary": "Report a batch of records",
        "description": (
            f"At most {MAX_RECORDS} records, {MAX_WIRE_BYTES} bytes on the wire, {MAX_BODY_BYTES} bytes inflated."
            " Needs the client certificate from enrolment. Items of ``records`` are Record objects; one that"
            " cannot be read is kept apart and counted, it refuses nothing."
        ),
        "operationId": "ReportBatch",
        "parameters": [{"name": "Content-Encoding", "in": "header", "required": False, "schema": encoding}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Batch")}}},
        "responses": answers,
    }


def _answer(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _no_services() -> None:
    """Stands where the running program's services would be; no request is ever handled here."""
