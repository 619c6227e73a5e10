"""The payload's text and the document it prints: any bytes are a document or a WireError, and nothing else."""

import ast
import contextlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pps_agent.probes import node_run
from pps_agent.probes.executors.payload import MAX_OUTPUT_BYTES, parse_document, render_payload
from pps_wire.errors import WireError
from pps_wire.node import MAX_REQUEST_BYTES, NodeDocument, NodeProbe, NodeRequest, NodeRun

NONCE, OTHER = "0" * 31 + "1", "0" * 31 + "2"
DIGEST = "a" * 64
AT = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SOURCE = Path(node_run.__file__).read_text()
RUN = NodeRun(probe="org.test.ok", digest=DIGEST, exit=0, stdout=b"OK - fine\n", stdout_bytes=10)
DOCUMENT = NodeDocument(nonce=NONCE, node="wn1.example.org", python="3.9.18", started_at=AT, took_s=1.5, runs=(RUN,))
noise = st.binary(max_size=200)


def printed(document: NodeDocument = DOCUMENT, nonce: str = "") -> bytes:
    """Give what node_run prints for a document."""
    nonce = nonce or document.nonce
    begin, end = node_run.BEGIN.format(nonce), node_run.END.format(nonce)
    return b"\n".join([b"", begin.encode(), msgspec.json.encode(document), end.encode(), b""])


def request(**fields: object) -> NodeRequest:
    probe = NodeProbe(probe="org.test.ok", digest=DIGEST, run=b"#!/bin/sh\n", timeout_s=20, grace_s=5)
    values = {"nonce": NONCE, "env": {"PATH": "/bin"}, "time_limit_s": 40.0, "not_after": AT, "probes": (probe,)}
    return NodeRequest(**(values | fields))  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_or_are_a_document(raw):
    body = b"\n".join([node_run.BEGIN.format(NONCE).encode(), raw, node_run.END.format(NONCE).encode()])
    for output in (raw, body):
        with contextlib.suppress(WireError):
            assert isinstance(parse_document(output, NONCE), NodeDocument)


@settings(deadline=None)
@given(noise, noise)
def test_what_stands_around_a_document_does_not_change_it(before, after):
    assume(b"-----BEGIN PPS" not in before + after)
    assert parse_document(before + printed() + after, NONCE) == DOCUMENT


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=len(printed()) - 2))
def test_a_document_that_breaks_off_anywhere_is_refused(length):
    with pytest.raises(WireError):
        parse_document(printed()[: -1 - length], NONCE)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=len(printed()) - 1), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_never_raises_anything_else(place, change):
    raw = bytearray(printed())
    raw[place] ^= change
    with contextlib.suppress(WireError):
        parse_document(bytes(raw), NONCE)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (b"", "the job printed no document"),
        (printed() * 2, "the job printed more than one document"),
        (printed() + printed(msgspec.structs.replace(DOCUMENT, nonce=OTHER)), "the job printed more than one document"),
        (printed(msgspec.structs.replace(DOCUMENT, nonce=OTHER)), "the document answers another request"),
        (printed(msgspec.structs.replace(DOCUMENT, nonce=OTHER), NONCE), "the document answers another request"),
        (b"x" * (MAX_OUTPUT_BYTES + 1), f"the job printed more than {MAX_OUTPUT_BYTES} bytes"),
        (
            printed(msgspec.structs.replace(DOCUMENT, v=2)),
            "format 2 is newer than 1: update this program",
        ),
    ],
)
def test_foreign_doubled_and_newer_documents_are_refused_in_words(output, problem):
    with pytest.raises(WireError) as caught:
        parse_document(output, NONCE)
    assert caught.value.problem == problem


def test_too_much_output_kept_is_refused():
    run = msgspec.structs.replace(RUN, stdout=b"x" * (64 * 1024 + 1))
    with pytest.raises(WireError):
        parse_document(printed(msgspec.structs.replace(DOCUMENT, runs=(run,))), NONCE)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=20), st.binary(max_size=3000))
def test_the_payload_carries_the_request_whole(env, content):
    probe = NodeProbe(probe="org.test.ok", digest=DIGEST, run=content, timeout_s=20, grace_s=5)
    wanted = request(env=env, probes=(probe,))
    text = render_payload(wanted, SOURCE, "/usr/bin/python3")
    assert text == render_payload(wanted, SOURCE, "/usr/bin/python3")
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert unpack(constants["REQUEST"], constants["DIGEST"]) == wanted
    lines = text.splitlines()
    assert lines[0] == "#!/usr/bin/python3 -IS"
    assert max(map(len, lines)) <= 160


def unpack(packed, digest):
    """Read a payload's request as the node does."""
    namespace = dict(vars(node_run), DIGEST=digest)
    unpacking = type(node_run._unpack)(node_run._unpack.__code__, namespace)
    return msgspec.json.decode(unpacking(packed), type=NodeRequest)


def test_a_request_too_large_for_a_batch_system_is_refused():
    probe = NodeProbe(probe="org.test.ok", digest=DIGEST, run=bytes(MAX_REQUEST_BYTES), timeout_s=20, grace_s=5)
    with pytest.raises(WireError, match="give nodes fewer probes"):
        render_payload(request(probes=(probe,)), SOURCE, "/usr/bin/python3")


def test_the_limits_of_node_and_contract_are_the_same():
    fields = {field.name: field for field in msgspec.structs.fields(NodeRun)}
    assert fields["stdout"].type.__metadata__[0].max_length == node_run.HEAD_BYTES + node_run.TAIL_BYTES
    assert fields["stderr"].type.__metadata__[0].max_length == node_run.STDERR_BYTES
