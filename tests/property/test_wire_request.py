"""Signed requests: what is signed, by whom, and that nothing else is ever believed. And the rolling digest."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_wire import request
from pps_wire.errors import WireError
from pps_wire.report import Lane, roll_digest, start_digest
from pps_wire.request import Envelope, Signature, encode_for_signing, open_request
from tests.contract.samples import AGENT, EPOCH, KEY, KEY_ID, REQUEST, sign

KEYS = {KEY_ID: KEY.public_key()}
PAYLOAD = msgspec.json.encode(REQUEST)
ENVELOPE = sign(PAYLOAD)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)


def opened(envelope: Envelope, keys=KEYS):
    return open_request(msgspec.json.encode(envelope), keys)


def test_the_signed_bytes_are_those_of_the_dsse_specification(monkeypatch):
    # the test vector of DSSE protocol v1.0, "Test Vectors"
    monkeypatch.setattr(request, "PAYLOAD_TYPE", "http://example.com/HelloWorld")
    assert encode_for_signing(b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@settings(deadline=None)
@given(one=st.binary(max_size=30), two=st.binary(max_size=30))
def test_two_payloads_never_give_the_same_signed_bytes(one, two):
    assert (encode_for_signing(one) == encode_for_signing(two)) == (one == two)


def test_a_signed_request_is_opened():
    assert opened(ENVELOPE) == REQUEST


def test_one_good_signature_among_unknown_ones_suffices():
    unknown = Signature("0" * 64, b"x")
    assert opened(msgspec.structs.replace(ENVELOPE, signatures=(unknown, *ENVELOPE.signatures))) == REQUEST


@pytest.mark.parametrize("signature", [b"", b"x", b"\0" * 64, b"\0" * 65, OTHER.sign(encode_for_signing(PAYLOAD))])
def test_a_signature_of_another_key_under_a_listed_id_is_refused(signature):
    with pytest.raises(WireError, match="no signature of a key that the fleet role lists"):
        opened(msgspec.structs.replace(ENVELOPE, signatures=(Signature(KEY_ID, signature),)))


def test_a_key_that_is_not_listed_is_refused():
    with pytest.raises(WireError, match="fleet role"):
        opened(sign(PAYLOAD, OTHER, "0" * 64))
    with pytest.raises(WireError, match="fleet role"):
        opened(ENVELOPE, {})


def test_a_signature_over_the_bare_payload_is_refused():
    with pytest.raises(WireError, match="fleet role"):
        opened(msgspec.structs.replace(ENVELOPE, signatures=(Signature(KEY_ID, KEY.sign(PAYLOAD)),)))


@pytest.mark.parametrize("kind", ["application/vnd.in-toto+json", "", request.PAYLOAD_TYPE + " ", "a" * 100_000])
def test_an_envelope_of_another_type_is_refused_even_if_signed(kind):
    body = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(PAYLOAD), PAYLOAD)
    envelope = Envelope(PAYLOAD, kind, (Signature(KEY_ID, KEY.sign(body)),))
    with pytest.raises(WireError, match="payloadType"):
        opened(envelope)


def test_a_signature_made_for_another_type_is_refused_under_ours():
    body = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(PAYLOAD), PAYLOAD)
    with pytest.raises(WireError, match="fleet role"):
        opened(msgspec.structs.replace(ENVELOPE, signatures=(Signature(KEY_ID, KEY.sign(body)),)))


@settings(deadline=None, max_examples=60)
@given(bit=st.integers(0, len(PAYLOAD) * 8 - 1))
def test_one_changed_bit_of_the_payload_is_refused(bit):
    changed = bytearray(PAYLOAD)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="fleet role"):
        opened(msgspec.structs.replace(ENVELOPE, payload=bytes(changed)))


@settings(deadline=None, max_examples=60)
@given(bit=st.integers(0, 64 * 8 - 1))
def test_one_changed_bit_of_the_signature_is_refused(bit):
    changed = bytearray(ENVELOPE.signatures[0].sig)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="fleet role"):
        opened(msgspec.structs.replace(ENVELOPE, signatures=(Signature(KEY_ID, bytes(changed)),)))


@settings(deadline=None)
@given(payload=st.binary(max_size=100))
def test_any_signed_payload_gives_a_request_or_a_wire_error(payload):
    with pytest.raises(WireError):
        opened(sign(payload))


@pytest.mark.parametrize("count", [0, 9])
def test_no_signature_and_too_many_are_refused(count):
    with pytest.raises(WireError):
        opened(msgspec.structs.replace(ENVELOPE, signatures=ENVELOPE.signatures * count))


def test_a_payload_is_not_looked_at_before_its_signature(monkeypatch):
    with pytest.raises(WireError, match="fleet role"):
        opened(sign(b'{"v":2}', OTHER))
    with pytest.raises(WireError, match="format 2 is newer"):
        opened(sign(b'{"v":2}'))


RECORDS = st.lists(st.binary(max_size=8), max_size=5)
START = start_digest(AGENT, EPOCH, Lane.LIVE)


@given(one=RECORDS, two=RECORDS)
def test_the_digest_does_not_depend_on_how_records_are_batched(one, two):
    assert roll_digest(roll_digest(START, one), two) == roll_digest(START, one + two)


@given(one=RECORDS, two=RECORDS)
def test_the_digest_tells_other_records_other_bounds_and_other_order(one, two):
    assert (roll_digest(START, one) == roll_digest(START, two)) == (one == two)


@given(parts=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.sampled_from(Lane)), unique=True))
def test_every_agent_epoch_and_lane_starts_elsewhere(parts):
    starts = {start_digest(agent * 32, epoch * 32, lane) for agent, epoch, lane in parts}
    assert len(starts) == len(parts)
