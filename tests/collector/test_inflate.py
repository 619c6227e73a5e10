"""Bounded decompression."""

import contextlib
import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pps_collector.ingest.inflate import DamagedError, Encoding, TooLargeError, inflate

LIMIT = 4096
PACK = {Encoding.IDENTITY: bytes, Encoding.GZIP: gzip.compress, Encoding.ZSTD: zstandard.compress}


@pytest.mark.parametrize("encoding", Encoding)
@given(plain=st.binary(max_size=LIMIT))
def test_what_was_packed_comes_out_again(encoding, plain):
    assert inflate(PACK[encoding](plain), encoding, LIMIT) == plain


@pytest.mark.parametrize("encoding", Encoding)
@given(raw=st.binary(max_size=300))
def test_any_bytes_give_bytes_or_a_documented_error(encoding, raw):
    with contextlib.suppress(DamagedError, TooLargeError):
        assert len(inflate(raw, encoding, LIMIT)) <= LIMIT


@pytest.mark.parametrize("encoding", Encoding)
def test_one_byte_too_many_is_refused(encoding):
    with pytest.raises(TooLargeError):
        inflate(PACK[encoding](b"x" * (LIMIT + 1)), encoding, LIMIT)


@pytest.mark.parametrize("encoding", [Encoding.GZIP, Encoding.ZSTD])
def test_a_bomb_is_refused_without_being_inflated(encoding):
    bomb = PACK[encoding](bytes(256 * 1024**2))
    assert len(bomb) < 1024**2
    with pytest.raises(TooLargeError):
        inflate(bomb, encoding, LIMIT)


def test_a_second_gzip_member_is_damage():
    with pytest.raises(DamagedError):
        inflate(gzip.compress(b"a") + gzip.compress(b"b"), Encoding.GZIP, LIMIT)


def test_a_window_larger_than_allowed_is_damage():
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(b"x" * 100) + packer.flush()
    with pytest.raises(DamagedError):
        inflate(packed, Encoding.ZSTD, LIMIT)
