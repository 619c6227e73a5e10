"""An information system that cannot be looked at: always Unknown, never "no tags"."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent import infosys, subcluster_search
from pps_agent.infosys import Expectation
from pps_agent.state import Unknown
from pps_wire.names import Subcluster, Tag

SC1 = Subcluster("ce01.example.org")
A = Tag("VO-dteam-a")
BIND_OK = bytes.fromhex("61070a010004000400")
SEARCH_SIZE_LIMIT = bytes.fromhex("65070a010404000400")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url_of(server: socket.socket) -> str:
    return f"ldap://127.0.0.1:{server.getsockname()[1]}"


def answer_once(server: socket.socket, *answers: bytes) -> threading.Thread:
    """Accept one connection and give one answer per request; then close. For answers no sound server gives."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            for answer in answers:
                request = connection.recv(4096)
                connection.sendall(as_answer_to(request, answer) if answer in {BIND_OK, SEARCH_SIZE_LIMIT} else answer)
            connection.recv(4096)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def as_answer_to(request: bytes, operation: bytes) -> bytes:
    """Wrap an operation as an LDAPMessage with the request's message id (RFC 4511, 4.1.1)."""
    start = 2 if request[1] < 0x80 else 2 + (request[1] & 0x7F)
    message = request[start : start + 2 + request[start + 1]] + operation
    return bytes([0x30, len(message)]) + message


def reason_of(found: object) -> str:
    assert isinstance(found, Unknown)
    return found.reason


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1:2170", "127.0.0.1:2170", "ldap://", "ldap://h:x", "ldap://h:99999"]
)
def test_what_is_no_ldap_address_is_unknown_and_says_how_to_write_one(url: str) -> None:
    assert "like ldap://" in reason_of(infosys.observe_published(url, "o=grid", [SC1], 1))


def test_a_server_that_is_down_is_unknown_and_names_a_command_to_try(listener: socket.socket) -> None:
    url = url_of(listener)
    listener.close()
    reason = reason_of(infosys.observe_published(url, "o=grid", [SC1], 2))
    assert "refused" in reason
    assert reason.endswith(f"try `ldapsearch -x -H {url} -b o=grid`")


def test_a_server_that_never_answers_is_unknown_after_the_time_limit(listener: socket.socket) -> None:
    assert "timed out" in reason_of(infosys.observe_published(url_of(listener), "o=grid", [SC1], 1))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n", b"\x30\x84\xff\xff\xff\xff", b"\x00" * 64]
)
def test_a_server_that_speaks_something_else_is_unknown(listener: socket.socket, answer: bytes) -> None:
    thread = answer_once(listener, answer)
    found = infosys.observe_published(url_of(listener), "o=grid", [SC1], 1)
    thread.join(10)
    assert isinstance(found, Unknown)


def test_an_answer_cut_by_a_size_limit_is_unknown(listener: socket.socket) -> None:
    thread = answer_once(listener, BIND_OK, SEARCH_SIZE_LIMIT)
    reason = reason_of(infosys.observe_published(url_of(listener), "o=grid", [SC1], 2))
    thread.join(10)
    assert "only part of the answer" in reason
    assert "infosys.base" in reason


def test_no_subclusters_need_no_server() -> None:
    assert infosys.observe_published("ldap://127.0.0.1:1", "o=grid", [], 1) == {}


def test_a_wait_on_a_server_that_is_down_ends_at_its_deadline_with_unknown(listener: socket.socket) -> None:
    url = url_of(listener)
    listener.close()
    ended = infosys.wait_published((url,), "o=grid", {SC1: Expectation()}, timeout_s=1, wait_s=0.2, poll_s=0.05)
    assert isinstance(ended.observed, Unknown)
    assert not ended.reached
    assert ended.looks > 1


sets = st.frozensets(st.sampled_from([A, Tag("VO-dteam-b"), Tag("VO-dteam-c")]))


@given(shown=sets, present=sets, absent=sets)
def test_a_look_meets_an_expectation_exactly_when_all_is_there_and_nothing_unwanted(
    shown: frozenset[Tag], present: frozenset[Tag], absent: frozenset[Tag]
) -> None:
    reached = infosys.is_reached({SC1: shown}, {SC1: Expectation(present, absent)})
    assert reached == (present <= shown and not absent & shown)


def test_unknown_and_a_missing_subcluster_never_meet_an_expectation() -> None:
    wanted = {SC1: Expectation(absent=frozenset({A}))}
    assert not infosys.is_reached(Unknown("down"), wanted)
    assert not infosys.is_reached({}, wanted)


def test_a_server_that_drips_for_ever_is_unknown_in_the_end(listener: socket.socket) -> None:
    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            request = connection.recv(4096)
            connection.sendall(as_answer_to(request, BIND_OK))
            connection.recv(4096)
            connection.sendall(b"\x30\x82\xff\xff")  # a message of 65,535 bytes
            while True:
                connection.sendall(b"\x00")
                threading.Event().wait(0.05)

    thread = threading.Thread(target=drip)
    thread.start()
    found = infosys.observe_published(url_of(listener), "o=grid", [SC1], 0.2)
    thread.join(10)
    assert isinstance(found, Unknown)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad\r\n\r\n" * 9, b"\x30\x05\x02\x01\x02\x7f\x00", b"\x30\x03\x02\x01\x02"]
)
def test_what_ldap3_cannot_read_after_the_bind_is_unknown(listener: socket.socket, answer: bytes) -> None:
    thread = answer_once(listener, BIND_OK, answer)
    assert "cannot look at" in reason_of(infosys.observe_published(url_of(listener), "o=grid", [SC1], 1))
    thread.join(10)


ENDLESS = {
    "one message": (b"\x30\x84\x7f\xff\xff\xff", b"\x00" * 65536),
    "referrals": (b"", None),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_server_that_sends_without_end_is_unknown_long_before_the_memory_is_full(
    listener: socket.socket, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subcluster_search, "_MAX_BYTES", 2 * 1024**2)
    sent_bytes = 0

    def flood() -> None:
        nonlocal sent_bytes
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            request = connection.recv(4096)
            connection.sendall(as_answer_to(request, BIND_OK))
            begin, more = ENDLESS[kind]
            more = more or as_answer_to(connection.recv(4096), b"\x73\x07\x04\x05x:///") * 4096
            connection.sendall(begin)
            while True:
                sent_bytes += connection.send(more)

    thread = threading.Thread(target=flood)
    thread.start()
    reason = reason_of(infosys.observe_published(url_of(listener), "o=grid", [SC1], 20))
    thread.join(10)
    assert "more than" in reason
    assert sent_bytes < 16 * 1024**2
    assert not thread.is_alive()
