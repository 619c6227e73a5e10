"""Bounded decompression: right bytes or the documented error, for any bytes."""

import contextlib
import hashlib
import io

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.errors import TrustError
from pps_agent.frames import Unpacker, open_manifest
from pps_wire.errors import WireError
from pps_wire.manifest import MAX_WINDOW_BYTES, Directory, File, Head, Manifest, render_manifest
from pps_wire.names import ReleaseId

RELEASE = ReleaseId("grid-clients-6.1.0-x86_64-glibc2.36")


def describe(content: bytes, frame: bytes, **fields: object) -> File:
    values = {"p": "bin/x", "s": len(content), "h": hashlib.sha256(content).hexdigest(), "o": 512, "z": len(frame)}
    return File(**(values | fields))  # type: ignore[arg-type]


def unpack(file: File, frame: bytes) -> bytes:
    return b"".join(bytes(block) for block in Unpacker().unpack(file, io.BytesIO(frame)))


def compress_with_window(content: bytes, window_log: int, *, sized: bool) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log, write_content_size=sized)
    worker = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=len(content) if sized else -1)
    return worker.compress(content) + worker.flush()


@given(st.binary(min_size=1, max_size=3_000), st.integers(1, 400))
def test_a_frame_gives_back_its_content(seed, times):
    content = seed * times
    frame = zstandard.compress(content)
    assert content == unpack(describe(content, frame), frame)


def test_one_unpacker_serves_many_frames_also_after_a_bad_one():
    unpacker = Unpacker()
    frame = zstandard.compress(b"good" * 1000)
    file = describe(b"good" * 1000, frame)
    for _ in range(3):
        with pytest.raises(TrustError):
            list(unpacker.unpack(file, io.BytesIO(frame[:-3])))
        assert b"".join(bytes(block) for block in unpacker.unpack(file, io.BytesIO(frame))) == b"good" * 1000


@given(st.binary(max_size=200), st.integers(0, 5000))
def test_any_bytes_give_the_content_or_a_trust_error_that_names_file_and_offset(frame, size):
    file = File(p="bin/x", s=size, h=hashlib.sha256(b"a" * size).hexdigest(), o=77, z=len(frame))
    with pytest.raises(TrustError, match=r"^bin/x, frame at 77: "):
        unpack(file, frame)


@given(st.data())
def test_a_changed_frame_never_passes(data):
    content = b"the quick brown fox jumps over the lazy dog\n" * 30
    frame = bytearray(zstandard.compress(content))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    file = describe(content, bytes(frame))
    with contextlib.suppress(TrustError):
        assert content == unpack(file, bytes(frame))


def test_a_bomb_is_stopped_at_the_promised_size():
    bomb = compress_with_window(b"\0" * 64 * 1024**2, 20, sized=False)
    assert len(bomb) < 8192
    blocks = Unpacker().unpack(describe(b"\0" * 1000, bomb), io.BytesIO(bomb))
    with pytest.raises(TrustError, match="more than its 1000 bytes"):
        next(blocks)


def test_a_bomb_that_states_its_size_is_refused_before_unpacking():
    bomb = zstandard.compress(b"\0" * 64 * 1024**2)
    with pytest.raises(TrustError, match="states 67108864 bytes where 1000 are signed"):
        unpack(describe(b"\0" * 1000, bomb), bomb)


@pytest.mark.parametrize("sized", [True, False])
def test_a_window_larger_than_allowed_is_refused(sized):
    content = b"x" * (MAX_WINDOW_BYTES + 1 if sized else 1000)
    frame = compress_with_window(content, 24, sized=sized)
    with pytest.raises(TrustError, match="asks for a window of"):
        unpack(describe(content, frame), frame)


def test_the_largest_allowed_window_is_accepted():
    content = b"0123456789abcdef" * 600_000
    frame = compress_with_window(content, 23, sized=True)
    assert content == unpack(describe(content, frame), frame)


def test_a_frame_that_ends_early_says_how_far_it_came():
    content = bytes(range(256)) * 4
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    with pytest.raises(TrustError, match="unpacks to only"):
        unpack(describe(content, frame), frame[:-1])


def test_content_with_another_hash_is_refused():
    frame = zstandard.compress(b"evil!")
    with pytest.raises(TrustError, match="another sha256"):
        unpack(describe(b"good!", frame), frame)


def test_a_frame_that_needs_a_dictionary_is_refused():
    dictionary = zstandard.train_dictionary(1024, [b"grid client %d " % number * 20 for number in range(200)])
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"grid client 1 " * 20)
    with pytest.raises(TrustError, match="dictionary"):
        unpack(describe(b"grid client 1 " * 20, frame), frame)


def test_a_manifest_is_read_from_its_compressed_lines():
    head = Head(release=RELEASE, entries=400, installed_bytes=0)
    manifest = Manifest(head, tuple(Directory(f"d{number:05}") for number in range(400)))
    raw = zstandard.compress(b"".join(render_manifest(manifest)))
    opened = open_manifest(raw)
    assert (head, list(manifest.entries)) == (opened.head, list(opened.entries()))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_manifest_or_a_wire_error(raw, compressed):
    with pytest.raises(WireError):
        open_manifest(zstandard.compress(raw) if compressed else raw)


def test_a_manifest_that_is_one_endless_line_is_refused():
    with pytest.raises(WireError, match="line of more than"):
        open_manifest(zstandard.compress(b"a" * 10_000_000))


def test_a_manifest_with_too_large_a_window_is_refused():
    with pytest.raises(WireError, match="window"):
        open_manifest(compress_with_window(b"{}", 25, sized=False))
