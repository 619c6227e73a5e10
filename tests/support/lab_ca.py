"""A certification authority for tests: trust anchors as grid software wants them, certificates, proxies."""

import datetime
import ipaddress
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY: Final = datetime.timedelta(days=1)
_PROXY_CERT_INFO: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# ProxyCertInfo without a path length, policy "inherit all". Source: RFC 3820, clause 3.8.
_INHERIT_ALL: Final = bytes.fromhex("300c300a06082b06010505071501")
_SIGNING_POLICY: Final = """\
access_id_CA X509 '{subject}'
pos_rights globus CA:sign
cond_subjects globus '"/DC=test/DC=pps/*"'
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its key in files of their own; ``subject`` as a grid-mapfile writes it."""

    certificate_path: Path
    key_path: Path
    subject: str
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey


class LabCa:
    """An authority in ``directory``; ``certificates`` there is what X509_CERT_DIR should name."""

    def __init__(self, directory: Path, name: str = "Lab CA") -> None:
        self.directory = directory
        self.certificates = directory / "certificates"
        self.certificates.mkdir(parents=True)
        directory.chmod(0o755)
        self._key = _new_key()
        self._name = _name(name)
        self._certificate = self._self_signed()
        self._publish(name)

    def host(self, *names: str) -> Credential:
        """Give a host certificate for these names or addresses (none: localhost and 127.0.0.1)."""
        wanted = names or ("localhost", "127.0.0.1", "::1")
        return self._issue(f"host-{wanted[0]}", wanted[0], wanted, 90 * _DAY)

    def user(self, name: str, life: datetime.timedelta = _DAY) -> Credential:
        """Give a user certificate; a negative ``life`` makes one that has expired."""
        return self._issue(f"user-{name}", name, (), life)

    def proxy(self, user: Credential, life: datetime.timedelta = _DAY, name: str = "proxy") -> Path:
        """Give an RFC 3820 proxy of a user in one file, mode 0600; a negative ``life`` makes an expired one."""
        key = _new_key()
        serial = x509.random_serial_number()
        subject = x509.Name([*user.certificate.subject, x509.NameAttribute(NameOID.COMMON_NAME, str(serial))])
        builder = _builder(subject, user.certificate.subject, key, life).serial_number(serial)
        builder = builder.add_extension(x509.UnrecognizedExtension(_PROXY_CERT_INFO, _INHERIT_ALL), critical=True)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        path = self.directory / f"{name}.pem"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        parts = (_pem(builder.sign(user.key, hashes.SHA256())), _key_pem(key), _pem(user.certificate))
        path.write_bytes(b"".join(parts))
        return path

    def _self_signed(self) -> x509.Certificate:
        builder = _builder(self._name, self._name, self._key, 400 * _DAY).serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True).sign(
            self._key, hashes.SHA256()
        )

    def _publish(self, name: str) -> None:
        anchor = self.certificates / "lab-ca.pem"
        anchor.write_bytes(_pem(self._certificate))
        # OpenSSL and the old Globus libraries look for different hashes of the same name.
        for option in ("-subject_hash", "-subject_hash_old"):
            told = subprocess.run(
                ["openssl", "x509", "-in", anchor, "-noout", option], capture_output=True, text=True, check=True
            ).stdout.strip()
            (self.certificates / f"{told}.0").symlink_to(anchor.name)
            policy = _SIGNING_POLICY.format(subject=f"/DC=test/DC=pps/CN={name}")
            (self.certificates / f"{told}.signing_policy").write_text(policy)

    def _issue(self, file_name: str, name: str, names: Sequence[str], life: datetime.timedelta) -> Credential:
        key = _new_key()
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
        builder = _builder(_name(name), self._name, key, life).serial_number(x509.random_serial_number())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(digital_signature=True, key_encipherment=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(_alternative, names)]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = (self.directory / f"{file_name}.cert.pem", self.directory / f"{file_name}.key.pem")
        paths[0].write_bytes(_pem(certificate))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(_key_pem(key))
        return Credential(*paths, f"/DC=test/DC=pps/CN={name}", certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    begin = min(now, now + life) - _DAY
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.not_valid_before(begin).not_valid_after(now + life)


def _name(common_name: str) -> x509.Name:
    components = [x509.NameAttribute(NameOID.DOMAIN_COMPONENT, word) for word in ("test", "pps")]
    return x509.Name([*components, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(**set_bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: set_bits.get(name, False) for name in names})


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
