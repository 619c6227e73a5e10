"""What head and node say to each other through a batch system: a request in a payload, one document back.

The *request* travels inside the payload (``pps_agent.probes.payload``), the *document* comes back between
two marker lines on the job's standard output. A document is untrusted: whoever can write the job's output can
write one. Its ``nonce`` says which request it answers; raw facts stand in it, the head judges them.
"""

from typing import Annotated, Final

import msgspec

from pps_wire.document import FormatVersion, Moment, decode_document
from pps_wire.release import Count, ProbeText, ReleaseIdText, ShortText

NODE_VERSION: Final = 1
MAX_DOCUMENT_BYTES: Final = 16 * 1024**2
MAX_REQUEST_BYTES: Final = 2 * 1024**2
MAX_PROBES: Final = 64
MAX_STDOUT_BYTES: Final = 64 * 1024
MAX_STDERR_BYTES: Final = 32 * 1024

NonceText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
HashText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
HostText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$(?!\n)")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]
KeptOutput = Annotated[bytes, msgspec.Meta(max_length=MAX_STDOUT_BYTES)]
KeptError = Annotated[bytes, msgspec.Meta(max_length=MAX_STDERR_BYTES)]


class NodeProbe(msgspec.Struct, frozen=True, kw_only=True):
    """One probe to run: its executable, what it needs and what bounds it. ``digest`` is the sha256 of ``run``.

    ``variables`` must be set; each comes with what it means. ``env`` comes over the request's.
    """

    probe: ProbeText
    digest: HashText
    run: bytes
    timeout_s: Seconds
    grace_s: Seconds
    limits: dict[str, int] = {}
    commands: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    needs_proxy: bool = False
    env: dict[str, str] = {}


class NodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a payload does: these probes, one after the other, in this environment, within ``time_limit_s``.

    A payload that starts after ``not_after`` does nothing: nobody waits for its answer any more.
    """

    v: FormatVersion = NODE_VERSION
    nonce: NonceText
    release: ReleaseIdText | None = None
    env: dict[str, str]
    time_limit_s: Seconds
    not_after: Moment
    probes: tuple[NodeProbe, ...]


class NodeRun(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one probe on the node: the facts of ``runner``'s answer, none of them judged.

    ``missing`` names what it needs and the node lacks: it was not started then. ``skipped`` says why it was not
    run to its end for a reason that is not the probe's own.
    """

    probe: ProbeText
    digest: HashText
    missing: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=256)] = ()
    skipped: ShortText = ""
    exit: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    timed_out: bool = False
    failure: ShortText = ""
    killed_by: ShortText = ""
    stdout: KeptOutput = b""
    stdout_bytes: Count = 0
    stderr: KeptError = b""
    stderr_bytes: Count = 0
    leftovers_killed: Count = 0
    cpu_s: Seconds = 0.0
    max_rss_bytes: Count = 0
    duration_s: Seconds = 0.0


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer of a payload: which request it answers, where it ran, and what came of each probe."""

    v: FormatVersion = NODE_VERSION
    nonce: NonceText
    node: HostText
    python: ShortText = ""
    started_at: Moment
    took_s: Seconds
    runs: Annotated[tuple[NodeRun, ...], msgspec.Meta(max_length=MAX_PROBES)]


def parse_node_request(raw: bytes) -> NodeRequest:
    """Read a request. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _REQUEST, "node request", NODE_VERSION)


def parse_node_document(raw: bytes) -> NodeDocument:
    """Read a node's answer, without its marker lines. Raises: WireError and nothing else, for any bytes."""
    return decode_document(raw, _DOCUMENT, "node document", NODE_VERSION)


_REQUEST = msgspec.json.Decoder(NodeRequest)
_DOCUMENT = msgspec.json.Decoder(NodeDocument)
