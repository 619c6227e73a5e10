"""The OpenAPI document: complete, well formed, and what the server gives."""

import json
from collections.abc import Iterator
from typing import Any

import requests

from pps_collector.app import make_agents_app, make_pages_app
from pps_collector.openapi import BATCHES, build_document
from pps_collector.services import Services

METHODS = {"get", "post"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_the_document_is_well_formed():
    document = json.loads(json.dumps(build_document()))
    assert document["openapi"].startswith("3.1.")
    assert set(document["info"]) >= {"title", "version"}
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(item) <= METHODS
        for operation in item.values():
            assert operation["summary"]
            assert all(answer["description"] for answer in operation["responses"].values())


def test_every_reference_resolves():
    document = build_document()
    found = set(references(document))
    schemas = document["components"]["schemas"]
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_the_raw_route_is_described_with_all_its_answers():
    post = build_document()["paths"][BATCHES]["post"]
    assert set(post["responses"]) == {"200", "401", "403", "409", "413", "415", "422", "429", "503"}
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Batch"}


def test_every_route_that_is_served_to_programs_is_described(engine, tmp_path):
    services = Services(engine, None, None, None, 1)  # type: ignore[arg-type]  # nothing is called
    served = {route.path for app in (make_agents_app(services), make_pages_app(services)) for route in app.routes}
    assert served - {"/", "/openapi.json", "/static", "/static/{file_path:path}"} == set(build_document()["paths"])


def test_both_listeners_give_the_document(collector):
    for url in (f"{collector.agents}/openapi.json", f"{collector.pages}/openapi.json"):
        assert requests.get(url, verify=collector.ca, timeout=30).json() == json.loads(json.dumps(build_document()))
