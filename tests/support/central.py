"""The collector's side of requests, as a double: real TLS with client certificates, real signed envelopes.

``Central`` is what the contract suite of requests needs of a collector; a real one that fits it can be put in this
double's place.
"""

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import msgspec
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from pps_wire.report import Ack, RequestBody, parse_batch, parse_body, parse_record
from pps_wire.request import Inbox, Request
from tests.contract.samples import sign
from tests.support.site import SmallSite


class Central(Protocol):
    """A collector as far as requests go."""

    def admit(self, site: SmallSite) -> None:
        """Enrol this site and point its settings here."""

    def ask(self, request: Request) -> None:
        """Sign a request with the key that the repository lists, and offer it."""

    def put(self, envelope: bytes) -> None:
        """Offer these bytes as an envelope."""

    def answers(self) -> list[RequestBody]:
        """Give what became of requests, as reported, in the order of arrival."""


class DoubleCentral:
    """A server that answers ``GET /v1/requests`` and takes ``POST /v1/batches``. ``raw`` replaces the next answer."""

    def __init__(self, directory: Path, key: Ed25519PrivateKey) -> None:
        self._directory, self._key = directory, key
        self._envelopes: list[bytes] = []
        self._answers: list[RequestBody] = []
        self.asked: list[dict[str, list[str]]] = []
        self.raw: tuple[int, bytes] | None = None
        self._ca_key, self._ca = _make_ca()
        directory.mkdir()
        (directory / "ca.pem").write_bytes(_pem(self._ca))
        certificate, key_pem = self._issue("localhost", server=True)
        (directory / "server.pem").write_bytes(key_pem + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"

    def admit(self, site: SmallSite) -> None:
        home = site.state / "identity"
        home.mkdir(parents=True)
        certificate, key = self._issue("agent")
        for name, content in (("key.pem", key), ("certificate.pem", certificate), ("ca.pem", _pem(self._ca))):
            (home / name).write_bytes(content)
        (home / "agent.json").write_text(json.dumps({"agent": uuid4().hex, "site": site.sections["site"]["name"]}))
        site.configure(collector={"url": self.url, "ca": str(self._directory / "ca.pem"), "timeout_s": 5})

    def ask(self, request: Request) -> None:
        self.put(msgspec.json.encode(sign(msgspec.json.encode(request), self._key, _key_id(self._key))))

    def put(self, envelope: bytes) -> None:
        self._envelopes.append(envelope)

    def answers(self) -> list[RequestBody]:
        return list(self._answers)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        central = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                central.asked.append(query)
                seen = int(query.get("cursor", ["0"])[0] or 0)
                inbox = Inbox(
                    cursor=str(len(central._envelopes)), requests=list(map(msgspec.Raw, central._envelopes[seen:]))
                )
                status, body = central.raw or (200, msgspec.json.encode(inbox))
                self._answer(status, body)

            def do_POST(self) -> None:
                body = zstandard.decompress(self.rfile.read(int(self.headers["Content-Length"])), max_output_size=2**24)
                batch = parse_batch(body)
                bodies = [parse_body(parse_record(bytes(record))) for record in batch.records]
                central._answers += [body for body in bodies if isinstance(body, RequestBody)]
                self._answer(200, msgspec.json.encode(Ack(ack=batch.last_seq, server_time=datetime.now(UTC))))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _issue(self, name: str, *, server: bool = False) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self._ca.subject, key.public_key())
        if server:
            names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._ca_key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(certificate), private


@contextlib.contextmanager
def open_double(directory: Path, key: Ed25519PrivateKey) -> Iterator[DoubleCentral]:
    """Serve the double for as long as the context lasts."""
    central = DoubleCentral(directory, key)
    thread = threading.Thread(target=central.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield central
    finally:
        central.server.shutdown()
        thread.join()
        central.server.server_close()


def _key_id(key: Ed25519PrivateKey) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes_raw())
    return digest.finalize().hex()


def _make_ca() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    builder = _builder("test CA", subject, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
