"""A certification authority made by the openssl command, laid out as IGTF distributions and fetch-crl do."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DN: Final = "/DC=test/DC=pps/CN="
_CONFIGURATION: Final = """\
[req]
distinguished_name = dn
[dn]
[ca]
default_ca = it
[it]
database = {directory}/index.txt
crlnumber = {directory}/crlnumber
default_md = sha256
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[user]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in files of their own."""

    certificate: Path
    key: Path


class OpensslCa:
    """An authority whose own files lie in ``directory``; ``install`` copies its public ones where clients look."""

    def __init__(self, directory: Path, name: str = "Lab CA") -> None:
        self.directory, self.name, self.subject = directory, name, f"{DN}{name}"
        directory.mkdir(parents=True)
        (directory / "index.txt").touch()
        (directory / "crlnumber").write_text("01\n")
        self._configuration = directory / "openssl.cnf"
        self._configuration.write_text(_CONFIGURATION.format(directory=directory))
        self.pair = self._request("ca", self.subject, bits=2048)
        self._sign(self.pair, self.pair, "authority", days=10)
        self.hashes = tuple(self._ask(option) for option in ("-subject_hash", "-subject_hash_old"))
        self.fingerprint = self._ask("-fingerprint").partition("=")[2]

    def install(self, certificates: Path, *, version: str = "1.133", crl_url: str = "") -> None:
        """Lay out CA, signing policy, .info and, if there is an address, .crl_url, with links by both hashes."""
        certificates.mkdir(exist_ok=True)
        alias = self.name.replace(" ", "-")
        files = {
            "pem": self.pair.certificate.read_text(),
            "signing_policy": f"access_id_CA X509 '{self.subject}'\npos_rights globus CA:sign\n"
            "cond_subjects globus '\"/DC=test/DC=pps/*\"'\n",
            "info": f"alias = {alias}\nversion = {version}\nsha1fp.0 = {self.fingerprint}\n"
            + (f"crl_url = {crl_url}\n" if crl_url else ""),
            **({"crl_url": f"{crl_url}\n"} if crl_url else {}),
        }
        for end, text in files.items():
            (certificates / f"{alias}.{end}").write_text(text)
        for name in self.hashes:
            (certificates / f"{name}.0").symlink_to(f"{alias}.pem")
            (certificates / f"{name}.signing_policy").symlink_to(f"{alias}.signing_policy")

    def revocation_list(self, *, begin: str = "", end: str = "", form: str = "PEM") -> bytes:
        """Give a list in force from ``begin`` to ``end`` (YYYYMMDDHHMMSSZ); unless given from now for 30 days."""
        times = ["-crl_lastupdate", begin, "-crl_nextupdate", end] if end else ["-crldays", "30"]
        signer = ["-keyfile", self.pair.key, "-cert", self.pair.certificate]
        path = self.directory / "list"
        _openssl("ca", "-gencrl", "-config", self._configuration, *signer, *times, "-out", path)
        _openssl("crl", "-in", path, "-outform", form, "-out", path)
        return path.read_bytes()

    def user(self, name: str, *, days: int = 5, bits: int = 2048) -> Pair:
        """Give a user's certificate and key."""
        pair = self._request(name.replace(" ", "-"), f"{DN}{name}", bits=bits)
        self._sign(pair, self.pair, "user", days=days)
        return pair

    def _request(self, stem: str, subject: str, *, bits: int) -> Pair:
        pair = Pair(self.directory / f"{stem}.pem", self.directory / f"{stem}.key")
        key = ["-newkey", f"rsa:{bits}", "-nodes", "-keyout", pair.key]
        _openssl("req", "-config", self._configuration, *key, "-subj", subject, "-out", pair.certificate)
        pair.key.chmod(0o400)
        return pair

    def _sign(self, pair: Pair, signer: Pair, extensions: str, *, days: int) -> None:
        by = (
            ["-signkey", pair.key]
            if pair is signer
            else ["-CA", signer.certificate, "-CAkey", signer.key, "-CAcreateserial"]
        )
        how = ["-extfile", self._configuration, "-extensions", extensions, "-days", str(days)]
        _openssl("x509", "-req", "-in", pair.certificate, *by, *how, "-out", pair.certificate)

    def _ask(self, option: str) -> str:
        return _openssl("x509", "-in", self.pair.certificate, "-noout", option).strip()


def _openssl(*words: str | Path) -> str:
    done = subprocess.run(["/usr/bin/openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
