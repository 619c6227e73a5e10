"""How a site gets its identity: a key made here, certified by the collector against a one-time token."""

import json

import msgspec
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pps_agent.errors import ConfigError, FetchError, SiteError
from pps_agent.files import save_bytes
from pps_agent.identity import Identity
from pps_agent.settings import Settings
from pps_wire.errors import WireError
from pps_wire.names import Site
from pps_wire.report import EnrolRequest, parse_enrol_reply


def enrol(settings: Settings, token: str) -> Identity:
    """Make a key, have the collector certify it against a one-time token, and keep both.

    Raises: ConfigError without a collector; FetchError when it does not answer or refuses the token.
    """
    collector = settings.collector
    if not collector.url:
        raise ConfigError(["collector.url is not set: name the collector to enrol with"])
    key = ec.generate_private_key(ec.SECP256R1())
    body = msgspec.json.encode(EnrolRequest(token=token, csr=_make_csr(key, settings.site.name)))
    try:
        answer = requests.post(
            f"{collector.url.rstrip('/')}/v1/enrol",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=collector.timeout_s,
            allow_redirects=False,  # the token is for this address alone
            verify=str(collector.ca) if collector.ca else True,
        )
    except requests.RequestException as exc:
        raise FetchError(f"{collector.url}: {exc}; check collector.url and collector.ca, then enrol again") from exc
    except OSError as exc:
        raise ConfigError([f"collector.ca: {exc}; name the PEM file of the collector's CA"]) from exc
    if answer.status_code in (408, 429) or answer.status_code >= requests.codes.internal_server_error:
        raise FetchError(f"{collector.url} is busy (HTTP {answer.status_code}); enrol again with the same token")
    if answer.status_code != requests.codes.ok:
        raise FetchError(
            f"{collector.url} refused the token (HTTP {answer.status_code}: {answer.text[:300]});"
            " ask the coordinator for a new one",
            permanent=True,
        )
    try:
        reply = parse_enrol_reply(answer.content)
    except WireError as exc:
        raise FetchError(f"{collector.url} gave no enrolment reply: {exc}; check that it is a collector") from exc
    return _save_identity(settings, key, reply.agent, reply.site, reply.certificate, reply.ca)


def _make_csr(key: ec.EllipticCurvePrivateKey, site: Site) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _save_identity(
    settings: Settings, key: ec.EllipticCurvePrivateKey, agent: str, site: Site, certificate: str, ca: str
) -> Identity:
    home = settings.paths.state / "identity"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "agent.json").unlink(missing_ok=True)  # half an old and half a new identity would be none
        save_bytes(home / "key.pem", pem, mode=0o600)
        save_bytes(home / "certificate.pem", certificate.encode(), mode=0o600)
        save_bytes(home / "ca.pem", ca.encode())
        save_bytes(home / "agent.json", json.dumps({"agent": agent, "site": site}).encode(), mode=0o600)
    except OSError as exc:
        raise SiteError(f"{home}: {exc}; make it writable by the agent and enrol again with a new token") from exc
    return Identity(agent, site, home / "key.pem", home / "certificate.pem", home / "ca.pem")
