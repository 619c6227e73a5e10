"""One delta: the right file or the documented error, in bounded memory, for any bytes."""

import contextlib
import hashlib
import lzma
import random
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.delta import apply_delta, choose_deltas
from pps_agent.errors import TrustError
from pps_publisher.delta import make_delta
from pps_wire.delta import DELTA_HEAD, MAX_CONTROLS, MAX_DELTA_FILE_BYTES
from pps_wire.manifest import Delta, File

OLD = random.Random(1).randbytes(20_000)
NEW = OLD[:5_000] + b"inserted" + OLD[6_000:15_000] + OLD[:2_000] + b"end"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def described(new: bytes, raw: bytes, old: bytes = OLD, **fields: object) -> tuple[File, Delta]:
    """A file and one delta to it, signed as they are but for ``fields`` of the file."""
    delta = Delta(b=sha256(old), o=70, z=len(raw), h=sha256(raw))
    values = {"p": "lib/x", "s": len(new), "h": sha256(new), "o": 512, "z": 10**6, "d": (delta,)}
    return File(**(values | fields)), delta  # type: ignore[arg-type]


def packed(control: list[tuple[int, int, int]], diff: bytes, extra: bytes, **head: int) -> bytes:
    """A delta as a liar would write it."""
    body = b"".join(
        struct.pack("<QQQ", add, take, move if move >= 0 else (1 << 63) - move) for add, take, move in control
    )
    stated = {"count": len(control), "diff_bytes": len(diff)} | head
    return DELTA_HEAD.pack(stated["count"], stated["diff_bytes"]) + lzma.compress(
        body + diff + extra, lzma.FORMAT_RAW, filters=FILTERS
    )


def made(old: bytes, new: bytes) -> bytes:
    raw = make_delta(old, new)
    assert raw is not None
    return raw


@given(st.binary(min_size=1, max_size=400), st.binary(min_size=1, max_size=400), st.integers(1, 30))
def test_what_the_publisher_makes_the_agent_applies(old, new, times):
    old, new = old * times, new * times + old[: len(old) // 2]
    raw = made(old, new)
    file, delta = described(new, raw, old)
    assert new == apply_delta(file, delta, old, raw)


def test_the_same_contents_give_the_same_delta_and_one_much_smaller_than_the_file():
    assert made(OLD, NEW) == made(OLD, NEW)
    assert len(made(OLD, NEW)) < 300


@given(st.binary(max_size=300))
def test_any_signed_bytes_give_a_trust_error_that_names_file_and_delta(raw):
    file, delta = described(NEW, raw)
    with pytest.raises(TrustError, match=r"^lib/x, delta at 70: .*its frame is fetched instead"):
        apply_delta(file, delta, OLD, raw)


@given(st.data())
def test_any_changed_byte_of_a_signed_delta_gives_the_file_or_a_trust_error(data):
    raw = bytearray(made(OLD, NEW))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    file, delta = described(NEW, bytes(raw))
    with contextlib.suppress(TrustError):
        assert apply_delta(file, delta, OLD, bytes(raw)) == NEW


_NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**63 - 1), st.sampled_from([2**31, 2**32, 2**63 - 1]))


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS, st.one_of(_NUMBERS, _NUMBERS.map(lambda n: -n))), max_size=5), st.data())
def test_any_control_entries_give_a_file_or_a_trust_error(control, data):
    diff, extra = data.draw(st.binary(max_size=60)), data.draw(st.binary(max_size=60))
    raw = packed(control, diff, extra)
    new = data.draw(st.binary(min_size=len(diff) + len(extra), max_size=len(diff) + len(extra)))
    file, delta = described(new, raw, OLD[:50])
    with contextlib.suppress(TrustError):
        assert new == apply_delta(file, delta, OLD[:50], raw)


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ([(30, 0, 0), (30, 0, 0)], "reads behind an end"),
        ([(10, 0, -11), (50, 0, 0)], "moves before the old file"),
        ([(10, 0, 2**63 - 1), (50, 0, 0)], "reads behind an end"),
        ([(2**63 - 1, 0, 0)], "reads behind an end"),
        ([(0, 2**64 - 1, 0)], "reads behind an end"),
        ([(10, 0, 0)], "make 10 of 60 bytes"),
        ([], "make 0 of 60 bytes"),
    ],
)
def test_a_control_entry_that_leaves_the_old_file_or_a_stream_is_refused(control, words):
    raw = packed(control, b"d" * 60, b"")
    file, delta = described(b"x" * 60, raw, OLD[:50])
    with pytest.raises(TrustError, match=words):
        apply_delta(file, delta, OLD[:50], raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "ends within its head"),
        (b"\0" * 11, "ends within its head"),
        (packed([(60, 0, 0)], b"d" * 60, b"", count=MAX_CONTROLS + 1), "announces 1000001 control entries"),
        (packed([(60, 0, 0)], b"d" * 60, b"", diff_bytes=61), "61 bytes of difference"),
        (packed([(60, 0, 0)], b"d" * 60, b"", diff_bytes=2**64 - 1), "bytes of difference"),
        (packed([(60, 0, 0)], b"d" * 60, b"") + b"!", "does not unpack to 84 bytes"),
        (packed([(60, 0, 0)], b"d" * 60, b"")[:-1], "does not unpack to 84 bytes"),
        (packed([(60, 0, 0)], b"d" * 59, b""), "does not unpack to 84 bytes"),
        (packed([(60, 0, 0)], b"d" * 60, b"e"), "does not unpack to 84 bytes"),
        (DELTA_HEAD.pack(1, 60) + b"\xff" * 30, "cannot be unpacked"),
    ],
)
def test_a_delta_that_lies_about_its_sizes_is_refused(raw, words):
    file, delta = described(b"x" * 60, raw)
    with pytest.raises(TrustError, match=words):
        apply_delta(file, delta, OLD, raw)


def test_bytes_that_are_not_the_signed_ones_are_refused_before_they_are_looked_at():
    raw = made(OLD, NEW)
    file, delta = described(NEW, raw)
    with pytest.raises(TrustError, match="has another sha256 than signed"):
        apply_delta(file, delta, OLD, raw + b"!")


def test_old_content_that_was_damaged_is_refused():
    raw = made(OLD, NEW)
    file, delta = described(NEW, raw)
    with pytest.raises(TrustError, match="the old content is not what it starts from"):
        apply_delta(file, delta, OLD[:-1] + b"?", raw)


def test_a_signed_delta_that_gives_another_file_is_refused():
    raw = made(OLD, NEW)
    file, delta = described(NEW[:-1] + b"?", raw)
    with pytest.raises(TrustError, match="gives a file of another sha256 than signed"):
        apply_delta(file, delta, OLD, raw)


def test_only_deltas_inside_the_pack_and_shorter_than_the_frame_are_tried():
    def delta(o: int, z: int) -> Delta:
        return Delta(b="0" * 64, o=o, z=z, h="1" * 64)

    good = (delta(0, 99), delta(900, 99))
    bad = (delta(0, 0), delta(0, 100), delta(902, 99), delta(2**53 - 1, 99))
    file = File(p="x", s=1000, h="2" * 64, o=0, z=100, d=(*good, *bad))
    assert good == tuple(choose_deltas(file, 1000))
    large = File(p="x", s=MAX_DELTA_FILE_BYTES + 1, h="2" * 64, o=0, z=100, d=good)
    assert tuple(choose_deltas(large, 1000)) == ()


_PEAK = """
def peak_kib():  # the kernel's own count: getrusage's begins with that of the process which forked
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
"""
_BOMB = (
    _PEAK
    + """
import hashlib, lzma, sys
from pps_agent.delta import apply_delta
from pps_agent.errors import TrustError
from pps_wire.delta import DELTA_HEAD
from pps_wire.manifest import Delta, File
old = b"old"
worker = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
raw = DELTA_HEAD.pack(1, 1000) + b"".join(worker.compress(bytes(2**20)) for _ in range(400)) + worker.flush()
sha = lambda content: hashlib.sha256(content).hexdigest()
delta = Delta(b=sha(old), o=0, z=len(raw), h=sha(raw))
before = peak_kib()
try:
    apply_delta(File(p="x", s=1000, h="0" * 64, o=0, z=10**6), delta, old, raw)
except TrustError as exc:
    assert "does not unpack to 1024 bytes" in str(exc), exc
    print(peak_kib() - before)
"""
)


def test_a_bomb_is_stopped_at_the_promised_size():
    done = subprocess.run([sys.executable, "-c", _BOMB], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40 * 1024


def test_the_limits_of_memory_hold_for_the_largest_files():
    """Old and new of 64 MiB: below five times that, in a process of its own."""
    program = _PEAK + (
        "import hashlib, lzma, struct\n"
        "from pps_agent.delta import apply_delta\n"
        "from pps_wire.delta import DELTA_HEAD, MAX_DELTA_FILE_BYTES as size\n"
        "from pps_wire.manifest import Delta, File\n"
        "old = bytes(size)\n"
        "filters = [{'id': lzma.FILTER_LZMA2, 'preset': 0}]\n"
        "worker = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)\n"
        "raw = DELTA_HEAD.pack(1, size) + worker.compress(struct.pack('<QQQ', size, 0, 0))\n"
        "raw += b''.join(worker.compress(bytes(2**20)) for _ in range(size // 2**20)) + worker.flush()\n"
        "sha = lambda content: hashlib.sha256(content).hexdigest()\n"
        "delta = Delta(b=sha(old), o=0, z=len(raw), h=sha(raw))\n"
        "apply_delta(File(p='x', s=size, h=sha(old), o=0, z=size), delta, old, raw)\n"
        "print(peak_kib() * 1024 // size)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5
