"""Who is at the other end of a TLS connection, from the parsed certificate and never from a name's text."""

import hashlib
from asyncio import Transport
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uvicorn.protocols.http.h11_impl import H11Protocol

STATE_KEY: Final = "pps_peer"
"""Key under which a request's ASGI ``state`` holds its Peer; absent when no certificate was shown."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A certificate as it is remembered: digests of the DER of its issuer, subject and public key."""

    issuer_sha256: str
    subject_sha256: str
    spki_sha256: str
    expires_at: datetime


def read_peer(certificate: x509.Certificate) -> Peer:
    """Give what identifies a certificate's holder."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Peer(
        issuer_sha256=hashlib.sha256(certificate.issuer.public_bytes()).hexdigest(),
        subject_sha256=hashlib.sha256(certificate.subject.public_bytes()).hexdigest(),
        spki_sha256=hashlib.sha256(key).hexdigest(),
        expires_at=certificate.not_valid_after_utc,
    )


class PeerProtocol(H11Protocol):
    """Uvicorn's protocol, which also tells the application who connected.

    The TLS layer has verified the chain by the time this runs; without it uvicorn shows no certificate.
    """

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn itself does
        """Remember the verified certificate for every request of this connection."""
        super().connection_made(transport)
        tls: Any = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der:
            self.app_state = {**self.app_state, STATE_KEY: read_peer(x509.load_der_x509_certificate(der))}

    def shutdown(self) -> None:
        """Let go of an idle connection at once: TLS would wait for a goodbye that may never come."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()
        else:
            super().shutdown()
