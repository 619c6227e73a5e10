"""Decides what one record is worth: a row, a row and a new latest state, or quarantine. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, assert_never

from pps_wire.errors import WireError
from pps_wire.names import DEFAULT_GROUP, HostGroup
from pps_wire.report import Body, ProbeBody, ReleaseBody, RequestBody, RoundBody, TagBody, parse_body, parse_record

MAX_RECORD_BYTES: Final = 1024**2
MAX_SUBJECT_BYTES: Final = 1024
MAX_AHEAD: Final = timedelta(minutes=5)
MAX_AGE: Final = timedelta(days=180)
PRODUCTION: Final = "production"
"""Subject part of a probe that ran against the production client."""


class Fault(Enum):
    """Why a record is kept apart; column ``quarantine.code``."""

    SCHEMA = "schema"
    SEQUENCE = "sequence"
    TOO_LARGE = "too-large"
    CLOCK_FUTURE = "clock-future"
    TOO_OLD = "too-old"


@dataclass(frozen=True, slots=True)
class LatestState:
    """What a record says of its subject in one host group, if nothing newer is known."""

    subject: str
    state: str
    summary: str
    group: HostGroup = DEFAULT_GROUP


@dataclass(frozen=True, slots=True)
class Admitted:
    """A record to store; ``latest`` is None for kinds newer than this program."""

    seq: int
    kind: str
    at: datetime
    body: str
    latest: LatestState | None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record to keep apart, with the reason."""

    seq: int
    fault: Fault
    reason: str
    raw: bytes


def admit(raw: bytes, seq: int, now: datetime) -> Admitted | Quarantined:
    """Judge the record at place ``seq`` of its lane; ``now`` is the collector's clock."""
    if len(raw) > MAX_RECORD_BYTES:
        return Quarantined(seq, Fault.TOO_LARGE, f"{len(raw)} bytes, at most {MAX_RECORD_BYTES} are taken", raw)
    try:
        record = parse_record(raw)
        text = bytes(record.body).decode("utf-8")  # the parser skips bodies without checking their encoding
        body = parse_body(record)
    except (WireError, UnicodeDecodeError) as exc:
        return Quarantined(seq, Fault.SCHEMA, str(exc), raw)
    if record.seq != seq:
        return Quarantined(seq, Fault.SEQUENCE, f"numbered {record.seq}, but stands at {seq}", raw)
    if record.at > now + MAX_AHEAD:
        return Quarantined(
            seq, Fault.CLOCK_FUTURE, f"at {record.at.isoformat()} is in the future; check the clock", raw
        )
    if record.at < now - MAX_AGE:
        return Quarantined(seq, Fault.TOO_OLD, f"at {record.at.isoformat()} is more than {MAX_AGE.days} days ago", raw)
    return Admitted(seq, record.kind, record.at, text, describe(body) if body is not None else None)


def describe(body: Body) -> LatestState | None:
    """Give the subject that a body speaks of, its state in one word, and why; None where no state lasts."""
    match body:
        case ProbeBody():
            subject = f"{body.release or PRODUCTION}|{body.probe}"
            if body.partial:
                subject = _bounded(_storable(f"{subject}|{body.host}"))
            return LatestState(subject, body.status.name.lower(), _storable(body.summary), body.group)
        case ReleaseBody():
            return LatestState(body.release, body.word, _storable(body.reason), body.group)
        case TagBody():
            subject = _bounded(_storable(f"{body.subcluster}|{body.tag}"))
            return LatestState(subject, body.state.value, "", body.group)
        case RoundBody():
            state = "failed" if body.failed else "ok"
            return LatestState("round", state, f"{body.done} done, {body.failed} failed", body.group)
        case RequestBody():
            return None
    assert_never(body)


def _bounded(subject: str) -> str:
    # A tag's text may be longer than PostgreSQL's index takes (2,704 bytes); no valid tag is.
    whole = subject.encode()
    if len(whole) <= MAX_SUBJECT_BYTES:
        return subject
    return f"{subject[:100]}…{hashlib.sha256(whole).hexdigest()}"


def _storable(text: str) -> str:
    # PostgreSQL's text cannot hold NUL.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
