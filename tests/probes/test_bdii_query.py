"""bdii.query against a real slapd filled by a real bdii-update, and against servers that do not speak LDAP well."""

import contextlib
import io
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo.bdii import missing_packages, start_bdii
from pps_wire.report import Status
from tests.support.plugins import Said, load_probe, oldest_python, run_plugin
from tests.support.servers import free_port, listens, running
from tests.support.services import need

SITE = "TEST-SITE"
SCHEMAS = ("core", "cosine", "nis", "Glue-CORE", "Glue-MDS", "Glue-CE", "Glue-CESEBind", "Glue-SE", "GLUE20")
TREE = """\
dn: o=grid
objectClass: organization
o: grid

dn: GlueSiteUniqueID={site},o=grid
objectClass: GlueTop
objectClass: GlueSite
objectClass: GlueSchemaVersion
GlueSiteUniqueID: {site}
GlueSchemaVersionMajor: 1
GlueSchemaVersionMinor: 3
"""
TREE2 = """\
dn: o=glue
objectClass: organization
o: glue

dn: GLUE2GroupID=resource,o=glue
objectClass: GLUE2Group
GLUE2GroupID: resource

dn: GLUE2DomainID={site},GLUE2GroupID=resource,o=glue
objectClass: GLUE2Domain
objectClass: GLUE2AdminDomain
GLUE2DomainID: {site}
GLUE2EntityCreationTime: {created}
GLUE2EntityValidity: 3600

dn: GLUE2ServiceID=ce,GLUE2DomainID={site},GLUE2GroupID=resource,o=glue
objectClass: GLUE2Service
GLUE2ServiceID: ce
GLUE2ServiceType: org.nordugrid.arex
GLUE2ServiceQualityLevel: production
GLUE2ServiceAdminDomainForeignKey: {site}
GLUE2EntityCreationTime: {older}
"""


@pytest.fixture(scope="module")
def bdii(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of an information system that bdii-update fills with GLUE 1."""
    need(f"apt-get install {' '.join(missing_packages())}" if missing_packages() else "")
    with start_bdii(tmp_path_factory.mktemp("bdii"), SITE, ["ce.example.org"], ["true"], glue2=False) as server:
        yield server.url


@contextlib.contextmanager
def slapd(
    directory: Path, age_s: int, *, limit: str = "unlimited", trees: tuple[str, ...] = ("grid", "glue")
) -> Iterator[str]:
    """Run slapd with both GLUE versions, the newest GLUE 2 entry made so long ago."""
    need(f"apt-get install {' '.join(missing_packages())}" if missing_packages() else "")
    created, older = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)) for seconds in (age_s, age_s + 500)
    )
    texts = {"grid": TREE.format(site=SITE), "glue": TREE2.format(site=SITE, created=created, older=older)}
    lines = [f"include /etc/ldap/schema/{name}.schema" for name in SCHEMAS]
    lines += ["modulepath /usr/lib/ldap", "moduleload back_mdb", f"sizelimit {limit}"]
    for tree in trees:
        (directory / tree).mkdir(parents=True)
        lines += ["database mdb", f'suffix "o={tree}"', f"directory {directory / tree}"]
    configuration = directory / "slapd.conf"
    configuration.write_text("\n".join([*lines, ""]))
    for tree in trees:
        (directory / f"{tree}.ldif").write_text(texts[tree])
        command = ["/usr/sbin/slapadd", "-f", configuration, "-b", f"o={tree}", "-l", directory / f"{tree}.ldif"]
        subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    argv = ["/usr/sbin/slapd", "-d", "0", "-f", configuration, "-h", f"ldap://127.0.0.1:{port}"]
    with running(argv, lambda: listens(port), directory / "slapd.log"):
        yield f"127.0.0.1:{port}"


def ask(server: str, python: str = "", **env: str) -> Said:
    return run_plugin("bdii.query", python=python, PPS_BDII=server, **env)


def test_a_fresh_system_with_both_versions_is_good(tmp_path: Path) -> None:
    with slapd(tmp_path, 60) as server:
        said = ask(server, PPS_BDII_SITE="test-site", PPS_BDII_GLUE="1 2")
        oldest = ask(server, oldest_python()) if oldest_python() else said
    assert (said.status, oldest.status) == (Status.OK, Status.OK), said
    assert said.text == f"{server} answers, entries of GLUE 1: 1, of GLUE 2: 2"
    assert list(said.perfdata) == [
        *("connect", "bind", "glue1", "glue2", "infosys", "total", "glue1_entries", "glue2_entries", "glue2_age")
    ]
    assert 60 <= (said.perfdata["glue2_age"] or 0) < 400, "the newest entry counts, made 60 s ago, not the one before"


@pytest.mark.parametrize(
    ("age_s", "limits", "status"),
    [
        (1900, {}, Status.WARNING),
        (7300, {}, Status.CRITICAL),
        (7300, {"PPS_BDII_WARN_AGE_S": "8000", "PPS_BDII_CRIT_AGE_S": "9000"}, Status.OK),
        (60, {"PPS_BDII_WARN_AGE_S": "10"}, Status.WARNING),
        (-4000, {}, Status.WARNING),
        (60, {"PPS_BDII_MIN_ENTRIES": "4"}, Status.CRITICAL),
        (60, {"PPS_BDII_MIN_ENTRIES": "3"}, Status.OK),
        (60, {"PPS_BDII_SITE": "OTHER"}, Status.CRITICAL),
        (60, {"PPS_BDII_WARN_S": "0.000001"}, Status.WARNING),
        (60, {"PPS_BDII_WARN_AGE_S": "soon"}, Status.UNKNOWN),
        (60, {"PPS_BDII_GLUE": "3"}, Status.UNKNOWN),
    ],
)
def test_age_number_and_site_are_judged_by_the_limits(
    tmp_path: Path, age_s: int, limits: dict[str, str], status: Status
) -> None:
    with slapd(tmp_path, age_s) as server:
        said = ask(server, **limits)
    assert said.status is status, said


def test_a_system_that_gives_only_a_part_is_a_warning(tmp_path: Path) -> None:
    with slapd(tmp_path, 60, limit="2") as server:
        said = ask(server)
    assert (said.status, "only a part of o=glue was given: size limit" in said.text) == (Status.WARNING, True), said


def test_a_system_without_any_tree_is_critical(tmp_path: Path) -> None:
    with slapd(tmp_path, 60, trees=()) as server:
        said = ask(server)
    assert (said.status, "entries of GLUE: 0" in said.text) == (Status.CRITICAL, True), said


def test_what_bdii_update_tells_of_itself_gives_the_age_where_glue_1_is_alone(bdii: str) -> None:
    said = ask(bdii, PPS_BDII_GLUE="1")
    assert said.status is Status.OK, said
    assert (said.perfdata["glue1_entries"], said.perfdata["failed_updates"]) == (2, 0)
    assert -5 < (said.perfdata["update_age"] or 0) < 300


def test_glue_2_that_is_missing_is_a_warning_and_critical_where_asked_for(bdii: str) -> None:
    said = [ask(bdii), ask(bdii, PPS_BDII_GLUE="1 2"), ask(bdii, PPS_BDII_GLUE="2")]
    assert [one.status for one in said] == [Status.WARNING, Status.CRITICAL, Status.CRITICAL]
    assert ["no entries of GLUE 2" in one.text for one in said] == [True, True, False]


def test_a_later_server_of_the_list_answers_for_the_first(bdii: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    said = run_plugin("bdii.query", LCG_GFAL_INFOSYS=f"{dead},{bdii}", PPS_BDII_GLUE="1")
    assert (said.status, said.text.startswith(f"{dead}: connect: Connection refused; ")) == (Status.WARNING, True), said
    assert ask(f"{dead} {dead}").status is Status.CRITICAL


def test_host_and_port_may_come_apart(bdii: str) -> None:
    host, port = bdii.removeprefix("ldap://").split(":")
    assert ask(host, PPS_BDII_PORT=port, PPS_BDII_GLUE="1").status is Status.OK


@pytest.mark.parametrize("server", ["", "a b|c", "ldaps://x", "x:99999", "http://x", "x:y"])
def test_what_is_no_server_is_unknown(server: str) -> None:
    assert ask(server).status is Status.UNKNOWN


# --- servers that do not speak it well ---------------------------------------------------------------


@contextlib.contextmanager
def speaker(answers: Callable[[], bytes], *, hold: bool = False) -> Iterator[str]:
    """Give a server that answers each request with the next bytes, and then closes or holds the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    stream = listener.accept()[0]
                except OSError:
                    return
                with stream:
                    stream.settimeout(5)
                    try:
                        while stream.recv(4096) and (answer := answers()):
                            stream.sendall(answer)
                        while hold and stream.recv(4096):
                            pass
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def message(number: int, operation: int, body: bytes) -> bytes:
    inside = b"\2\1" + bytes([number, operation, len(body)]) + body
    return bytes([0x30, len(inside)]) + inside


DONE = b"\n\1\0\4\0\4\0"
REFUSED = b"\n\1\x35\4\0\4\4busy"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([], "the server closed the connection"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "what came is no LDAP message"),
        ([b"\x30\x84\x7f\xff\xff\xff"], "what came is no LDAP message, or one of more than 4194304 bytes"),
        ([b"\x30\x80"], "what came is no LDAP message"),
        ([message(1, 0x61, REFUSED)], "LDAP result 53: busy"),
        ([message(1, 0x65, DONE)], "the answer to a bind is no bind response"),
        ([message(0, 0x78, DONE)], "the server ends the connection, or answers what was not asked"),
        ([b"\x30\3\2\1\1"], "an LDAP message is broken"),
        ([message(1, 0x61, b"\n\1")], "an LDAP message is broken"),
        ([message(1, 0x61, DONE), message(2, 0x64, b"\4\x7fx")], "an LDAP message is broken"),
        ([message(1, 0x61, DONE), message(2, 0x65, REFUSED)], "LDAP result 53: busy"),
    ],
)
def test_what_is_not_ldap_is_critical_and_named(answers: list[bytes], words: str) -> None:
    left = iter(answers)
    with speaker(lambda: next(left, b"")) as server:
        said = ask(server)
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said


def test_a_server_that_never_answers_is_critical_within_the_step_s_limit() -> None:
    with speaker(lambda: b"", hold=True) as server:
        said = ask(server, PPS_STEP_LIMIT_S="0.5")
    assert (said.status, "bind: did not end within 0.5 s" in said.text) == (Status.CRITICAL, True), said


def test_a_server_that_sends_without_end_is_ended_and_costs_no_memory() -> None:
    entry = message(2, 0x64, b"\4\7o=noise\x30\0") * 2000
    first = [message(1, 0x61, DONE)]
    with speaker(lambda: first.pop() if first else entry * 50) as server:
        said = ask(server, PPS_STEP_LIMIT_S="1")
    assert (said.status, said.text.startswith("glue1: ")) == (Status.CRITICAL, True), said


class Deaf:
    """A connection that takes everything."""

    def sendall(self, data: bytes) -> None:
        pass


@settings(deadline=None)
@given(noise=st.binary(max_size=200), entry=st.binary(max_size=60))
@example(noise=b"", entry=b"\4\1x\x30\x84")
def test_no_bytes_end_it_with_anything_but_a_verdict(noise: bytes, entry: bytes) -> None:
    probe = load_probe("bdii.query")
    for content in (noise, message(1, 0x64, entry) + noise):
        directory = probe.Directory("localhost", 2170)
        directory.stream, directory.file = Deaf(), io.BytesIO(content)
        with contextlib.suppress(probe.Verdict):
            for name, attributes in directory.search("o=grid", ("1.1",), probe.Seen()):
                assert (type(name), type(attributes)) == (str, dict)
