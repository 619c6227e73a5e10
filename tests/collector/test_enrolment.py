"""Tokens and identities, on both databases."""

import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from sqlalchemy import select

from pps_collector.errors import CsrError, TokenError, TrustError
from pps_collector.identity.authority import AGENT_LIFE, Authority, issue_agent, open_authority
from pps_collector.identity.enrolment import KnownAgent, create_token, enrol, find_agent
from pps_collector.identity.peer import read_peer
from pps_collector.store.tables import enrol_token
from pps_wire.names import Site
from pps_wire.report import EnrolRequest
from tests.collector.running import make_csr

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def authority(tmp_path) -> Authority:
    return open_authority(tmp_path / "state", NOW)


def csr() -> str:
    return make_csr(ec.generate_private_key(ec.SECP256R1()))


def test_a_token_turns_into_an_agent_that_is_known_by_its_certificate(engine, authority):
    token = create_token(engine, Site("PIC"), HOUR, NOW)
    reply = enrol(engine, authority, EnrolRequest(token=token.text, csr=csr()), NOW)
    certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
    names = {one.oid: one.value for one in certificate.subject}
    assert names == {NameOID.COMMON_NAME: reply.agent, NameOID.ORGANIZATION_NAME: "PIC"}
    assert certificate.not_valid_after_utc == NOW + AGENT_LIFE
    assert find_agent(engine, read_peer(certificate)) == KnownAgent(reply.agent, "PIC")
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(reply.ca.encode()))


def test_the_token_itself_is_not_stored(engine):
    token = create_token(engine, Site("PIC"), HOUR, NOW)
    with engine.connect() as connection:
        row = connection.execute(select(enrol_token)).one()
    assert token.text not in str(row)
    assert (row.site, row.used_at, row.expires_at) == ("PIC", None, NOW + HOUR)


def test_a_token_works_once(engine, authority):
    request = EnrolRequest(token=create_token(engine, Site("PIC"), HOUR, NOW).text, csr=csr())
    enrol(engine, authority, request, NOW)
    with pytest.raises(TokenError, match="was used"):
        enrol(engine, authority, request, NOW)


def test_an_expired_token_is_refused(engine, authority):
    request = EnrolRequest(token=create_token(engine, Site("PIC"), HOUR, NOW).text, csr=csr())
    with pytest.raises(TokenError, match="expired"):
        enrol(engine, authority, request, NOW + HOUR)


def test_an_unknown_token_is_refused(engine, authority):
    with pytest.raises(TokenError, match="not known"):
        enrol(engine, authority, EnrolRequest(token="x" * 32, csr=csr()), NOW)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_a_request_that_cannot_be_read_does_not_spend_the_token(engine, authority, text):
    token = create_token(engine, Site("PIC"), HOUR, NOW)
    with pytest.raises(CsrError):
        enrol(engine, authority, EnrolRequest(token=token.text, csr=text), NOW)
    assert enrol(engine, authority, EnrolRequest(token=token.text, csr=csr()), NOW).site == "PIC"


def test_of_many_that_use_one_token_at_once_one_is_enrolled(engine, authority):
    request = EnrolRequest(token=create_token(engine, Site("PIC"), HOUR, NOW).text, csr=csr())
    outcomes: list[str] = []

    def try_it() -> None:
        try:
            outcomes.append(enrol(engine, authority, request, NOW).site)
        except TokenError:
            outcomes.append("refused")

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["PIC", *["refused"] * 5]


def test_weak_keys_are_refused_and_usual_ones_taken(authority):
    def request(key, digest=hashes.SHA256()) -> str:  # noqa: B008
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, digest)
        return made.public_bytes(serialization.Encoding.PEM).decode()

    for key, digest in [
        (ed25519.Ed25519PrivateKey.generate(), None),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    ]:
        assert issue_agent(authority, request(key, digest), "a" * 32, "PIC", NOW).public_key() == key.public_key()
    for key in (ec.generate_private_key(ec.SECP192R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(CsrError, match="too weak"):
            issue_agent(authority, request(key), "a" * 32, "PIC", NOW)


def test_the_authority_is_made_once_and_its_key_is_private(tmp_path):
    first = open_authority(tmp_path / "state", NOW)
    again = open_authority(tmp_path / "state", NOW + HOUR)
    assert first.pem == again.pem
    assert stat.S_IMODE((tmp_path / "state" / "ca.key").stat().st_mode) == 0o600
    assert sorted(one.name for one in (tmp_path / "state").iterdir()) == ["ca.crt", "ca.key"]


def test_two_collectors_that_start_at_once_agree_on_one_authority(tmp_path):
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(open_authority(tmp_path / "s", NOW).pem)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_a_key_that_does_not_belong_to_the_certificate_is_noticed(tmp_path):
    open_authority(tmp_path / "a", NOW)
    open_authority(tmp_path / "b", NOW)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(TrustError, match="do not belong together"):
        open_authority(tmp_path / "a", NOW)


def test_authorities_of_two_collectors_have_different_names(tmp_path):
    one, other = open_authority(tmp_path / "a", NOW), open_authority(tmp_path / "b", NOW)
    assert one.certificate.subject != other.certificate.subject
