"""se.dav before https servers that do wrong, with each of its clients that can be had on this machine."""

import datetime
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_wire.report import Status
from tests.support.lab_ca import Credential, LabCa
from tests.support.origins import Asked, Origin, Reply, start_origin
from tests.support.plugins import SYSTEM_PATH, Said, probe_path, read_plugin, run_plugin
from tests.support.services import need


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    return LabCa(tmp_path_factory.mktemp("ca") / "lab")


def tls(host: Credential, ca: LabCa | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.certificate_path, host.key_path)
    if ca:
        context.load_verify_locations(capath=str(ca.certificates))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_ALLOW_PROXY_CERTS
    return context


class Store:
    """A small storage server that does all right, until a test says otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.wrong: dict[str, Reply] = {}
        self.lost = b""

    def __call__(self, asked: Asked) -> Reply:
        if asked.method in self.wrong:
            return self.wrong[asked.method]
        content = self.files.get(asked.path)
        match asked.method:
            case "EXPECT":
                return Reply(100)
            case "PUT":
                self.files[asked.path] = asked.body
                return Reply(201)
            case "PROPFIND":
                rows = "".join(f"<D:response><D:href>{path}</D:href></D:response>" for path in self.files)
                return Reply(207, f"<D:multistatus xmlns:D='DAV:'>{rows}</D:multistatus>".encode())
            case _ if content is None:
                return Reply(404)
            case "DELETE":
                del self.files[asked.path]
                return Reply(204)
        digest = {"Digest": f"adler32={zlib.adler32(content):08x}"} if "want-digest" in asked.headers else {}
        return Reply(200, content, digest)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture(scope="module")
def host(ca: LabCa) -> Credential:
    return ca.host()


@pytest.fixture
def origin(store: Store, host: Credential) -> Iterator[Origin]:
    with start_origin(store, tls(host)) as running:
        yield running


@pytest.fixture(params=["python", "curl"])
def client(request: pytest.FixtureRequest) -> str:
    need("" if request.param == "python" or shutil.which("curl", path=SYSTEM_PATH) else "apt-get install curl")
    return str(request.param)


def look(origin: Origin, ca: LabCa, client: str, **env: str | Path) -> Said:
    return run_plugin("se.dav", **environment(origin, ca, client, **env))


def environment(origin: Origin, ca: LabCa, client: str, **env: str | Path) -> dict[str, str | Path]:
    fixed = {"PPS_SE_DAV": f"{origin.address}/scratch", "PPS_SE_DAV_CLIENT": client, "X509_CERT_DIR": ca.certificates}
    return {**fixed, "PPS_SE_DAV_BYTES": "70000", **env}


def test_a_server_that_does_all_right_passes(origin: Origin, store: Store, ca: LabCa, client: str) -> None:
    said = look(origin, ca, client)
    assert (said.status, store.files) == (Status.OK, {}), said
    assert [a.method for a in origin.asked] == ["PUT", "HEAD", "HEAD", "GET", "DELETE", "PROPFIND"]


@pytest.mark.parametrize(
    ("method", "reply", "status", "words"),
    [
        ("PUT", Reply(507), Status.CRITICAL, "put: the storage is full: HTTP 507"),
        ("PUT", Reply(403, b"<b>no|t you</b>"), Status.WARNING, "put: client side: no credential"),
        ("PUT", Reply(401), Status.WARNING, "put: client side: no credential, or not one that is taken: HTTP 401"),
        ("PUT", Reply(503, b"later"), Status.CRITICAL, "put: the server failed: HTTP 503: later"),
        ("PUT", Reply(200), Status.CRITICAL, "stat: the server refused: HTTP 404"),
        ("HEAD", Reply(200, b"x" * 69999), Status.CRITICAL, "stat: 69999 bytes are stored of the 70000 that were put"),
        ("GET", Reply(200, b"y" * 70000), Status.CRITICAL, "get: 70000 bytes came back that are not the 70000"),
        ("GET", Reply(200, b"y" * 70001), Status.CRITICAL, "get: 70001 bytes came back that are not the 70000"),
        ("GET", Reply(500), Status.CRITICAL, "get: the server failed: HTTP 500"),
        ("DELETE", Reply(405), Status.CRITICAL, "remove: the server refused: HTTP 405"),
    ],
)
def test_a_step_that_fails_is_named_with_whose_fault_it_is(
    origin: Origin, store: Store, ca: LabCa, client: str, method: str, reply: Reply, status: Status, words: str
) -> None:
    store.wrong[method] = reply
    said = look(origin, ca, client)
    assert (said.status, said.text.startswith(words)) == (status, True), said
    assert (store.files == {}) == (method != "DELETE")


@pytest.mark.parametrize(
    ("digest", "words"),
    [
        ("adler32=deadbeef", "the server says adler32 deadbeef, it should be "),
        ("md5=AAAAAAAAAAAAAAAAAAAAAA==", "the server says md5 00000000000000000000000000000000, it should be "),
        ("md5=!", "no checksum in the answer: md5=!"),
        ("sha-256=abc", "no checksum in the answer: sha-256=abc"),
        ("", "no checksum in the answer: no Digest header"),
    ],
)
def test_a_wrong_checksum_is_critical(
    origin: Origin, store: Store, ca: LabCa, client: str, digest: str, words: str
) -> None:
    def answer(asked: Asked) -> Reply:
        reply = store(asked)
        return Reply(reply.status, reply.content, {"Digest": digest}) if "want-digest" in asked.headers else reply

    origin.answer = answer
    said = look(origin, ca, client)
    assert (said.status, said.text.startswith(f"checksum: {words}")) == (Status.CRITICAL, True), said


def test_an_answer_that_is_cut_short_is_critical(origin: Origin, store: Store, ca: LabCa, client: str) -> None:
    store.wrong["GET"] = Reply(200, b"short", length=70000)
    said = look(origin, ca, client)
    assert (said.status, said.text.startswith("get: ")) == (Status.CRITICAL, True), said


def test_a_redirected_put_sends_the_content_to_the_second_server_only(
    store: Store, ca: LabCa, host: Credential, client: str
) -> None:
    with start_origin(store, tls(host)) as disk:
        lead = lambda asked: Reply(307, b"", {"Location": f"{disk.address}{asked.path}"})  # noqa: E731
        with start_origin(lead, tls(host)) as door:
            said = look(door, ca, client)
    assert said.status is Status.OK, said
    assert [(a.method, a.body) for a in door.asked if a.method in ("EXPECT", "PUT")] == [("EXPECT", b"")]
    assert [len(a.body) for a in disk.asked if a.method == "PUT"] == [70000]


def test_a_token_goes_to_the_first_server_only_and_into_no_argument(
    store: Store, ca: LabCa, host: Credential, client: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("eyJ.secret.word\n")
    log = tmp_path / "arguments"
    (tmp_path / "curl").write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec /usr/bin/curl "$@"\n')
    (tmp_path / "curl").chmod(0o755)
    with start_origin(store, tls(host)) as disk:
        lead = lambda asked: Reply(307, b"", {"Location": disk.address.replace("localhost", "127.0.0.1") + asked.path})  # noqa: E731
        with start_origin(lead, tls(host)) as door:
            env = {"BEARER_TOKEN_FILE": tmp_path / "token", "PATH": f"{tmp_path}:{SYSTEM_PATH}"}
            said = look(door, ca, client, **env)
    assert said.status is Status.OK, said
    assert {a.headers.get("authorization") for a in door.asked if a.headers} <= {"Bearer eyJ.secret.word"}
    assert {a.headers.get("authorization") for a in disk.asked if a.headers} == {None}
    assert "secret" not in (log.read_text() if log.exists() else "") + said.text


def test_an_endless_redirection_and_one_to_plain_http_are_critical(origin: Origin, ca: LabCa, client: str) -> None:
    origin.answer = lambda asked: Reply(307, b"", {"Location": asked.path})
    assert look(origin, ca, client).status is Status.CRITICAL
    origin.answer = lambda asked: Reply(307, b"", {"Location": f"http://localhost:1{asked.path}"})
    said = look(origin, ca, client)
    assert (said.status, "Connection refused" in said.text) == (Status.CRITICAL, False), said


def test_a_server_for_another_host_or_with_an_expired_certificate_is_at_fault(
    store: Store, ca: LabCa, client: str
) -> None:
    expired = ca._issue("old-host", "localhost", ("localhost",), -datetime.timedelta(hours=1))
    for host, words in ((ca.host("other.example.org"), "another host|name|match"), (expired, "expired")):
        with start_origin(store, tls(host)) as origin:
            said = look(origin, ca, client)
        assert (said.status, any(word in said.text for word in words.split("|"))) == (Status.CRITICAL, True), said


def test_a_server_that_wants_a_certificate_gets_the_proxy(
    store: Store, ca: LabCa, host: Credential, client: str
) -> None:
    proxy = ca.proxy(ca.user("robot"))
    with start_origin(store, tls(host, ca)) as origin:
        said = look(origin, ca, client, X509_USER_PROXY=proxy)
        assert said.status is Status.OK, said
        assert look(origin, ca, client, X509_USER_PROXY="").status in (Status.WARNING, Status.CRITICAL)


def test_what_is_no_http_is_critical(ca: LabCa, client: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_greet, args=(listener,))
        thread.start()
        env = {"PPS_SE_DAV": f"https://localhost:{listener.getsockname()[1]}/x", "PPS_SE_DAV_CLIENT": client}
        said = run_plugin("se.dav", X509_CERT_DIR=ca.certificates, **env)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert said.status is Status.CRITICAL, said


def _greet(listener: socket.socket) -> None:
    while True:
        try:
            stream = listener.accept()[0]
        except OSError:
            return
        with stream:
            stream.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def test_a_stopped_probe_removes_its_file(origin: Origin, store: Store, ca: LabCa, client: str) -> None:
    hung, release = threading.Event(), threading.Event()

    def answer(asked: Asked) -> Reply:
        if asked.method == "GET":
            hung.set()
            release.wait(30)
        return store(asked)

    origin.answer = answer
    env = {"PATH": SYSTEM_PATH, **environment(origin, ca, client)}
    with subprocess.Popen(
        [probe_path("se.dav")], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as probe:
        assert hung.wait(30)
        os.killpg(probe.pid, signal.SIGTERM)  # as the runner does at the time limit
        said = read_plugin(probe.wait(20), probe.stdout.read() if probe.stdout else "")
        release.set()
    assert (said.status, said.text) == (Status.UNKNOWN, "get: stopped by SIGTERM before the end")
    assert store.files == {}


def test_without_a_release_s_own_client_nothing_is_tested(origin: Origin, ca: LabCa, tmp_path: Path) -> None:
    said = look(origin, ca, "", PPS_RELEASE_ROOT=tmp_path)
    assert (said.status, "carries neither davix nor curl" in said.text) == (Status.UNKNOWN, True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").symlink_to("/usr/bin/curl")
    said = look(origin, ca, "", PPS_RELEASE_ROOT=tmp_path, PATH=f"{tmp_path}/bin:{SYSTEM_PATH}")
    assert (said.status, said.text.endswith("with curl")) == (Status.OK, True), said
