"""The collector's own small certificate authority: ``ca.key`` and ``ca.crt`` in the state directory.

It certifies agents and the collector's TLS listener, nothing else. It signs no releases.
"""

import ipaddress
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pps_collector.errors import CsrError, SiteError, TrustError

CA_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=730)
AGENT_LIFE: Final = timedelta(days=30)
_BACKDATE: Final = timedelta(minutes=5)
_MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Authority:
    """The key that certifies, its certificate, and where the latter lies."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: Path

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return _pem(self.certificate)


def open_authority(state: Path, now: datetime) -> Authority:
    """Load the authority from the state directory, making it the first time.

    Raises: SiteError when the directory cannot be used, TrustError when what is there is damaged.
    """
    key_path, path = state / "ca.key", state / "ca.crt"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _create(key_path, path, now)
        key_pem, pem = key_path.read_bytes(), path.read_bytes()
    except OSError as exc:
        raise SiteError(f"{exc.filename or state}: {exc.strerror}; make the state directory ours alone") from exc
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise TrustError(f"{state}/ca.*: {exc}; restore both files from the backup") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise TrustError(f"{state}: ca.key and ca.crt do not belong together; restore both files from the backup")
    return Authority(key, certificate, path)


def issue_server(authority: Authority, names: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
    """Give key and certificate (PEM) of the TLS listener for these host names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PPS collector")])
    builder = _leaf(authority, subject, now, SERVER_LIFE, ExtendedKeyUsageOID.SERVER_AUTH).public_key(key.public_key())
    alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
    certificate = builder.add_extension(alternative, critical=False).sign(authority.key, hashes.SHA256())
    return _private_pem(key), _pem(certificate).encode()


def issue_agent(authority: Authority, csr_pem: str, agent: str, site: str, now: datetime) -> x509.Certificate:
    """Certify the request's key as this agent of this site; the request's own names are ignored.

    Raises: CsrError when the request cannot be read, is not signed by its key, or its key is too weak.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        is_signed = csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise CsrError(f"the signing request cannot be read: {exc}; make a new one") from exc
    match key:
        case ec.EllipticCurvePublicKey() if key.key_size >= 256:
            pass
        case ed25519.Ed25519PublicKey():
            pass
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            pass
        case _:
            raise CsrError("the signing request's key is too weak or unknown; use ECDSA P-256 or Ed25519")
    if not is_signed:
        raise CsrError("the signing request is not signed by its own key; make a new one")
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, site), x509.NameAttribute(NameOID.COMMON_NAME, agent)]
    )
    builder = _leaf(authority, subject, now, AGENT_LIFE, ExtendedKeyUsageOID.CLIENT_AUTH)
    return builder.public_key(key).sign(authority.key, hashes.SHA256())


def _create(key_path: Path, path: Path, now: datetime) -> None:
    if not key_path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _save_once(key_path, _private_pem(key), 0o600)
    # Whoever was first decides: the certificate is made for the key that lies there now.
    loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TrustError(f"{key_path}: not an EC key; restore ca.key and ca.crt from the backup")
    # The number keeps the issuer names of two collectors apart, which identification relies on.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"PPS collector CA {serial:x}"[:40])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder(name, name, loaded.public_key(), serial)
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(loaded.public_key()), critical=False)
        .sign(loaded, hashes.SHA256())
    )
    _save_once(path, _pem(certificate).encode(), 0o644)


def _leaf(
    authority: Authority, subject: x509.Name, now: datetime, life: timedelta, usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    until = min(now + life, authority.certificate.not_valid_after_utc)
    issuer_key = authority.certificate.public_key()
    if not isinstance(issuer_key, ec.EllipticCurvePublicKey):
        raise TrustError(f"{authority.path}: not an EC certificate; restore it from the backup")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _save_once(path: Path, content: bytes, mode: int) -> None:
    # A link fails where a rename would replace: of two collectors that start together one wins.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
