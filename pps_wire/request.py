"""Signed requests of the central scheduler to an agent, in a DSSE envelope.

The collector signs with a key listed in the TUF target ``fleet/keys.json``, which the small
delegated role ``fleet`` vouches for. A request names an installed probe or a release, never a command.
Source: DSSE protocol v1.0 (pre-authentication encoding).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pps_wire.document import FormatVersion, Moment, decode_document
from pps_wire.errors import WireError
from pps_wire.release import ProbeText, ReleaseIdText, ShortText, SiteText, VoText
from pps_wire.report import RequestId

PAYLOAD_TYPE: Final = "application/vnd.pps.request+json"
REQUEST_VERSION: Final = 1
API_VERSION: Final = 1
"""Of ``GET /v1/requests``, whose answer carries no ``v``."""
FLEET_VERSION: Final = 1
MAX_REQUESTS: Final = 100
"""Envelopes in one answer."""
FLEET_KEYS_PATH: Final = "fleet/keys.json"
"""TUF target, signed by the delegated role ``fleet``, that lists the request-signing keys."""

_ArgumentName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$(?!\n)")]
_ArgumentText = Annotated[str, msgspec.Meta(max_length=1024)]
_KeyId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class RequestKind(Enum):
    """What may be asked of an agent; its own policy allows only RUN_PROBE by default."""

    RUN_PROBE = "run-probe"
    INSTALL = "install"
    REMOVE = "remove"
    TAG = "tag"
    COLLECT_LOGS = "collect-logs"


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request for one site, valid from ``not_before`` up to ``deadline``, executed at most once."""

    # From a factory, because omit_defaults would leave a plain default out of what is signed.
    v: FormatVersion = msgspec.field(default_factory=lambda: REQUEST_VERSION)
    id: RequestId
    kind: RequestKind
    site: SiteText
    not_before: Moment
    deadline: Moment
    probe: ProbeText | None = None
    release: ReleaseIdText | None = None
    vo: VoText | None = None
    reason: ShortText = ""
    arguments: Annotated[dict[_ArgumentName, _ArgumentText], msgspec.Meta(max_length=32)] = {}
    """For the probe, by the names in its own schema; see ``probe.toml``."""


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v1/requests``: envelopes after the caller's cursor, oldest first, and the next cursor.

    Each envelope stays undecoded, so that a bad one harms no other. The collector repeats what is neither answered
    nor past its deadline to a caller without a cursor; the agent executes each id once.
    """

    cursor: Annotated[str, msgspec.Meta(max_length=128)] = ""
    requests: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_REQUESTS)] = []


class Signature(msgspec.Struct, frozen=True):
    """One DSSE signature; ``keyid`` is the sha256 of the raw Ed25519 public key."""

    keyid: _KeyId
    sig: bytes


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope; bytes travel as base64."""

    payload: bytes
    payload_type: str
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=8)]


class FleetKey(msgspec.Struct, frozen=True, kw_only=True):
    """A request-signing key of the collector: raw Ed25519 public key, base64 on the wire."""

    public: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    comment: ShortText = ""


class FleetKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the TUF target FLEET_KEYS_PATH."""

    v: FormatVersion = FLEET_VERSION
    keys: tuple[FleetKey, ...] = ()


_REQUEST = msgspec.json.Decoder(Request)
_ENVELOPE = msgspec.json.Decoder(Envelope)
_INBOX = msgspec.json.Decoder(Inbox)
_FLEET_KEYS = msgspec.json.Decoder(FleetKeys)


def encode_for_signing(payload: bytes) -> bytes:
    """Give the bytes a signature covers: DSSE pre-authentication encoding of a request payload."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def open_request(raw: bytes, keys: Mapping[str, Ed25519PublicKey]) -> Request:
    """Read a request whose envelope carries a valid signature of one of ``keys`` (by key id).

    The payload is decoded only after its signature has been checked. Deadline, site and replay are
    the caller's to check. Raises: WireError and nothing else, for any bytes.
    """
    envelope = decode_document(raw, _ENVELOPE, "request", REQUEST_VERSION)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise WireError("request", f"payloadType {envelope.payload_type[:80]!r} is not {PAYLOAD_TYPE}")
    if not any(_verifies(envelope.payload, signature, keys) for signature in envelope.signatures):
        raise WireError("request", "no signature of a key that the fleet role lists")
    return decode_document(envelope.payload, _REQUEST, "request", REQUEST_VERSION)


def parse_inbox(raw: bytes) -> Inbox:
    """Read the collector's answer to a look for requests. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _INBOX, "requests", API_VERSION)


def parse_fleet_keys(raw: bytes) -> FleetKeys:
    """Read the list of request-signing keys. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _FLEET_KEYS, "fleet keys", FLEET_VERSION)


def _verifies(payload: bytes, signature: Signature, keys: Mapping[str, Ed25519PublicKey]) -> bool:
    key = keys.get(signature.keyid)
    if key is None:
        return False
    try:
        key.verify(signature.sig, encode_for_signing(payload))
    except InvalidSignature:
        return False
    return True
