"""What an agent reports and how the collector answers: batches of records, cumulative acknowledgement.

A batch carries consecutive records of one *lane* (``live`` or ``backfill``) under one *epoch*
(a new outbox is a new epoch). ``digest`` is the rolling digest of the lane before the batch's first
record; it shows a restored outbox that numbers other records the same. The collector stores
records it cannot read under their kind and never refuses a batch for one of them.

Every body names the site's host group; an agent that knows none is the site's only one, ``default``.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import Enum, IntEnum
from typing import Annotated, ClassVar, Final

import msgspec

from pps_wire import names
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
GroupText = Annotated[names.HostGroup, msgspec.Meta(pattern=names.GROUP_PATTERN)]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
KindText = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_.-]{0,63}$(?!\n)")]
Seq = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
DetailText = Annotated[str, msgspec.Meta(max_length=65_536)]


StageText = Annotated[str, msgspec.Meta(pattern=r"^(?:[a-z][a-z-]{0,31})?$(?!\n)")]
AWAITING_CONFIG: Final = "awaiting-config"
"""A stage: installed, but configuration steps are open, so that it is neither current nor announced."""
HANDED_OVER: Final = "handed-over"
"""A stage: production has reached the release's version, so that it goes, or stays out."""


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


class Cause(Enum):
    """Why a result is what it is. Only a ``verdict`` is the probe's own word; all others are UNKNOWN."""

    VERDICT = "verdict"
    REQUIREMENT = "requirement"
    """Something it needs is missing: it was not started."""
    DEPENDENCY = "dependency"
    """What it depends on is not OK: it was not started."""
    TIMEOUT = "timeout"
    KILLED = "killed"
    """Ended by a signal or by a limit."""
    FAULT = "fault"
    """It could not be started, or its exit code or output cannot be read."""
    LOST = "lost"
    """What ran it ended before it did."""
    MISSED = "missed"
    """It was due and did not run, or the run before still lasted."""
    STALE = "stale"
    """Nobody renewed the last result in time."""


class ProbeBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``probe`` record; ``release`` empty means the production client.

    ``host`` is where it ran. ``partial`` ones are single nodes' answers; what they amount to together is a
    result of its own.
    ``hard`` False: the state may change with the next attempt. ``digest`` is the probe's own, ``client``
    the version it tested, ``parent`` the probe whose run reported this metric. Performance data is text of
    monitoring plugins. Times in seconds, sizes in bytes.
    """

    KIND: ClassVar[str] = "probe"
    probe: ProbeText
    release: ReleaseIdText | None = None
    status: Status
    summary: ShortText
    details: DetailText = ""
    duration_s: float
    host: ShortText = ""
    group: GroupText = names.DEFAULT_GROUP
    cause: Cause = Cause.VERDICT
    perfdata: DetailText = ""
    attempt: Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)] = 1
    hard: bool = True
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    truncated_bytes: Count = 0
    output_bytes: Count = 0
    leftovers_killed: Count = 0
    cpu_s: float = 0.0
    max_rss_bytes: Count = 0
    digest: ShortText = ""
    client: ShortText = ""
    parent: ProbeText | None = None
    partial: bool = False


class ReleaseBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``release`` record: a release's state at the site and why.

    ``stage`` is a finer word than the state, e.g. ``awaiting-config`` or ``handed-over``. It is no member
    of the state's set, so that a reader that does not know it still has the state.
    """

    KIND: ClassVar[str] = "release"
    release: ReleaseIdText
    component: ShortText
    version: ShortText
    state: ReleaseState
    reason: ShortText = ""
    current: bool = False
    stage: StageText = ""
    group: GroupText = names.DEFAULT_GROUP

    def __post_init__(self) -> None:
        if (self.component or self.version) and not self.release.startswith(f"{self.component}-{self.version}-"):
            raise ValueError(f"component and version do not belong to {self.release}")

    @property
    def word(self) -> str:
        """The stage where this reader knows it, else the state."""
        return self.stage if self.stage in (AWAITING_CONFIG, HANDED_OVER) else self.state.value


class TagBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``tag`` record."""

    KIND: ClassVar[str] = "tag"
    tag: ShortText
    vo: VoText
    subcluster: SubclusterText
    state: TagState
    release: ReleaseIdText | None = None
    group: GroupText = names.DEFAULT_GROUP


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a log that is a chain: how many lines it has, and the last one's digest.

    A log that has as many lines or more later and another digest at this place was rewritten.
    """

    lines: Count
    digest: DigestText


class RoundBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``round`` record: one reconcile round in a line; also the sign of life.

    A site that is ``observing`` changes nothing; ``would`` counts the actions it would have done now. ``tag_logs``
    are the logs of changes of tags, by VO; ``preproduction_tag_logs`` those of the pre-production information system.
    ``shown_after_s`` is how long the latest change of tags took to be seen in the information systems, measured at
    ``shown_at``; neither before that was measured.
    """

    KIND: ClassVar[str] = "round"
    round: ShortText
    trust: ShortText
    done: Count
    failed: Count
    took_s: float
    agent_version: ShortText
    single_user: bool = False
    paused: bool = False
    observing: bool = False
    would: Count = 0
    group: GroupText = names.DEFAULT_GROUP
    tag_logs: Annotated[dict[VoText, LogHead], msgspec.Meta(max_length=1000)] = {}
    preproduction_tag_logs: Annotated[dict[VoText, LogHead], msgspec.Meta(max_length=1000)] = {}
    shown_after_s: float | None = None
    shown_at: datetime | None = None


class RequestState(Enum):
    """What an agent made of one request."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    LOST = "lost"
    """The agent ended while it carried it out; it is not tried again."""


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a ``request`` record: what became of a request; a probe's result is a record of its own."""

    KIND: ClassVar[str] = "request"
    request: RequestId
    state: RequestState
    reason: ShortText = ""
    group: GroupText = names.DEFAULT_GROUP


Body = ProbeBody | ReleaseBody | TagBody | RoundBody | RequestBody
BODIES: Final[dict[str, type[Body]]] = {
    body.KIND: body for body in (ProbeBody, ReleaseBody, TagBody, RoundBody, RequestBody)
}


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
