"""The batch route without a network: what cannot be provoked from outside."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Engine
from structlog.testing import capture_logs

from pps_collector.identity.authority import AGENT_LIFE, open_authority
from pps_collector.identity.enrolment import create_token, enrol
from pps_collector.identity.peer import STATE_KEY, Peer, read_peer
from pps_collector.ingest.route import BatchRoute
from pps_collector.ingest.writer import Writer
from pps_wire.names import Site
from pps_wire.report import EnrolRequest, Lane, Problem, Refusal
from tests.collector.running import Queue, make_csr, probe

NOW = datetime.now(UTC)


@pytest.fixture
def enrolled(engine: Engine, tmp_path) -> tuple[Queue, Peer]:
    token = create_token(engine, Site("PIC"), timedelta(hours=1), NOW)
    request = EnrolRequest(token=token.text, csr=make_csr(ec.generate_private_key(ec.SECP256R1())))
    reply = enrol(engine, open_authority(tmp_path / "ca", NOW), request, NOW)
    queue = Queue(reply.agent, "e" * 32, Lane.LIVE)
    queue.add([probe()])
    return queue, read_peer(x509.load_pem_x509_certificate(reply.certificate.encode()))


def call(route: BatchRoute, peer: Peer, *pieces: dict[str, Any]) -> tuple[int, dict[bytes, bytes], bytes]:
    """Call the route; without ``pieces`` left the client says no more."""
    scope = {"type": "http", "method": "POST", "path": "/v1/batches", "headers": [], "state": {STATE_KEY: peer}}
    waiting, sent = list(pieces), []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    with capture_logs(), ThreadPoolExecutor(1) as pool:
        # In a thread of its own: where a browser test ran before, this one has a loop running.
        pool.submit(asyncio.run, route(scope, receive, send)).result(timeout=30)  # type: ignore[arg-type]  # plain dicts stand for the typed ones
    if not sent:
        return 0, {}, b""
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one["body"] for one in sent[1:])


def whole(queue: Queue) -> dict[str, Any]:
    return {"type": "http.request", "body": msgspec.json.encode(queue.batch("PIC")), "more_body": False}


def test_a_full_queue_says_when_to_come_back(engine, enrolled):
    queue, peer = enrolled
    writer = Writer(engine, lambda: NOW, 10)  # not started: what waits stays
    writer.submit(queue.batch("PIC"), 10)
    status, headers, body = call(BatchRoute(engine, writer, lambda: NOW), peer, whole(queue))
    assert status == 429
    assert 5 <= int(headers[b"retry-after"]) <= 15
    assert msgspec.json.decode(body, type=Problem).code is Refusal.BUSY


def test_a_store_in_trouble_is_503_and_says_when_to_come_back(engine, enrolled):
    queue, peer = enrolled
    writer = Writer(engine, lambda: NOW, 1024**2)
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE quarantine")
        connection.commit()
    writer.start()
    status, headers, body = call(BatchRoute(engine, writer, lambda: NOW), peer, whole(queue))
    writer.stop()
    assert (status, msgspec.json.decode(body, type=Problem).code) == (503, Refusal.BUSY)
    assert b"retry-after" in headers


def test_a_connection_does_not_outlive_its_certificate(engine, enrolled):
    queue, peer = enrolled
    route = BatchRoute(engine, Writer(engine, lambda: NOW, 10), lambda: NOW + AGENT_LIFE)
    status, _, body = call(route, peer, whole(queue))
    assert (status, msgspec.json.decode(body, type=Problem).code) == (401, Refusal.NOT_ENROLLED)


def test_a_client_that_goes_away_gets_no_answer(engine, enrolled):
    _, peer = enrolled
    route = BatchRoute(engine, Writer(engine, lambda: NOW, 10), lambda: NOW)
    piece = {"type": "http.request", "body": b"{", "more_body": True}
    assert call(route, peer, piece) == (0, {}, b"")
