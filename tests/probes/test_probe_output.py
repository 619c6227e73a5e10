"""Reading what plugins print, and showing bytes as text that can be had back: pure, so by property and by table."""

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_agent.probes.parse import (
    MAX_SUMMARY_CHARS,
    PluginOutput,
    clean_line,
    cut_summary,
    cut_text,
    decode_output,
    make_safe,
    parse_plugin_output,
    restore_output,
    show_text,
)
from pps_agent.probes.perfdata import MAX_PERFDATA, PerfDatum

PIECES = [b"\\", b"x", b"41", b"\xff", b"\xc3\xa9", b"\xc3", b"\n", b"\r", b"\0", b"\xe2\x80\xa8", b" |", b"a=1"]
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
A, B, Y = (PerfDatum(label, value) for label, value in (("a", 1.0), ("b", 2.0), ("y", 1.0)))
anything = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", PluginOutput("", "")),
        (b"OK\n", PluginOutput("OK", "")),
        (b"\n\nOK - late\n", PluginOutput("OK - late", "")),
        (b"OK|a=1\n", PluginOutput("OK", "", (A,), "a=1")),
        (
            b"DISK OK | /=1MB\nlong 1\nlong 2 | /boot=2MB\n/home=3MB\n",
            PluginOutput(
                "DISK OK",
                "long 1\nlong 2 ",
                (PerfDatum("/", 1, "MB"), PerfDatum("/boot", 2, "MB"), PerfDatum("/home", 3, "MB")),
                "/=1MB /boot=2MB /home=3MB",
            ),
        ),
        (b"a\tb \x1b[1m c\r\nnext\rlast\r\n", PluginOutput("a b \\x1b[1m c", "next\nlast")),
        ("≥ 1 \u202e gone\n".encode(), PluginOutput("≥ 1 \\xe2\\x80\\xae gone", "")),
        (b" \t\n\r\n  OK  \n\n  kept\n\nas is  \n", PluginOutput("OK", "  kept\n\nas is")),
        (b"OK | a=1 | b=2\n", PluginOutput("OK", "", (A, B), "a=1 b=2", ("|",))),
        (b"OK|a=1\nx|b=2 oops\n", PluginOutput("OK", "x", (A, B), "a=1 b=2", ("oops",))),
        (b"OK|a=1\nps | grep x\ny=1\n", PluginOutput("OK", "ps ", (A, Y), "a=1 y=1", ("grep", "x"))),
        (b"OK|a=1\nps | grep x\nmore | text\n", PluginOutput("OK", "ps | grep x\nmore | text", (A,), "a=1")),
        (b"OK|a=1,5\n", PluginOutput("OK", "", (), "", ("a=1,5",))),
        (b"|a=1", PluginOutput("", "", (A,), "a=1")),
        (b"C:\\x\\temp \\xff \\x4F", PluginOutput("C:\\x\\temp \\x5cxff \\x4F", "")),
    ],
)
def test_output_falls_into_its_parts(raw: bytes, expected: PluginOutput) -> None:
    assert parse_plugin_output(raw) == expected


@given(raw=anything)
def test_any_output_gives_text_that_can_be_stored(raw: bytes) -> None:
    output = parse_plugin_output(raw)
    for text in (output.summary, output.details, output.perftext):
        assert text == json.loads(json.dumps(text).encode("ascii"))
        text.encode("utf-8")
        assert "\0" not in text
    assert "\n" not in output.summary
    assert len(output.summary) <= MAX_SUMMARY_CHARS
    assert len(output.perfdata) <= MAX_PERFDATA


@given(raw=anything)
@example(b"\\x41 \\xff")
@example(b"\\x\xff \\\xff \\x4\x01")
@example(b"\\\\x41\\x5cx41")
def test_any_bytes_can_be_had_back(raw: bytes) -> None:
    assert restore_output(decode_output(raw)) == raw


@given(raw=anything)
def test_shown_text_is_utf_8_without_control_characters(raw: bytes) -> None:
    text = decode_output(raw)
    assert text.encode("utf-8").decode("utf-8") == text
    assert {unicodedata.category(char) for char in text if char not in "\n\t"} & {"Cc", "Cs", "Zl", "Zp"} == set()
    assert {unicodedata.bidirectional(char) for char in text} & TURNING == set()


@given(text=st.text(st.characters(), max_size=60))
def test_text_of_any_origin_is_made_safe_and_stays_so(text: str) -> None:
    for safe in (show_text(text), make_safe(text)):
        assert safe.encode("utf-8").decode("utf-8") == safe
        assert make_safe(safe) == safe
        assert clean_line(safe) == " ".join(safe.split())


@given(left=anything, right=anything)
def test_different_bytes_are_shown_differently(left: bytes, right: bytes) -> None:
    assert (decode_output(left) == decode_output(right)) == (left == right)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain", "plain"),
        ("café ≥ 1 👍".encode(), "café ≥ 1 👍"),
        (b"caf\xe9", "caf\\xe9"),
        (b"\0\x07\x1b[31m\x7f", "\\x00\\x07\\x1b[31m\\x7f"),
        (b"a\tb\nc\rd", "a\tb\nc\\x0dd"),
        ("\x85\u2028\u2029".encode(), "\\xc2\\x85\\xe2\\x80\\xa8\\xe2\\x80\\xa9"),
        ("a\u202eb\u2066c\u200fd\u061c".encode(), "a\\xe2\\x80\\xaeb\\xe2\\x81\\xa6c\\xe2\\x80\\x8fd\\xd8\\x9c"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"\\ \\n \\x \\x4 \\xAB \\u1234", "\\ \\n \\x \\x4 \\xAB \\u1234"),
        (b"\\x41", "\\x5cx41"),
    ],
)
def test_what_cannot_be_shown_is_shown_as_its_bytes(raw: bytes, shown: str) -> None:
    assert decode_output(raw) == shown


def test_a_first_line_too_long_is_cut_and_kept_whole_in_the_details() -> None:
    output = parse_plugin_output(b"x" * 2000 + b"\nrest")
    assert len(output.summary) == MAX_SUMMARY_CHARS
    assert output.details == "x" * 2000 + "\nrest"


@given(text=st.text(max_size=300), limit=st.integers(64, 300))
def test_cut_text_keeps_its_limit_and_both_ends(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert len(cut) <= limit
    assert cut[:5] == text[:5]
    assert cut == text or "left out" in cut


def test_a_cut_summary_says_so_and_a_short_one_is_left_alone() -> None:
    assert [len(cut_summary("x" * length)) for length in (511, 512, 513)] == [511, 512, 512]
    assert cut_summary("x" * 513) == "x" * 511 + "…"


def test_text_that_is_cut_tells_how_much_is_missing() -> None:
    assert cut_text("a" * 100 + "z" * 100, 80) == "a" * 23 + "\n[… 170 characters left out …]\n" + "z" * 7
