"""What an agent reports and how the collector answers: batches of records, cumulative acknowledgement.

A batch carries consecutive records of one *lane* (``live`` or ``backfill``) under one *epoch*
(a new outbox is a new epoch). ``digest`` is the rolling digest of the lane before the batch's first
record; it shows a restored outbox that numbers other records the same. The collector stores
records it cannot read under their kind and never refuses a batch for one of them.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import Enum, IntEnum
from typing import Annotated, ClassVar, Final

import msgspec

from pps_wire.document import MAX_INTEGER, FormatVersion, Moment, decode_document
from pps_wire.release import Count, ProbeText, ReleaseIdText, ShortText, SiteText, SubclusterText, VoText

BATCH_VERSION: Final = 1
API_VERSION: Final = 1
"""Answers and enrolment carry no ``v`` of their own: their version is the path's, ``/v1/``."""
MAX_RECORDS: Final = 1000
MAX_WIRE_BYTES: Final = 1024**2
MAX_BODY_BYTES: Final = 16 * 1024**2
"""Largest batch after decompression."""

AgentId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
EpochText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
DigestText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
KindText = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_.-]{0,63}$(?!\n)")]
Seq = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
DetailText = Annotated[str, msgspec.Meta(max_length=65_536)]


class Lane(Enum):
    """Fresh results travel apart from those that waited, so that a backlog never delays news."""

    LIVE = "live"
    BACKFILL = "backfill"


class Status(IntEnum):
    """A probe's verdict, numbered as monitoring plugins exit."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class ReleaseState(Enum):
    """How far a release has come at a site, in the order of its life."""

    OFFERED = "offered"
    REFUSED = "refused"
    FAILED = "failed"
    INSTALLED = "installed"
    BROKEN = "broken"
    VERIFIED = "verified"
    TAGGED = "tagged"
    DRAINING = "draining"
    REMOVED = "removed"


class TagState(Enum):
    """What is known of a tag at a site: in its file, seen in the information system, or gone."""

    LISTED = "listed"
    PUBLISHED = "published"
    MISSING = "missing"
    REMOVED = "removed"


class ProbeBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``probe`` record; ``release`` empty means the production client."""

    KIND: ClassVar[str] = "probe"
    probe: ProbeText
    release: ReleaseIdText | None = None
    status: Status
    summary: ShortText
    details: DetailText = ""
    duration_s: float
    host: ShortText = ""


class ReleaseBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``release`` record: a release's state at the site and why."""

    KIND: ClassVar[str] = "release"
    release: ReleaseIdText
    component: ShortText
    version: ShortText
    state: ReleaseState
    reason: ShortText = ""
    current: bool = False

    def __post_init__(self) -> None:
        if (self.component or self.version) and not self.release.startswith(f"{self.component}-{self.version}-"):
            raise ValueError(f"component and version do not belong to {self.release}")


class TagBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``tag`` record."""

    KIND: ClassVar[str] = "tag"
    tag: ShortText
    vo: VoText
    subcluster: SubclusterText
    state: TagState
    release: ReleaseIdText | None = None


class RoundBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``round`` record: one reconcile round in a line; also the sign of life."""

    KIND: ClassVar[str] = "round"
    round: ShortText
    trust: ShortText
    done: Count
    failed: Count
    took_s: float
    agent_version: ShortText
    single_user: bool = False
    paused: bool = False


Body = ProbeBody | ReleaseBody | TagBody | RoundBody
BODIES: Final[dict[str, type[Body]]] = {body.KIND: body for body in (ProbeBody, ReleaseBody, TagBody, RoundBody)}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One reported fact: ``body`` stays undecoded, since its kind may be newer than the reader."""

    seq: Seq
    kind: KindText
    at: Moment
    body: msgspec.Raw


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Envelope of ``POST /v1/batches``; ``records`` stay undecoded so that one bad one harms no other."""

    v: FormatVersion = BATCH_VERSION
    agent: AgentId
    site: SiteText
    epoch: EpochText
    lane: Lane
    sent_at: Moment
    first_seq: Seq
    digest: DigestText
    records: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_RECORDS)]

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record."""
        return self.first_seq + len(self.records) - 1


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """Answer 200: everything up to ``ack`` is stored for good; ``quarantined`` counts unreadable records."""

    ack: Count
    quarantined: Count = 0
    server_time: Moment


class Refusal(Enum):
    """Why a batch was refused as a whole; stands in ``Problem.code``."""

    GAP = "gap"
    EPOCH_CONFLICT = "epoch-conflict"
    WRONG_AGENT = "wrong-agent"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    BUSY = "busy"
    NOT_ENROLLED = "not-enrolled"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer 4xx/5xx: machine-readable code, text for people, and the sequence number wanted next."""

    code: Refusal
    detail: ShortText
    expected: Seq | None = None


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/enrol``: one-time token and certificate signing request (PEM)."""

    token: Annotated[str, msgspec.Meta(min_length=16, max_length=256)]
    csr: Annotated[str, msgspec.Meta(max_length=16_384)]


class EnrolReply(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's identity: its id, its site, its certificate and the collector's CA (PEM)."""

    agent: AgentId
    site: SiteText
    certificate: str
    ca: str


def start_digest(agent: str, epoch: str, lane: Lane) -> str:
    """Give the rolling digest of an empty lane."""
    return hashlib.sha256(f"{agent}\n{epoch}\n{lane.value}\n".encode()).hexdigest()


def roll_digest(digest: str, records: Iterable[bytes]) -> str:
    """Give the rolling digest after these records, each as the exact bytes that travel."""
    for record in records:
        digest = hashlib.sha256(bytes.fromhex(digest) + hashlib.sha256(record).digest()).hexdigest()
    return digest


def render_record(seq: int, at: datetime, body: Body) -> bytes:
    """Give the exact bytes of one record, as they are stored in the outbox and travel in a batch."""
    return msgspec.json.encode(Record(seq=seq, kind=body.KIND, at=at, body=msgspec.Raw(msgspec.json.encode(body))))


def parse_batch(raw: bytes) -> Batch:
    """Read a batch's envelope. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _BATCH, "batch", BATCH_VERSION)


def parse_record(raw: bytes) -> Record:
    """Read one record; its body may still be of an unknown kind. Raises: WireError only."""
    return decode_document(raw, _RECORD, "record", BATCH_VERSION)


def parse_body(record: Record) -> Body | None:
    """Read a record's body, or give None when its kind is newer than this reader. Raises: WireError only."""
    decoder = _BODIES.get(record.kind)
    return None if decoder is None else decode_document(bytes(record.body), decoder, record.kind, BATCH_VERSION)


def parse_ack(raw: bytes) -> Ack:
    """Read the collector's answer to a stored batch. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _ACK, "acknowledgement", API_VERSION)


def parse_problem(raw: bytes) -> Problem:
    """Read the collector's refusal. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _PROBLEM, "problem", API_VERSION)


def parse_enrol_request(raw: bytes) -> EnrolRequest:
    """Read a request for an identity. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _ENROL_REQUEST, "enrolment", API_VERSION)


def parse_enrol_reply(raw: bytes) -> EnrolReply:
    """Read a new identity. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _ENROL_REPLY, "enrolment", API_VERSION)


_BATCH = msgspec.json.Decoder(Batch)
_RECORD = msgspec.json.Decoder(Record)
_ACK = msgspec.json.Decoder(Ack)
_PROBLEM = msgspec.json.Decoder(Problem)
_ENROL_REQUEST = msgspec.json.Decoder(EnrolRequest)
_ENROL_REPLY = msgspec.json.Decoder(EnrolReply)
_BODIES: Final[dict[str, msgspec.json.Decoder[Body]]] = {
    kind: msgspec.json.Decoder(body) for kind, body in BODIES.items()
}
