"""Trust anchors, revocation lists, proxies and tokens: probes against real CAs, fetch-crl, VOMS and ARC clients."""

import base64
import functools
import http.server
import json
import os
import re
import runpy
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from pps_wire.report import Status
from tests.support.openssl_ca import DN, OpensslCa, Pair
from tests.support.probe_runs import Said, run_probe, shipped
from tests.support.services import need

DAY_S = 86_400
IGTF = Path("/etc/grid-security/certificates")
READERS = ("proxy.valid", "wn.cadist", "wn.crl")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> OpensslCa:
    """Give a certification authority."""
    return OpensslCa(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def certificates(tmp_path: Path, authority: OpensslCa) -> Path:
    """Give a directory of trust anchors with the authority in it."""
    authority.install(tmp_path / "certificates", crl_url="http://127.0.0.1/lab.crl")
    return tmp_path / "certificates"


@pytest.fixture(scope="module")
def user(authority: OpensslCa) -> Pair:
    """Give a robot's certificate."""
    return authority.user("Robot Probe")


def stamp(days: float) -> str:
    """Give a time so many days from now as openssl takes it."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")


# --- the reader of DER -----------------------------------------------------------------------------


@functools.cache
def reader(name: str) -> Mapping[str, Any]:
    """Load a probe's code without running it."""
    return runpy.run_path(str(shipped(name).run), run_name="probe")


def test_the_reader_of_der_is_the_same_in_every_probe() -> None:
    texts = [shipped(name).run.read_text() for name in READERS]
    parts = {re.findall(r"(?s)^# --- DER: .*^# --- end of DER", text, re.MULTILINE)[0] for text in texts}
    assert len(parts) == 1


@given(st.binary(max_size=64))
def test_any_bytes_are_der_or_refused(content: bytes) -> None:
    probe = reader("wn.cadist")
    try:
        node = probe["Der"].whole(content)
        assert node.raw == content
        for part in node.parts():
            assert part.raw in content
    except probe["DerError"]:
        pass


@given(st.data())
def test_a_spoilt_certificate_list_or_proxy_is_read_or_refused(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(sorted(samples().items())))[1]
    at = data.draw(st.integers(0, len(content[1]) - 1))
    spoilt = content[1][:at] + bytes([data.draw(st.integers(0, 255))]) + content[1][at + 1 :]
    probe = reader(content[0])
    try:
        probe[content[2]](spoilt)
    except probe["DerError"]:
        pass


@functools.cache
def samples() -> Mapping[str, tuple[str, bytes, str]]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=Lab CA,DC=pps,DC=test")
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    revoked = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    listed = revoked.next_update(now + timedelta(days=1)).sign(key, hashes.SHA256())
    return {
        "authority": ("wn.cadist", der, "Authority"),
        "certificate": ("proxy.valid", der, "Certificate"),
        "list": ("wn.crl", listed.public_bytes(serialization.Encoding.DER), "RevocationList"),
    }


@pytest.mark.parametrize(
    "wrong",
    ["", "30", "3080", "308100", "30820001", "3003020101ff", "1f0100", "3085000000000100", "300502"],
)
def test_what_is_not_the_shortest_definite_form_is_refused(wrong: str) -> None:
    probe = reader("proxy.valid")
    with pytest.raises(probe["DerError"]):
        probe["Der"].whole(bytes.fromhex(wrong)).parts()


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        (0x17, "490101000000Z", 2493072000),
        (0x17, "500101000000Z", -631152000),
        (0x18, "20491231235959Z", 2524607999),
        (0x17, "2601010000Z", None),
        (0x18, "20260229000000Z", None),
        (0x18, "20260101000000+0100", None),
        (0x17, "\uff12601010000Z", None),
    ],
)
def test_times_are_read_as_rfc_5280_says(tag: int, text: str, expected: int | None) -> None:
    probe = reader("wn.crl")
    content = text.encode()
    node = probe["Der"].whole(bytes([tag, len(content)]) + content)
    if expected is None:
        with pytest.raises(probe["DerError"]):
            probe["read_time"](node)
    else:
        assert probe["read_time"](node) == expected


@pytest.fixture(scope="module")
def igtf() -> Path:
    """Give the directory of the real IGTF distribution, from Debian's package."""
    need("" if list(IGTF.glob("policy-igtf-*.info")) else "apt-get install igtf-policy-classic")
    return IGTF


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # one of them breaks RFC 5280 in this
def test_the_reader_agrees_with_cryptography_on_every_igtf_ca(igtf: Path) -> None:
    probe = reader("wn.cadist")
    for path in sorted({path.resolve() for path in igtf.glob("*.0")}):
        (der,) = probe["read_pem"](path.read_bytes(), b"CERTIFICATE")
        ours, theirs = probe["Authority"](der), x509.load_der_x509_certificate(der)
        assert ours.expires_at == int(theirs.not_valid_after_utc.timestamp())
        assert ours.subject.raw == theirs.subject.public_bytes()
        assert ours.fingerprint == theirs.fingerprint(hashes.SHA1()).hex()


# --- wn.cadist -------------------------------------------------------------------------------------


def cadist(directory: Path, **more: str) -> Said:
    return run_probe("wn.cadist", {"X509_CERT_DIR": str(directory), **more})


def test_cadist_finds_nothing_broken_in_the_real_distribution(igtf: Path) -> None:
    said = cadist(igtf)
    unique = {path.resolve() for path in igtf.glob("????????.0")}
    assert [said.perfdata[name] for name in ("cas", "broken", "without_policy")] == [len(unique), 0, 0]
    assert said.status in (Status.OK, Status.WARNING)  # some of its CAs expire sooner or later
    expired = [line for line in said.lines if line.endswith("has expired")]
    assert said.status is (Status.WARNING if expired else Status.OK)


def test_cadist_passes_an_installed_authority(certificates: Path, authority: OpensslCa) -> None:
    said = cadist(certificates, PPS_WN_CADIST_VERSION="1.133")
    assert (said.status, said.text) == (Status.OK, f"1 CAs of version 1.133 in {certificates}")
    assert cadist(certificates).lines == said.lines


def test_cadist_wants_the_name_that_openssl_looks_for(certificates: Path, authority: OpensslCa) -> None:
    (certificates / f"{authority.hashes[0]}.0").unlink()
    said = cadist(certificates)
    assert said.status is Status.CRITICAL
    assert f"{authority.subject} is not found by clients: it is named {authority.hashes[1]}" in said.text


def test_cadist_notices_an_authority_that_was_exchanged(
    certificates: Path, authority: OpensslCa, tmp_path: Path
) -> None:
    other = OpensslCa(tmp_path / "other")  # of the same name
    (certificates / "Lab-CA.pem").write_bytes(other.pair.certificate.read_bytes())
    said = cadist(certificates)
    assert (said.status, "Lab-CA is announced by its .info but is not there" in said.text) == (Status.CRITICAL, True)


def test_cadist_notices_an_update_that_stopped_half_way(certificates: Path, tmp_path: Path) -> None:
    OpensslCa(tmp_path / "other", "Other CA").install(certificates, version="1.132")
    said = cadist(certificates)
    assert (said.status, "1 CAs are of version 1.132, others of 1.133" in said.text) == (Status.WARNING, True)


def test_cadist_compares_versions_as_numbers(certificates: Path) -> None:
    assert cadist(certificates, PPS_WN_CADIST_MIN_VERSION="1.99").status is Status.OK
    assert cadist(certificates, PPS_WN_CADIST_MIN_VERSION="1.134").status is Status.CRITICAL


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 3000, b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----"]
)
def test_cadist_names_a_file_that_is_no_certificate(certificates: Path, content: bytes) -> None:
    (certificates / "0123abcd.0").write_bytes(content)
    said = cadist(certificates)
    assert (said.status, said.text.startswith("0123abcd.0: ")) == (Status.CRITICAL, True), said.text


def test_cadist_names_a_link_that_leads_nowhere(certificates: Path, authority: OpensslCa) -> None:
    (certificates / "Lab-CA.pem").unlink()
    said = cadist(certificates)
    assert (said.status, "no such file or directory" in said.text) == (Status.CRITICAL, True)


# --- wn.crl ----------------------------------------------------------------------------------------


def crl(directory: Path, **more: str) -> Said:
    return run_probe("wn.crl", {"X509_CERT_DIR": str(directory), **more})


def put_list(directory: Path, authority: OpensslCa, content: bytes) -> None:
    for name in authority.hashes:
        (directory / f"{name}.r0").write_bytes(content)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Give a function that serves bytes on loopback and gives their address."""
    directory = tmp_path / "www"
    directory.mkdir()
    handler = functools.partial(QuietHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def put(content: bytes) -> str:
            (directory / "lab.crl").write_bytes(content)
            return f"http://127.0.0.1:{server.server_port}/lab.crl"

        yield put
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Log nothing."""


def fetch(directory: Path, state: Path) -> None:
    command = shutil.which("fetch-crl", path="/usr/sbin:/usr/bin")
    need("" if command else "fetch-crl is not installed: apt-get install fetch-crl")
    state.mkdir(exist_ok=True)
    (state / "empty.conf").touch()
    words = ["-c", state / "empty.conf", "-l", directory, "-s", state, "-o", directory, "-r", "0", "-T", "10", "-q"]
    subprocess.run([command or "", *words], check=False, capture_output=True, timeout=60)


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_crl_passes_what_the_real_fetch_crl_writes(
    tmp_path: Path, authority: OpensslCa, serve: Callable[[bytes], str], form: str
) -> None:
    directory = tmp_path / "certificates"
    authority.install(directory, crl_url=serve(authority.revocation_list(form=form)))
    assert crl(directory).status is Status.CRITICAL
    fetch(directory, tmp_path / "state")
    said = crl(directory)
    assert (said.status, said.text) == (Status.OK, f"1 lists of 1 CAs in {directory}, the next runs out in 29 days")
    assert [said.perfdata[name] for name in ("cas", "lists", "expired", "missing")] == [1, 1, 0, 0]


def test_crl_notices_that_the_authority_serves_an_old_list(
    tmp_path: Path, authority: OpensslCa, serve: Callable[[bytes], str]
) -> None:
    directory = tmp_path / "certificates"
    old = authority.revocation_list(begin=stamp(-9), end=stamp(-2))
    authority.install(directory, crl_url=serve(old))
    put_list(directory, authority, old)
    fetch(directory, tmp_path / "state")
    said = crl(directory)
    assert (said.status, f"of {authority.subject} ran out 2 days ago: run fetch-crl" in said.text) == (
        Status.CRITICAL,
        True,
    )


@pytest.mark.parametrize(
    ("begin", "end", "status", "words"),
    [
        (-1, 9, Status.OK, "the next runs out in 8 days"),
        (-1, 0.2, Status.WARNING, "runs out in 4 h"),
        (1.1, 9, Status.CRITICAL, "is in force only in 26 h: is the clock right?"),
    ],
)
def test_crl_looks_at_both_ends_of_a_list(
    certificates: Path, authority: OpensslCa, begin: float, end: float, status: Status, words: str
) -> None:
    put_list(certificates, authority, authority.revocation_list(begin=stamp(begin), end=stamp(end)))
    said = crl(certificates)
    assert (said.status, words in said.text) == (status, True), said.text


def test_crl_takes_no_list_of_another_authority(certificates: Path, authority: OpensslCa, tmp_path: Path) -> None:
    put_list(certificates, authority, OpensslCa(tmp_path / "other", "Other CA").revocation_list())
    said = crl(certificates)
    assert (said.status, f"is not a list of {authority.subject}" in said.text) == (Status.CRITICAL, True)


def test_crl_counts_the_newest_of_several_lists(certificates: Path, authority: OpensslCa) -> None:
    put_list(certificates, authority, authority.revocation_list(begin=stamp(-9), end=stamp(-2)))
    for name in authority.hashes:
        (certificates / f"{name}.r1").write_bytes(authority.revocation_list())
    assert crl(certificates).status is Status.OK


def test_crl_notices_that_fetch_crl_no_longer_runs(certificates: Path, authority: OpensslCa) -> None:
    put_list(certificates, authority, authority.revocation_list())
    for name in authority.hashes:
        os.utime(certificates / f"{name}.r0", (0, time.time() - 4 * DAY_S))
    said = crl(certificates)
    assert (said.status, "no list was renewed for 4 days" in said.text) == (Status.WARNING, True)


def test_crl_of_an_authority_that_announces_none_is_no_fault(tmp_path: Path, authority: OpensslCa) -> None:
    authority.install(tmp_path / "certificates")
    said = crl(tmp_path / "certificates")
    assert (said.status, said.lines) == (Status.OK, (f"{authority.subject} announces no list",))


# --- proxy.valid: X.509 ----------------------------------------------------------------------------


def proxy_of(path: Path | str, **more: str) -> Said:
    return run_probe("proxy.valid", {"X509_USER_PROXY": str(path), **more})


def client(name: str, package: str) -> str:
    command = shutil.which(name, path="/usr/bin")
    need("" if command else f"{name} is not installed: apt-get install {package}")
    return command or ""


@pytest.fixture(scope="module")
def voms(authority: OpensslCa, user: Pair, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a function that makes a proxy with voms-proxy-init."""
    directory = tmp_path_factory.mktemp("voms")
    authority.install(directory / "certificates")

    def make(*options: str, pair: Pair = user) -> Path:
        path = directory / f"{len(list(directory.iterdir()))}.pem"
        words = ["-cert", pair.certificate, "-key", pair.key, "-certdir", directory / "certificates", "-out", path]
        command = [client("voms-proxy-init", "voms-clients"), *words, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": str(directory)})
        assert path.exists(), done.stdout + done.stderr
        return path

    return make


@pytest.fixture(scope="module")
def fake(authority: OpensslCa, user: Pair, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a function that makes a proxy with VOMS attributes, as voms-proxy-fake signs them itself."""
    directory = tmp_path_factory.mktemp("fake")
    authority.install(directory / "certificates")

    def make(*fqans: str, vo: str = "dteam", life_h: int = 11) -> Path:
        path = directory / f"{len(list(directory.iterdir()))}.pem"
        words = ["-cert", user.certificate, "-key", user.key, "-hostcert", user.certificate, "-hostkey", user.key]
        words += ["-certdir", directory / "certificates", "-out", path, "-rfc"]
        words += ["-hours", "12", "-vomslife", str(life_h)]
        words += ["-voms", vo, "-uri", "voms.example.org:15000", *(word for fqan in fqans for word in ("-fqan", fqan))]
        command = [client("voms-proxy-fake", "voms-clients"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": str(directory)})
        assert path.exists(), done.stdout + done.stderr
        return path

    return make


def test_proxy_of_voms_proxy_init_passes_and_nothing_of_it_is_told(voms: Callable[..., Path]) -> None:
    path = voms("-valid", "12:00")
    said = proxy_of(path)
    assert (said.status, said.text, said.lines) == (
        Status.OK,
        "proxy lasts 11 h",
        (f"proxy of {DN}Robot Probe, 2 certificates",),
    )
    assert (said.perfdata["bits"], 43000 < (said.perfdata["proxy_left"] or 0) <= 43200) == (2048, True)
    secrets = [line for line in path.read_text().split("\n") if len(line) > 20 and "-" not in line]
    assert [line for line in secrets if line[:20] in said.output] == []


def arc_proxy(pair: Pair, certificates: Path, valid: str) -> Path:
    path = certificates.parent / "arc.pem"
    words = ["-C", pair.certificate, "-K", pair.key, "-P", path, "-T", certificates, "-c", f"validityPeriod={valid}"]
    command = [client("arcproxy", "nordugrid-arc-client"), *words]
    env = {"HOME": str(certificates.parent), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    return path


def test_proxy_of_arcproxy_passes(user: Pair, certificates: Path) -> None:
    said = proxy_of(arc_proxy(user, certificates, "8h"))
    assert (said.status, said.text) == (Status.OK, "proxy lasts 7 h")


def test_proxy_of_a_proxy_is_followed_to_its_holder(voms: Callable[..., Path], certificates: Path) -> None:
    first = voms("-rfc")
    said = proxy_of(arc_proxy(Pair(first, first), certificates, "8h"))
    assert (said.status, said.lines[0]) == (Status.OK, f"proxy of {DN}Robot Probe, 3 certificates")


def test_proxy_of_the_old_form_is_known_by_its_name(voms: Callable[..., Path]) -> None:
    said = proxy_of(voms("-old"))
    assert (said.status, said.lines[0]) == (Status.OK, f"proxy of {DN}Robot Probe, 2 certificates")


@pytest.mark.parametrize(
    ("valid", "status", "words"),
    [
        ("3:00", Status.WARNING, "proxy runs out in 2 h: is it still renewed?"),
        ("0:30", Status.CRITICAL, "proxy runs out in 29 min"),
    ],
)
def test_proxy_that_runs_out_soon_is_noticed(voms: Callable[..., Path], valid: str, status: Status, words: str) -> None:
    said = proxy_of(voms("-valid", valid))
    assert (said.status, words in said.text) == (status, True), said.text


def test_proxy_lasts_no_longer_than_the_certificate_below_it(authority: OpensslCa, voms: Callable[..., Path]) -> None:
    short = proxy_of(voms("-valid", "40:00", pair=authority.user("Short Life", days=1)))
    assert (short.status, short.text) == (Status.OK, "proxy lasts 23 h")


def test_proxy_with_a_weak_key_is_a_warning(voms: Callable[..., Path]) -> None:
    said = proxy_of(voms("-bits", "1024"))
    assert (said.status, said.text.endswith("has a key of 1024 bits, 2048 are needed")) == (Status.WARNING, True)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_proxy_that_others_can_read_is_refused(voms: Callable[..., Path], mode: int) -> None:
    path = voms()
    path.chmod(mode)
    said = proxy_of(path)
    assert (said.status, f"can be read by others (mode {mode:04o})" in said.text) == (Status.CRITICAL, True)


def spoil(path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    blocks = re.findall(r"(?s)-----BEGIN.*?-----END[^\n]*\n", path.read_text())
    path.write_text("".join(change(blocks)))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda blocks: [blocks[0], blocks[2]], "holds 0 private keys, not 1"),
        (lambda blocks: [blocks[2], blocks[1]], "its key is not its certificate's"),
        (lambda blocks: [*blocks, blocks[0]], "is not issued by the next in the file"),
        (lambda blocks: [blocks[1]], "holds no certificate"),
        (lambda blocks: [], "holds no certificate"),
        (lambda blocks: [blocks[0][:200] + "!" + blocks[0][200:], *blocks[1:]], "is not base64"),
        (lambda blocks: [blocks[0].replace("MII", "MIX", 1), *blocks[1:]], "a part "),
    ],
)
def test_proxy_that_is_not_whole_is_refused(
    voms: Callable[..., Path], change: Callable[[list[str]], list[str]], words: str
) -> None:
    said = proxy_of(spoil(voms(), change))
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said.text


@pytest.mark.parametrize("encrypted", [True, False])
def test_proxy_with_a_locked_key_is_refused_and_one_in_pkcs8_passes(voms: Callable[..., Path], encrypted: bool) -> None:
    path = voms()
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"secret") if encrypted else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, form, lock).decode()
    said = proxy_of(spoil(path, lambda blocks: [blocks[0], text, blocks[2]]))
    expected = (Status.CRITICAL, True) if encrypted else (Status.OK, False)
    assert (said.status, "locked by a passphrase" in said.text) == expected


def test_proxy_that_is_a_fifo_a_directory_or_gone_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "gone"):
        assert proxy_of(path).status is Status.CRITICAL


# --- proxy.valid: VOMS attributes ------------------------------------------------------------------


def test_voms_attributes_are_read_as_voms_proxy_info_reads_them(fake: Callable[..., Path]) -> None:
    fqans = ["/dteam/Role=NULL/Capability=NULL", "/dteam/probes/Role=pilot/Capability=NULL"]
    path = fake(*fqans)
    said = proxy_of(path, PPS_VO="dteam", PPS_PROXY_VALID_FQAN="/dteam/probes/Role=pilot")
    assert (said.status, said.text) == (Status.OK, f"proxy lasts 11 h, {fqans[0]}")
    assert [line for line in said.lines if line.startswith("FQAN")] == [f"FQAN {fqan}" for fqan in fqans]
    told = subprocess.run(
        [client("voms-proxy-info", "voms-clients"), "-file", path, "-fqan"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split("\n")[:2] == fqans
    assert 39000 < (said.perfdata["voms_left"] or 0) <= 39600


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"PPS_VO": "atlas"}, "proxy is of VO dteam, not atlas"),
        ({"PPS_PROXY_VALID_VO": "atlas", "PPS_VO": "dteam"}, "proxy is of VO dteam, not atlas"),
        ({"PPS_PROXY_VALID_FQAN": "/dteam/Role=lcgadmin"}, "proxy lacks the FQAN /dteam/Role=lcgadmin; it has /dteam"),
    ],
)
def test_voms_attributes_must_be_what_was_asked_for(
    fake: Callable[..., Path], more: dict[str, str], words: str
) -> None:
    said = proxy_of(fake("/dteam"), **more)
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said.text


def test_voms_attributes_end_before_the_proxy(fake: Callable[..., Path]) -> None:
    said = proxy_of(fake("/dteam", life_h=2))
    assert (said.status, said.text) == (
        Status.WARNING,
        "VOMS attribute certificate of dteam runs out in 119 min: is it still renewed?",
    )


def test_proxy_without_voms_attributes_is_refused_only_where_they_are_asked_for(voms: Callable[..., Path]) -> None:
    path = voms()
    assert proxy_of(path, PPS_VO="dteam").status is Status.OK
    said = proxy_of(path, PPS_PROXY_VALID_VO="dteam")
    assert (said.status, said.text) == (Status.CRITICAL, "proxy has no VOMS attributes, dteam is needed")


# --- proxy.valid: tokens ---------------------------------------------------------------------------


def token(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None, **changes: object) -> str:
    """Give a WLCG token, signed as issuers do (RS256 or ES256); changes to claims, spans of time from now."""
    now = int(time.time())
    claims = {
        "wlcg.ver": "1.0", "iss": "https://issuer.example.org/", "sub": "robot", "jti": "f00f",
        "aud": "https://se.example.org", "iat": now, "nbf": now, "exp": now + 3600, "scope": "storage.read:/",
    }  # fmt: skip
    for name, value in changes.items():
        claims[name] = now + value.total_seconds() if isinstance(value, timedelta) else value
    claims = {name: value for name, value in claims.items() if value is not None}
    key = key or _token_key()
    header = {"typ": "JWT", "kid": "1", "alg": "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"}
    body = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    return b".".join([body, _base64url(_sign(key, body))]).decode()


@functools.cache
def _token_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _sign(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, body: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(body, padding.PKCS1v15(), hashes.SHA256())
    numbers = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA256())))
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def token_said(tmp_path: Path, text: str, **more: str) -> Said:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")
    return run_probe("proxy.valid", {"BEARER_TOKEN_FILE": str(path), **more})


def test_token_passes_and_nothing_of_it_is_told(tmp_path: Path) -> None:
    for key in (_token_key(), ec.generate_private_key(ec.SECP256R1())):
        text = token(key)
        said = token_said(tmp_path, text, PPS_PROXY_VALID_AUD="https://se.example.org")
        assert (said.status, said.text) == (Status.OK, "token lasts 59 min")
        assert said.lines == ("token of https://issuer.example.org/, profile 1.0",)
        assert (said.perfdata["token_lifetime"], 3500 < (said.perfdata["token_left"] or 0) <= 3600) == (3600, True)
        assert [part for part in text.split(".") if part in said.output] == []
        assert ("robot" in said.output, "f00f" in said.output) == (False, False)


@pytest.mark.parametrize(
    ("changes", "more", "status", "words"),
    [
        ({"exp": timedelta(seconds=800)}, {}, Status.WARNING, "token runs out in"),
        ({"exp": timedelta(seconds=200)}, {}, Status.CRITICAL, "token runs out in"),
        ({"exp": -timedelta(seconds=9000)}, {}, Status.CRITICAL, "token ran out 2 h ago: renew it"),
        ({"exp": None}, {}, Status.CRITICAL, "token has no usable claim exp"),
        ({"exp": "soon"}, {}, Status.CRITICAL, "token has no usable claim exp"),
        ({"exp": True}, {}, Status.CRITICAL, "token has no usable claim exp"),
        ({"nbf": timedelta(seconds=9000)}, {}, Status.CRITICAL, "token is valid only in 2 h: is the clock right?"),
        ({"iat": timedelta(seconds=9000)}, {}, Status.CRITICAL, "token is valid only in 2 h"),
        ({"iat": None, "nbf": None}, {}, Status.OK, "token lasts"),
        ({}, {"PPS_PROXY_VALID_AUD": "https://other"}, Status.CRITICAL, "lacks the audience https://other; it has"),
        ({"aud": "https://wlcg.cern.ch/jwt/v1/any"}, {"PPS_PROXY_VALID_AUD": "x"}, Status.OK, "token lasts"),
        ({"aud": ["a", "b"]}, {"PPS_PROXY_VALID_AUD": "b a"}, Status.OK, "token lasts"),
        ({"aud": None}, {"PPS_PROXY_VALID_AUD": "b"}, Status.CRITICAL, "lacks the audience b; it has none"),
        ({"aud": 7}, {"PPS_PROXY_VALID_AUD": "b"}, Status.CRITICAL, "lacks the audience b"),
        ({}, {"PPS_PROXY_VALID_ISSUER": "https://other"}, Status.CRITICAL, "lacks the issuer https://other"),
        ({}, {"PPS_PROXY_VALID_SCOPE": "storage.modify:/"}, Status.CRITICAL, "lacks the scope storage.modify:/"),
    ],
)
def test_token_is_judged_by_its_claims(
    tmp_path: Path, changes: dict[str, object], more: dict[str, str], status: Status, words: str
) -> None:
    said = token_said(tmp_path, token(**changes), **more)
    assert (said.status, words in said.text) == (status, True), said.text


@pytest.mark.parametrize(
    "text",
    ["", "hunter2", "a.b.c", "hunter2.hunter2", "e30.W10.c2ln", "bnVsbA.e30.x", "e30.e3.x", "ey" * 40000 + ".e30.x"],
)
def test_what_is_no_token_is_refused_and_never_quoted(tmp_path: Path, text: str) -> None:
    said = token_said(tmp_path, text)
    assert (said.status, "hunter2" in said.output) == (Status.CRITICAL, False)
    assert said.text.startswith("token ")


def test_both_credentials_are_looked_at(voms: Callable[..., Path]) -> None:
    said = proxy_of(voms(), BEARER_TOKEN=token(exp=-timedelta(seconds=9000)))
    assert (said.status, said.text) == (Status.CRITICAL, "token ran out 2 h ago: renew it")
    assert {"proxy_left", "token_left"} <= said.perfdata.keys()
