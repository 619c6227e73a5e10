"""Performance data and ranges: by property and by table."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_agent.probes.perfdata import (
    MAX_LABEL_CHARS,
    MAX_PERFDATA,
    MAX_PERFDATA_CHARS,
    PerfDatum,
    Range,
    is_exceeded,
    is_in,
    is_label,
    is_unit,
    parse_perfdata,
    parse_range,
    render_number,
    render_perfdata,
    render_range,
    scan_perfdata,
)
from pps_wire.errors import WireError

INF = math.inf
finite = st.floats(allow_nan=False, allow_infinity=False)
labels = st.text("aZ0 '=;|/\\µ≥", min_size=1, max_size=12)
UNITS = ["", "s", "ms", "us", "ns", "m", "h", "d", "%", "B", "KB", "MiB", "TB", "c", "°C", "Ω", "W", "b/s", "µs"]


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    low, high = sorted(
        (draw(finite | st.just(-INF)), draw(finite | st.just(INF))), key=lambda x: (x, math.copysign(1, x))
    )
    return Range(0.0 if low == INF else low, high if high != -INF else 0.0, draw(st.booleans()))


measured = st.builds(PerfDatum, label=labels, value=finite, unit=st.sampled_from(UNITS))
untold = st.builds(PerfDatum, label=labels, value=st.none())


@st.composite
def data(draw: st.DrawFn) -> PerfDatum:
    datum = draw(measured | untold)
    bound = st.none() | finite
    threshold = st.none() | ranges()
    return PerfDatum(datum.label, datum.value, datum.unit, draw(threshold), draw(threshold), draw(bound), draw(bound))


perfdata = st.lists(data(), max_size=5, unique_by=lambda datum: datum.label).map(tuple)


@given(perfdata)
def test_performance_data_is_read_back_as_it_was(values):
    assert parse_perfdata(render_perfdata(values)) == values


@given(perfdata)
def test_all_that_is_rendered_follows_the_grammar_and_is_kept_as_printed(values):
    text = render_perfdata(values)
    assert (scan_perfdata(text).text, scan_perfdata(text).refused) == (text, ())
    assert "\n" not in text


def test_only_labels_that_need_it_are_quoted():
    values = (PerfDatum("/a;b", 1, "s", Range(0, 2), None, 0), PerfDatum("it's", None), PerfDatum("a|b", 1e-5))
    assert render_perfdata(values) == "/a;b=1s;2;;0 'it''s'=U 'a|b'=0.00001"


@given(st.text(max_size=60) | st.text("ab'=1;:@~U. \n|-e", max_size=60))
def test_any_text_gives_values_and_the_rest_by_name(text):
    read = scan_perfdata(text)
    assert scan_perfdata(read.text) == type(read)(read.data, read.printed, ())
    assert len({datum.label for datum in read.data}) == len(read.data)
    blank = str.maketrans("\n\t", "  ")
    left = " ".join(text.translate(blank).split(" "))
    for refused in read.refused:
        assert refused.translate(blank) in left


@given(st.text("'ab=1 ", max_size=40), st.sampled_from(["=x", "", "=1.", "b", "=1;9:3"]))
def test_nothing_is_read_out_of_a_quoted_label(inside, end):
    quoted = "'" + inside.replace("'", "''") + "'"
    read = scan_perfdata(f"first=1 {quoted}{end} last=2")
    assert [datum.label for datum in read.data if datum.label not in (inside, "first", "last")] == []


def test_a_quote_that_is_never_closed_takes_the_rest_of_its_line_only():
    read = scan_perfdata("a=1 'b c=2 d=3\ne=4")
    assert [datum.label for datum in read.data] == ["a", "e"]
    assert read.refused == ("'b c=2 d=3",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time=0.2s", (PerfDatum("time", 0.2, "s"),)),
        ("/=2643MB;5948;5958;0;5968", (PerfDatum("/", 2643, "MB", Range(0, 5948), Range(0, 5958), 0, 5968),)),
        ("'free space'=12% x=U", (PerfDatum("free space", 12, "%"), PerfDatum("x", None))),
        ("x=U;1:;~:2;0;5", (PerfDatum("x", None, "", Range(1), Range(-INF, 2), 0, 5),)),
        ("'it''s | it'=1;@1:2;~:3", (PerfDatum("it's | it", 1, "", Range(1, 2, True), Range(-INF, 3)),)),
        ("'a=b'=1", (PerfDatum("a=b", 1),)),
        ("''''=1", (PerfDatum("'", 1),)),
        ("a=1;;;0;", (PerfDatum("a", 1, minimum=0),)),
        ("a=1;;;;5;", (PerfDatum("a", 1, maximum=5),)),
        ("a=-1.5e3 b=+2 c=.5 d=5.", tuple(map(PerfDatum, "abcd", (-1500.0, 2.0, 0.5, 5.0)))),
        ("a=1e b=1E2c", (PerfDatum("a", 1, "e"), PerfDatum("b", 100, "c"))),
        ("a=1s;@-5:-2", (PerfDatum("a", 1, "s", Range(-5, -2, True)),)),
        ("a=1\tb=2\n c=3 ", tuple(map(PerfDatum, "abc", (1.0, 2.0, 3.0)))),
        ("größe=1µs", (PerfDatum("größe", 1, "µs"),)),
        ("a;b=1", (PerfDatum("a;b", 1),)),
        ("", ()),
    ],
)
def test_the_grammar_is_read(text, expected):
    assert (parse_perfdata(text), scan_perfdata(text).refused) == (expected, ())


@pytest.mark.parametrize(
    "word",
    [
        "a=1,5",
        "a=",
        "=1",
        "a",
        "a=x",
        "a==1",
        "a=1=2",
        "a=Us",
        "a=u",
        "a=nan",
        "a=inf",
        "a=0x10",
        "a=1e400",
        "a=1;x",
        "a=1;1s",
        "a=1;80%",
        "a=1;5:1",
        "a=1;-2",
        "a=1;:",
        "a=1;@",
        "a=1;~",
        "a=1;1;2;~:3",
        "a=1;1;2;3;4;5",
        "a=1;;;1e999",
        "''=1",
        "it's=1",
        "a|b=1",
        "a=1|b=2",
        'a=1"',
        "a=1" + "u" * 17,
        "a" * (MAX_LABEL_CHARS + 1) + "=1",
        "'" + "a" * (MAX_LABEL_CHARS + 1) + "'=1",
        "|",
    ],
)
def test_what_is_no_datum_is_refused_whole_and_named(word):
    read = scan_perfdata(f"x=1 {word} y=2")
    assert (parse_perfdata("x=1 y=2"), "x=1 y=2", (word,)) == (read.data, read.text, read.refused)


def test_labels_and_units_of_the_greatest_length_are_read():
    assert parse_perfdata("a" * MAX_LABEL_CHARS + "=1" + "u" * 16) == (PerfDatum("a" * MAX_LABEL_CHARS, 1, "u" * 16),)


def test_of_two_values_with_one_label_the_first_counts():
    read = scan_perfdata("a=1 'a'=2 a=3")
    assert (read.data, read.refused) == ((PerfDatum("a", 1),), ("'a'=2", "a=3"))


def test_no_more_than_so_many_values_are_read():
    read = scan_perfdata(" ".join(f"a{number}=1" for number in range(MAX_PERFDATA + 2)))
    assert (len(read.data), read.refused) == (MAX_PERFDATA, ("a256=1", "a257=1"))


def test_no_more_than_so_many_characters_are_read():
    word = "a" * 250 + "=1"
    words = [f"{number:03}{word}" for number in range(80)]
    read = scan_perfdata(" ".join(words))
    fitting = (MAX_PERFDATA_CHARS + 1) // (len(words[0]) + 1)
    assert (read.text, read.refused) == (" ".join(words[:fitting]), tuple(words[fitting:]))
    assert len(read.text) <= MAX_PERFDATA_CHARS


@pytest.mark.timeout(30)
@pytest.mark.parametrize("text", ["'", "a", "=", "''", "'a", "a=1;", "1", "a=1 ", "a=" + "1" * 400 + ";", " ", "'\n"])
def test_a_hostile_line_takes_no_quadratic_time(text):
    scan_perfdata(text * (65_536 // len(text)))
    scan_perfdata("a=" + text * (65_536 // len(text)))


RANGES = {
    "10": Range(0, 10),
    "10:": Range(10, INF),
    "~:10": Range(-INF, 10),
    "10:20": Range(10, 20),
    "@10:20": Range(10, 20, True),
    "@10": Range(0, 10, True),
    "~:": Range(-INF, INF),
    "0:": Range(0, INF),
    "-20:-10.5": Range(-20, -10.5),
    "0": Range(0, 0),
    "-1:0": Range(-1, 0),
}


@pytest.mark.parametrize(("text", "expected"), RANGES.items())
def test_a_range_is_read_and_written(text, expected):
    assert parse_range(text) == expected
    assert render_range(expected) == text


@pytest.mark.parametrize(("text", "shortest"), [(":10", "10"), ("0:10", "10"), ("1.50:2e1", "1.5:20"), ("+1:", "1:")])
def test_a_range_has_one_shortest_form(text, shortest):
    assert render_range(parse_range(text)) == shortest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        ":",
        "@:",
        "~",
        "@~",
        "10~",
        "10:~",
        "~10",
        "1:2:3",
        "a",
        "1 ",
        "20:10",
        "-1",
        "1e999",
        "1e999:",
        "-1e999:",
        "1:1e999",
        "@@1",
        "1s",
        "\u0661",
    ],
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(WireError, match=r"^range: "):
        parse_range(text)


@given(ranges())
@example(Range(-0.0, 5.0))
def test_a_range_is_read_back_as_it_was(limits):
    assert parse_range(render_range(limits)) == limits


@given(st.text(max_size=12) | st.text("0123456789.:~@-+e", max_size=12))
def test_any_text_is_a_range_or_a_wire_error(text):
    try:
        limits = parse_range(text)
    except WireError:
        return
    assert limits.low <= limits.high


@pytest.mark.parametrize(
    ("text", "quiet", "alarm"),
    [
        ("10", (0, 5, 10), (-0.1, 10.1)),
        ("10:", (10, 1e9), (9.9, -1)),
        ("~:10", (-1e9, 10), (10.1,)),
        ("10:20", (10, 15, 20), (9.9, 20.1)),
        ("@10:20", (9.9, 20.1), (10, 15, 20)),
    ],
)
def test_the_alarm_is_raised_as_the_draft_s_examples_say(text, quiet, alarm):
    limits = parse_range(text)
    assert [is_exceeded(limits, value) for value in (*quiet, *alarm)] == [False] * len(quiet) + [True] * len(alarm)


@given(ranges(), finite)
def test_inside_and_outside_are_told_apart_by_the_at_sign_alone(limits, value):
    other = Range(limits.low, limits.high, not limits.inside)
    assert is_in(limits, value) == is_in(other, value) == (limits.low <= value <= limits.high)
    assert is_exceeded(limits, value) != is_exceeded(other, value)


@given(finite)
@example(5e-324)
@example(1.7976931348623157e308)
def test_a_number_is_written_exactly_and_without_an_exponent(value):
    text = render_number(value)
    assert float(text) == value
    assert set(text) <= set("-.0123456789")


@given(st.text(max_size=20))
def test_labels_and_units_that_pass_can_be_written_and_read(text):
    if is_label(text):
        assert parse_perfdata(render_perfdata((PerfDatum(text, 1.0),))) == (PerfDatum(text, 1.0),)
    if is_unit(text):
        assert parse_perfdata(render_perfdata((PerfDatum("a", 1.0, text),))) == (PerfDatum("a", 1.0, text),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("a\nb", False), ("a\tb", False), ("a b", True), ("é", True), ("a" * 256, True), ("a" * 257, False)],
)
def test_a_label_is_one_printable_line(text, expected):
    assert is_label(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), ("%", True), ("5", False), ("a b", False), (";1", False), ("e5", False), ("-", False), ("s=", False)],
)
def test_a_unit_is_a_word(text, expected):
    assert is_unit(text) is expected
