"""The pure decision: what one record is worth."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_collector.ingest.admit import (
    MAX_AGE,
    MAX_SUBJECT_BYTES,
    Admitted,
    Fault,
    LatestState,
    Quarantined,
    admit,
    describe,
)
from pps_wire.report import Status, TagBody, TagState, render_record
from tests.collector.running import PROBE, RELEASE, probe, release, round_of, tag

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def fault_of(raw: bytes, seq: int = 1) -> Fault | None:
    judged = admit(raw, seq, NOW)
    return judged.fault if isinstance(judged, Quarantined) else None


@given(raw=st.binary(max_size=200), seq=st.integers(1, 2**53))
@example(raw=b'{"seq":1,"kind":"x","at":"2026-06-01T00:00:00Z","body":"\xff"}', seq=1)
@example(raw=b"[" * 100_000, seq=1)
def test_any_bytes_are_admitted_or_quarantined_with_a_reason(raw, seq):
    judged = admit(raw, seq, NOW)
    match judged:
        case Quarantined():
            assert judged.reason
            assert judged.raw == raw
        case Admitted():
            assert judged.seq == seq


def test_bytes_that_no_database_text_can_hold_are_quarantined():
    assert fault_of(b'{"seq":1,"kind":"new","at":"2026-06-01T00:00:00Z","body":"\xff"}') is Fault.SCHEMA


def test_a_record_under_another_number_than_its_place_is_quarantined():
    assert fault_of(render_record(7, NOW, probe()), seq=8) is Fault.SEQUENCE


@pytest.mark.parametrize(
    ("at", "fault"),
    [
        (NOW + timedelta(minutes=6), Fault.CLOCK_FUTURE),
        (datetime(2038, 1, 19, tzinfo=UTC), Fault.CLOCK_FUTURE),
        (NOW + timedelta(minutes=4), None),
        (NOW - MAX_AGE + timedelta(hours=1), None),
        (NOW - MAX_AGE - timedelta(hours=1), Fault.TOO_OLD),
        (datetime(1970, 1, 1, tzinfo=UTC), Fault.TOO_OLD),
    ],
)
def test_times_outside_the_window_are_quarantined(at, fault):
    assert fault_of(render_record(1, at, probe())) is fault


def test_a_time_without_a_zone_is_quarantined():
    assert fault_of(b'{"seq":1,"kind":"new","at":"2026-06-01T00:00:00","body":{}}') is Fault.SCHEMA


def test_a_kind_newer_than_this_program_is_stored_as_it_travelled():
    judged = admit(b'{"seq":1,"kind":"gap.v2","at":"2026-06-01T00:00:00Z","body":{"a" : [1, 2]}, "later":true}', 1, NOW)
    assert isinstance(judged, Admitted)
    assert (judged.kind, judged.body, judged.latest) == ("gap.v2", '{"a" : [1, 2]}', None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (probe(Status.CRITICAL, "no"), LatestState(f"{RELEASE}|{PROBE}", "critical", "no")),
        (probe(release=None), LatestState(f"production|{PROBE}", "ok", "fine")),
        (release(reason="why"), LatestState(RELEASE, "installed", "why")),
        (tag(), LatestState("ce01.example.org|VO-dteam-pps-6.1.0", "published", "")),
        (round_of(3, 1), LatestState("round", "failed", "3 done, 1 failed")),
    ],
)
def test_a_body_names_its_subject_and_state(body, expected):
    assert describe(body) == expected


def test_a_subject_always_fits_the_databases_index():
    body = TagBody(tag="\N{SNOWMAN}" * 1024, vo="v", subcluster="s" * 253, state=TagState.LISTED)
    other = msgspec.structs.replace(body, tag="\N{SNOWMAN}" * 1023 + "x")
    assert len(describe(body).subject.encode()) <= MAX_SUBJECT_BYTES
    assert describe(body).subject != describe(other).subject


def test_a_nul_in_a_summary_does_not_reach_the_database():
    assert describe(probe(summary="a\0b")).summary == "a\N{REPLACEMENT CHARACTER}b"
