"""LDIF for the BDII plugin: what slapd and bdii-update can take, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.tags import glue1
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag

SC1 = Subcluster("ce01.example.org")
DN = "GlueSubClusterUniqueID=ce01.example.org,GlueClusterUniqueID=ce01.example.org,mds-vo-name=resource,o=grid"


def test_the_usual_dn_names_subcluster_and_cluster_below_the_resource() -> None:
    assert glue1.subcluster_dn(SC1) == DN
    assert glue1.subcluster_dn(SC1, "cl", "mds-vo-name=s,o=grid") == (
        "GlueSubClusterUniqueID=ce01.example.org,GlueClusterUniqueID=cl,mds-vo-name=s,o=grid"
    )


def test_tags_are_added_sorted_and_once_whatever_their_letter_case() -> None:
    tags = [Tag("VO-dteam-b"), Tag("VO-dteam-B"), Tag("VO-dteam-a")]
    assert glue1.render_glue1(DN, tags) == (
        f"dn: {DN}\n"
        "changetype: modify\n"
        "add: GlueHostApplicationSoftwareRunTimeEnvironment\n"
        "GlueHostApplicationSoftwareRunTimeEnvironment: VO-dteam-B\n"
        "GlueHostApplicationSoftwareRunTimeEnvironment: VO-dteam-a\n"
        "\n"
    )


def test_no_tags_give_no_text() -> None:
    assert glue1.render_glue1(DN, []) == ""


@pytest.mark.parametrize("dn", ["", "no equals sign", "a=b\nobjectClass: x", "cn=ä", "cn=x\n", " cn=x"])
def test_a_dn_that_would_break_the_text_is_refused(dn: str) -> None:
    with pytest.raises(WireError, match="static LDIF"):
        glue1.render_glue1(dn, [Tag("VO-dteam-a")])


@given(
    st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["VO-x-dn:y", "VO-a-b", "VO-A-B", ": x", "<x"])).map(Tag))
)
def test_whatever_stands_in_the_set_the_text_is_ascii_and_holds_one_entry(tags: list[Tag]) -> None:
    text = glue1.render_glue1(DN, tags)
    assert text.isascii()
    if text:
        assert text.endswith("\n\n")
        assert text.lower().count("dn:") == 1
        values = glue1.parse_glue1(text)[DN]
        assert set(values) <= set(tags)
        assert len({value.lower() for value in values}) == len(values)
        assert len(text.split("\n")) == len(values) + 5


@given(st.text())
def test_any_text_can_be_read_back(text: str) -> None:
    assert isinstance(glue1.parse_glue1(text), dict)


def test_folded_lines_and_several_entries_are_read_back() -> None:
    text = f"dn: a=1\n{glue1.ATTRIBUTE}: VO-dteam-lo\n ng\ncn: x\n\ndn: a=2\n{glue1.ATTRIBUTE.lower()}: VO-dteam-b\n\n"
    assert glue1.parse_glue1(text) == {"a=1": ("VO-dteam-long",), "a=2": ("VO-dteam-b",)}
