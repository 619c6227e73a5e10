"""The text of a tag list: tables and properties over any bytes."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pps_agent.tags import listing
from pps_wire.errors import WireError
from pps_wire.names import Tag, Vo, parse_tag

DTEAM = Vo("dteam")
A, B, C = Tag("VO-dteam-a"), Tag("VO-dteam-b"), Tag("VO-dteam-c")

suffixes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
tags = suffixes.map(lambda suffix: Tag(f"VO-dteam-{suffix}"))
pieces = st.one_of(
    tags.map(lambda tag: tag.encode()),
    st.sampled_from(
        [b" ", b"\n", b"\t", b"\r\n", b"#", b"# note\n", b"GLITE-3_2_0", b"VO-cms-x", b"VO-dteam-!!", b"\xff"]
    ),
    st.binary(max_size=6),
)
contents = st.lists(pieces, max_size=12).map(b"".join)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ()),
        (b"VO-dteam-a\n", (A,)),
        (b"VO-dteam-a VO-dteam-b\nVO-dteam-c", (A, B, C)),
        (b"# VO-dteam-a\n\n  \nVO-dteam-b\n", (B,)),
        (b"  # VO-dteam-a\nVO-dteam-b", (B,)),
        (b"VO-dteam-b\r\nVO-dteam-a\r\n", (B, A)),
        (b"VO-dteam-a\nVO-dteam-a\n", (A,)),
        (b"\xef\xbb\xbfVO-dteam-a\n", (A,)),
        (b"VO-dteam-!! VO-cms-x GLITE-3_2_0 VO-dteam-a \xff\xfe VO-dteam-b", (A, B)),
        (b"\x00VO-dteam-a\nVO-dteam-b", (B,)),
    ],
)
def test_a_list_is_read_as_other_tools_read_it(content: bytes, expected: tuple[Tag, ...]) -> None:
    assert listing.parse_tags(content, DTEAM) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"VO-dteam-a\n", b""),
        (b"VO-dteam-a", b""),
        (b"VO-dteam-b VO-dteam-a", b"VO-dteam-b\n"),
        (b"VO-dteam-a   VO-dteam-b\tVO-dteam-c \n", b"VO-dteam-b\tVO-dteam-c \n"),
        (b"VO-dteam-b  VO-dteam-a\tVO-dteam-c\n", b"VO-dteam-b\tVO-dteam-c\n"),
        (b"# VO-dteam-a\nVO-dteam-a\n\xff VO-dteam-!!\n", b"# VO-dteam-a\n\xff VO-dteam-!!\n"),
        (b"\xef\xbb\xbfVO-dteam-a\nVO-dteam-b", b"\xef\xbb\xbfVO-dteam-b\n"),
        (b"VO-dteam-b", b"VO-dteam-b"),
    ],
)
def test_removing_a_tag_touches_nothing_else(content: bytes, expected: bytes) -> None:
    assert listing.without_tags(content, [A]) == expected


def test_a_tag_is_appended_on_a_line_of_its_own_even_after_a_line_without_newline() -> None:
    assert listing.with_tags(b"# mine\nVO-dteam-a", [B, C]) == b"# mine\nVO-dteam-a\nVO-dteam-b\nVO-dteam-c\n"


@given(
    words=st.lists(
        st.one_of(tags, pieces.map(lambda piece: piece.decode("latin-1")), st.text("VO-dteam.\xa0\x1c", max_size=12))
    )
)
@example(
    words=[
        "VO-dteam-" + "a" * 246,
        "VO-dteam-" + "a" * 247,
        "xVO-dteam-a",
        "VO-dteam-",
        "VO-dteam-a\xa0",
        "\x0bVO-dteam-b",
    ]
)
def test_what_is_found_in_bulk_is_what_the_parser_of_one_tag_takes(words: list[str]) -> None:
    content = " ".join(words).encode("latin-1")
    found = {}
    for token in listing.parse_tokens(content):
        with contextlib.suppress(WireError):
            found[parse_tag(token.decode("latin-1"), DTEAM)] = None
    assert listing.parse_tags(content, DTEAM) == tuple(found)


@given(st.binary())
def test_any_bytes_can_be_read(content: bytes) -> None:
    found = listing.parse_tags(content, DTEAM)
    assert len(set(found)) == len(found)


@given(content=contents, some=st.lists(tags, max_size=3))
def test_a_tag_is_present_when_it_is_among_those_that_are_read(content: bytes, some: list[Tag]) -> None:
    asked = [*some, *listing.parse_tags(content, DTEAM)]
    assert listing.find_present(content, asked) == set(asked) & set(listing.parse_tags(content, DTEAM))


@given(content=contents, wanted=st.lists(tags, min_size=1, max_size=3, unique=True))
def test_what_is_added_is_read_back_and_all_old_bytes_stay(content: bytes, wanted: list[Tag]) -> None:
    after = listing.with_tags(content, wanted)
    assert after.startswith(content)
    assert after.endswith(b"\n")
    assert set(listing.parse_tags(after, DTEAM)) == {*listing.parse_tags(content, DTEAM), *wanted}


@given(content=contents, unwanted=st.lists(tags, min_size=1, max_size=3, unique=True))
def test_what_is_removed_is_gone_and_all_other_tokens_stay_in_order(content: bytes, unwanted: list[Tag]) -> None:
    after = listing.without_tags(content, unwanted)
    gone = {tag.encode() for tag in unwanted}
    assert listing.parse_tokens(after) == tuple(t for t in listing.parse_tokens(content) if t not in gone)
    comments = [line for line in content.split(b"\n") if line.lstrip().startswith(b"#")]
    assert [line for line in after.split(b"\n") if line.lstrip().startswith(b"#")] == comments


@given(content=contents, new=tags)
def test_adding_and_removing_gives_the_old_list_with_a_final_newline(content: bytes, new: Tag) -> None:
    if new.encode() in listing.parse_tokens(content):
        return
    back = listing.without_tags(listing.with_tags(content, [new]), [new])
    assert back == (content if not content or content.endswith(b"\n") else content + b"\n")


def test_a_case_variant_is_found_also_among_tokens_that_are_no_tags() -> None:
    tokens = listing.parse_tokens(b"GLITE-3 vo-dteam-A VO-dteam-a")
    assert listing.find_variant([B, A], tokens) == (A, "vo-dteam-A")
    assert listing.find_variant([B], tokens) is None
