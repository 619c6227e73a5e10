"""Which bytes are asked for, and how they are cut apart again."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.fetch import Span, _cut
from pps_agent.transfer import (
    MAX_GAP_BYTES,
    MAX_WASTE,
    REQUEST_BYTES,
    _Stream,
    plan_spans,
    read_ahead,
)
from pps_wire.errors import WireError
from pps_wire.manifest import File

HASH = "0" * 64


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[File], int]:
    """Frames of an artifact with gaps between them, some of them wanted, and the artifact's length."""
    position = draw(st.integers(0, 300))
    wanted = []
    for number in range(draw(st.integers(1, 12))):
        size = draw(st.one_of(st.integers(1, 500), st.integers(1, 300_000)))
        if draw(st.booleans()):
            wanted.append(File(p=f"f{number:02}", s=1, h=HASH, o=position, z=size))
        position += size + draw(st.one_of(st.integers(0, 200), st.integers(0, 100_000)))
    return wanted, position


@given(layouts())
def test_every_wanted_frame_lies_in_exactly_one_span_and_little_else_is_asked_for(layout):
    files, length = layout
    spans = plan_spans(files, length)
    for file in files:
        assert sum(span.start <= file.o and file.o + file.z <= span.end for span in spans) == 1
    assert sorted(spans, key=lambda span: span.start) == list(spans)
    for before, after in itertools.pairwise(spans):
        assert before.end <= after.start
    wanted = sum(file.z for file in files)
    waste = sum(span.length for span in spans) - wanted
    assert waste <= wanted * MAX_WASTE + REQUEST_BYTES * (len(files) + 1)
    for span in spans:
        inside = sorted(file.o for file in files if span.start <= file.o < span.end)
        ends = sorted(file.o + file.z for file in files if span.start <= file.o < span.end)
        assert all(start - end <= MAX_GAP_BYTES for start, end in zip(inside[1:], ends, strict=False))


@settings(max_examples=50)
@given(layouts(), st.integers(100, 70_000), st.booleans(), st.integers(0, 2**32))
def test_frames_come_out_as_they_are_in_the_file_however_it_is_cut_into_pieces(layout, piece_bytes, whole, seed):
    files, length = layout
    random = Random(seed)
    content = random.randbytes(length)
    spans = plan_spans(files, length)
    if whole:
        body = (content[at : at + piece_bytes] for at in range(0, length, piece_bytes))
        pieces = _cut(body, spans, "http://x/") if spans else iter(())
    else:
        pieces = (
            content[at : min(at + piece_bytes, s.end)] for s in spans for at in range(s.start, s.end, piece_bytes)
        )
    stream = _Stream(pieces, spans)
    for file in files:
        frame = stream.frame(file)
        got = b"".join(iter(lambda frame=frame: frame.read(random.randint(1000, 100_000)), b""))
        assert content[file.o : file.o + file.z] == got


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_overlapping_frames_are_refused(first, second):
    files = [File(p="a", s=1, h=HASH, o=0, z=first + 1), File(p="b", s=1, h=HASH, o=first, z=second)]
    with pytest.raises(WireError, match="overlaps"):
        plan_spans(files, first + second + 1)


def test_a_frame_outside_the_artifact_is_refused():
    with pytest.raises(WireError, match="behind the artifact"):
        plan_spans([File(p="a", s=1, h=HASH, o=90, z=11)], 100)


def test_nothing_wanted_asks_for_nothing():
    assert plan_spans([], 100) == ()


def test_the_whole_artifact_is_one_request_without_its_head_and_tail_left_out():
    files = [File(p=f"f{n}", s=1, h=HASH, o=100 + n * 10_100, z=10_000) for n in range(5)]
    assert (Span(0, 50_700),) == plan_spans(files, 50_700)


def test_reading_ahead_gives_the_items_in_order():
    with read_ahead(iter(range(1000)), 4) as items:
        assert list(range(1000)) == list(items)


def test_an_error_of_the_reading_thread_is_raised_where_the_items_are_used():
    def fail():
        yield 1
        raise OSError("cable pulled")

    with read_ahead(fail(), 4) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="cable pulled"):
            next(items)


def test_leaving_early_ends_the_reading_thread():
    closed = []

    def endless():
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    with read_ahead(endless(), 2) as items:
        next(items)
    assert closed == [True]
