"""``POST /v1/batches`` over real mutual TLS."""

import gzip
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import msgspec
import pytest
import requests
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pps_collector.identity.authority import issue_agent, open_authority
from pps_wire.report import MAX_BODY_BYTES, MAX_WIRE_BYTES, Ack, Lane, Refusal, Status
from tests.collector.running import Reporter, RunningCollector, make_csr, probe, problem_of, release, tag


@pytest.fixture
def site(collector: RunningCollector) -> Reporter:
    return collector.enrol()


def record_rows(site: Reporter) -> list[tuple]:
    columns = "seq, kind, site, at, body"
    return site.collector.rows(f"SELECT {columns} FROM record WHERE agent = '{site.agent}' ORDER BY lane, seq")


def raw_request(site: Reporter, head: str, body: bytes = b"") -> bytes:
    """Send these very bytes over mutual TLS and read until the answer's body is whole."""
    context = ssl.create_default_context(cafile=site.collector.ca)
    context.load_cert_chain(*site.cert)
    address = urlsplit(site.collector.agents)
    with (
        socket.create_connection((address.hostname, address.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as tls,
    ):
        tls.sendall(head.replace("\n", "\r\n").encode() + b"\r\n" + body)
        answer = b""
        while b'"detail"' not in answer and b"ack" not in answer:
            piece = tls.recv(65536)
            if not piece:
                break
            answer += piece
    return answer


def certificate_of(site: Reporter, ca_state, agent: str, name: str) -> tuple[str, str]:
    """Make a certificate of any authority for any names."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = issue_agent(open_authority(ca_state, now), make_csr(key), agent, name, now)
    home = site.collector.state / f"made-{certificate.serial_number}"
    home.mkdir()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (home / "key.pem").write_bytes(pem)
    (home / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return str(home / "certificate.pem"), str(home / "key.pem")


def test_a_batch_is_acknowledged_with_the_collectors_time(site):
    ack = site.report(probe(), release(), tag())
    assert (ack.ack, ack.quarantined) == (3, 0)
    assert abs(datetime.now(UTC) - ack.server_time) < timedelta(minutes=1)
    assert [(row[0], row[1], row[2]) for row in record_rows(site)] == [
        (1, "probe", site.site),
        (2, "release", site.site),
        (3, "tag", site.site),
    ]


def test_all_encodings_give_equal_rows(site):
    site.live.add([probe(summary="\N{SNOWMAN}"), release()])
    rows = []
    packers = {"identity": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}
    for encoding, pack in packers.items():
        queue = site.queue()
        queue.records = site.live.records
        answer = requests.post(
            f"{site.collector.agents}/v1/batches",
            data=pack(msgspec.json.encode(queue.batch(site.site))),
            headers={"Content-Encoding": encoding},
            cert=site.cert,
            verify=site.collector.ca,
            timeout=30,
        )
        assert msgspec.json.decode(answer.content, type=Ack).ack == 2
        rows.append(
            site.collector.rows(
                f"SELECT seq, kind, site, at, body FROM record WHERE epoch = '{queue.epoch}' ORDER BY 1"
            )
        )
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) == 2


def test_without_a_certificate_nothing_is_read(site):
    answer = requests.post(f"{site.collector.agents}/v1/batches", data=b"x" * 100, verify=site.collector.ca, timeout=30)
    assert (answer.status_code, problem_of(answer).code) == (401, Refusal.NOT_ENROLLED)
    assert "pps-agent enrol" in problem_of(answer).detail


def test_a_certificate_of_another_authority_is_refused(site, tmp_path):
    cert = certificate_of(site, tmp_path / "other", site.agent, site.site)
    site.live.add([probe()])
    with pytest.raises(requests.exceptions.ConnectionError):
        site.post(site.live.batch(site.site), cert=cert)
    assert record_rows(site) == []


def test_a_certificate_with_the_right_names_but_another_key_is_refused(site):
    cert = certificate_of(site, site.collector.state, site.agent, site.site)
    site.live.add([probe()])
    answer = site.post(site.live.batch(site.site), cert=cert)
    assert (answer.status_code, problem_of(answer).code) == (403, Refusal.WRONG_AGENT)
    assert record_rows(site) == []


def test_an_agent_cannot_report_as_another_agent_or_site(site):
    other = site.collector.enrol()
    site.live.add([probe()])
    other.live.add([probe()])
    for batch in (other.live.batch(other.site), site.live.batch(other.site), other.live.batch(site.site)):
        answer = site.post(batch)
        assert (answer.status_code, problem_of(answer).code) == (403, Refusal.WRONG_AGENT)
    assert record_rows(site) + record_rows(other) == []


def test_two_agents_of_one_site_report_side_by_side(site):
    second = site.collector.enrol(site.site)
    assert site.report(probe()).ack == second.report(probe()).ack == 1


def test_a_gap_is_told_with_the_number_expected(site):
    site.report(probe())
    ahead = site.queue(epoch=site.live.epoch)
    ahead.acked, ahead.digest = 5, site.live.digest
    ahead.add([probe()])
    answer = site.post(ahead.batch(site.site))
    assert answer.status_code == 409
    assert (problem_of(answer).code, problem_of(answer).expected) == (Refusal.GAP, 2)


def test_a_restored_outbox_is_noticed_and_a_new_epoch_goes_through(site):
    site.live.add([probe(summary="before the backup")])
    site.send()
    acked, digest = site.live.acked, site.live.digest
    site.report(probe(summary="after the backup"))
    site.live.acked, site.live.digest, site.live.records = acked, digest, []
    site.live.add([probe(summary="after the restore"), probe()])
    answer = site.post(site.live.batch(site.site))
    assert (answer.status_code, problem_of(answer).code) == (409, Refusal.EPOCH_CONFLICT)
    fresh = site.queue()
    fresh.add([probe(summary="after the restore")])
    assert site.send(fresh).ack == 1


def test_a_lane_that_starts_elsewhere_is_another_lane(site):
    queue = site.queue(Lane.BACKFILL)
    queue.digest = "0" * 64
    queue.add([probe()])
    assert problem_of(site.post(queue.batch(site.site))).code is Refusal.EPOCH_CONFLICT


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"", "identity", 422),
        (b"{}", "identity", 422),
        (b"\xff" * 100, "identity", 422),
        (b"[" * 100_000, "identity", 422),
        (b"not zstd", "gzip", 422),
        (b"{}", "br", 415),
    ],
)
def test_what_cannot_be_read_is_refused_as_such(site, body, encoding, status):
    answer = site.post(body, encoding)
    assert (answer.status_code, problem_of(answer).code) == (status, Refusal.UNREADABLE)


def test_a_cut_zstd_body_is_refused(site):
    site.live.add([probe(summary=str(number)) for number in range(200)])
    packed = zstandard.compress(msgspec.json.encode(site.live.batch(site.site)))
    head = f"POST /v1/batches HTTP/1.1\nHost: x\nContent-Encoding: zstd\nContent-Length: {len(packed) - 20}\n"
    assert b" 422 " in raw_request(site, head, packed[:-20]).split(b"\r\n")[0]


def test_too_many_records_are_refused(site):
    site.live.add([probe()] * 1001)
    assert site.post(site.live.batch(site.site, size=1001)).status_code == 422


def test_an_announced_oversize_is_refused_before_any_of_it_is_sent(site):
    head = f"POST /v1/batches HTTP/1.1\nHost: x\nContent-Length: {10 * 1024**3}\n"
    answer = raw_request(site, head)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"too-large"' in answer


def test_an_unannounced_oversize_is_refused_at_the_limit(site):
    def endless():
        for _ in range(MAX_WIRE_BYTES // 65536 + 3):
            yield b" " * 65536

    answer = requests.post(
        f"{site.collector.agents}/v1/batches", data=endless(), cert=site.cert, verify=site.collector.ca, timeout=30
    )
    assert (answer.status_code, problem_of(answer).code) == (413, Refusal.TOO_LARGE)


@pytest.mark.parametrize("pack", [zstandard.compress, gzip.compress])
def test_a_bomb_is_refused(site, pack):
    plain = b" " * (MAX_BODY_BYTES + 1)
    answer = requests.post(
        f"{site.collector.agents}/v1/batches",
        data=pack(plain),
        headers={"Content-Encoding": "zstd" if pack is zstandard.compress else "gzip"},
        cert=site.cert,
        verify=site.collector.ca,
        timeout=30,
    )
    assert (answer.status_code, problem_of(answer).code) == (413, Refusal.TOO_LARGE)


def test_numbers_that_no_database_holds_are_refused(site):
    site.live.acked = 2**63
    site.live.add([probe()])
    assert site.post(site.live.batch(site.site)).status_code == 422


def test_other_methods_are_told_so(site):
    answer = requests.get(f"{site.collector.agents}/v1/batches", cert=site.cert, verify=site.collector.ca, timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_one_connection_carries_many_batches_and_refusals(site):
    with requests.Session() as session:
        how = {"cert": site.cert, "verify": site.collector.ca, "timeout": 30}
        for _ in range(3):
            site.live.add([probe(Status.WARNING)])
            url, body = f"{site.collector.agents}/v1/batches", msgspec.json.encode(site.live.batch(site.site))
            assert session.post(url, data=b"{}", **how).status_code == 422
            answer = session.post(url, data=body, **how)
            site.live.acknowledge(msgspec.json.decode(answer.content, type=Ack).ack)
    assert [row[0] for row in record_rows(site)] == [1, 2, 3]


def test_the_pages_listener_takes_no_batches_and_enrols_nobody(collector):
    for path in ("/v1/batches", "/v1/enrol"):
        assert requests.post(f"{collector.pages}{path}", data=b"{}", timeout=30).status_code == 404


def test_enrolment_over_http_spends_the_token(collector):
    token = collector.token("PIC")
    key = ec.generate_private_key(ec.SECP256R1())
    answer = collector.post_enrol(token, make_csr(key))
    assert answer.status_code == 200
    certificate = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert certificate.public_key() == key.public_key()
    for again in (token, "x" * 40, collector.token("PIC", timedelta(seconds=-1))):
        refused = collector.post_enrol(again, make_csr(key))
        assert (refused.status_code, problem_of(refused).code) == (403, Refusal.NOT_ENROLLED)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"token":"x","csr":1}', b"[" * 50_000])
def test_an_enrolment_that_cannot_be_read_is_refused_as_such(collector, body):
    answer = requests.post(f"{collector.agents}/v1/enrol", data=body, verify=collector.ca, timeout=30)
    assert (answer.status_code, problem_of(answer).code) == (422, Refusal.UNREADABLE)


def test_an_oversized_enrolment_is_refused(collector):
    answer = requests.post(f"{collector.agents}/v1/enrol", data=b" " * 100_000, verify=collector.ca, timeout=30)
    assert answer.status_code == 413


def test_tls_is_modern_and_the_certificate_names_the_address(collector):
    context = ssl.create_default_context(cafile=collector.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    address = urlsplit(collector.agents)
    with (
        socket.create_connection((address.hostname, address.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as tls,
    ):
        assert tls.version() == "TLSv1.3"


def test_the_log_is_json_and_holds_no_token(collector):
    token = collector.token("PIC")
    collector.post_enrol(token, "nonsense")
    text = collector.log.read_text()
    assert token not in text
    assert "enrolment.refused" in {json.loads(line)["event"] for line in text.splitlines()}
