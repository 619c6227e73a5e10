"""Names: ids that read one way only, tags by their grammar, versions in RPM's order, the classifier's table."""

import re
import string
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pps_wire import names
from pps_wire.classify import classify_client
from pps_wire.errors import WireError
from pps_wire.names import Vo, expand_tag, format_release_id, parse_release_id, parse_tag, version_key
from pps_wire.release import Changes, ConfigStep, Flag, ReleaseClass

SMALL = settings(deadline=None, max_examples=100)
COMPONENTS = st.from_regex(names.COMPONENT_PATTERN)
VERSIONS = st.from_regex(names.VERSION_PATTERN)
PLATFORMS = st.from_regex(names.PLATFORM_PATTERN)
TRICKY_COMPONENTS = st.lists(
    st.sampled_from(["a", "x86_64", "glibc2.36", "1.0", "noarch", "glibc2.36.1"]), min_size=1, max_size=4
).map("-".join)
TRICKY_VERSIONS = st.sampled_from(["1.0", "x86_64", "glibc2.36", "noarch", "a"])
TRICKY_PLATFORMS = st.sampled_from(
    ["x86_64-glibc2.36", "x86_64-glibc2.36-glibc2.36", "noarch-glibc2.36-x86_64", "x86_64-glibc2.36-a"]
)


def readings(identifier: str) -> list[tuple[str, str, str]]:
    """Every way to cut an id into three valid parts."""
    cuts = [index for index, character in enumerate(identifier) if character == "-"]
    parts = [
        (identifier[:first], identifier[first + 1 : second], identifier[second + 1 :])
        for first in cuts
        for second in cuts
        if first < second
    ]
    patterns = (names.COMPONENT_PATTERN, names.VERSION_PATTERN, names.PLATFORM_PATTERN)
    return [part for part in parts if all(re.search(*pair) for pair in zip(patterns, part, strict=True))]


@SMALL
@given(
    component=st.one_of(COMPONENTS, TRICKY_COMPONENTS),
    version=st.one_of(VERSIONS, TRICKY_VERSIONS),
    platform=st.one_of(PLATFORMS, TRICKY_PLATFORMS),
)
def test_an_id_reads_one_way_only_so_no_two_releases_share_one(component, version, platform):
    identifier = format_release_id(component, version, platform)
    assert readings(identifier) == [(component, version, platform)]
    assert parse_release_id(identifier) == identifier
    assert len(identifier.encode()) <= 255


@SMALL
@given(identifier=st.from_regex(names.RELEASE_ID_PATTERN))
def test_every_valid_id_is_one_of_a_release(identifier):
    assert len(readings(identifier)) == 1


# --- tags ------------------------------------------------------------------------------------------

VOS = st.one_of(
    st.sampled_from([Vo("dteam"), Vo("vo.example.org"), Vo("a-b")]), st.from_regex(names.VO_PATTERN).map(Vo)
)
FIRST = string.ascii_letters + string.digits
REST = FIRST + "._-"


def is_tag(text: str, vo: str) -> bool:
    """The documented grammar, read without regular expressions."""
    prefix, suffix = text[: len(vo) + 4], text[len(vo) + 4 :]
    return (
        prefix == f"VO-{vo}-"
        and len(text) <= 255
        and suffix[:1] != ""
        and suffix[0] in FIRST
        and all(character in REST for character in suffix)
    )


@SMALL
@given(
    vo=VOS,
    text=st.one_of(
        st.text(max_size=12),
        st.text(alphabet=REST + " /:=\n\r\tß\uff21", max_size=12),
        st.text(alphabet=REST, min_size=230, max_size=300),
    ),
    prefix=st.sampled_from(["VO-{}-", "vo-{}-", "VO-{}", "VO-other-", "", "VO--"]),
)
@example(vo=Vo("dteam"), text="pps-6.1.0\n", prefix="VO-{}-")
@example(vo=Vo("dteam"), text="٣", prefix="VO-{}-")
@example(vo=Vo("dteam"), text="a" * 246, prefix="VO-{}-")
@example(vo=Vo("dteam"), text="a" * 247, prefix="VO-{}-")
def test_a_tag_is_accepted_exactly_by_its_grammar(vo, text, prefix):
    tag = prefix.format(vo) + text
    try:
        accepted = parse_tag(tag, vo) == tag
    except WireError:
        accepted = False
    assert accepted == is_tag(tag, vo)


@SMALL
@given(suffix=st.from_regex(names.SUFFIX_PATTERN), vo=VOS)
def test_every_tag_suffix_expands_for_every_vo(suffix, vo):
    assert expand_tag(suffix, vo) == f"VO-{vo}-{suffix}"


@pytest.mark.parametrize("suffix", ["", " ", "a b", "-a", ".a", "a/b", "a\n", "é", "a" * 300, "a:b"])
def test_a_suffix_that_makes_no_tag_is_refused(suffix):
    with pytest.raises(WireError, match=r"write VO-dteam-|at most 255"):
        expand_tag(suffix, Vo("dteam"))


# --- versions --------------------------------------------------------------------------------------

ORDERED = [
    ["0.9", "1.0~alpha", "1.0~beta1", "1.0~rc1~1", "1.0~rc1", "1.0~rc2", "1.0~rc10", "1.0", "1.0a", "1.0b", "1.0.1"],
    ["1.0.1", "1.0.2", "1.0.9", "1.0.10", "1.1", "1.9", "1.10", "2", "10.0", "20261122", "99999999999999999999"],
    ["a", "b", "1", "1.a", "1.1"],
    ["1~~", "1~", "1~1", "1", "1a~", "1a"],
]


def compare(one: str, two: str) -> int:
    """rpmvercmp, written from RPM's description of it: rpm-version(7), section "Comparison"."""
    while True:
        one, two = (re.sub(r"^[^A-Za-z0-9~]+", "", text) for text in (one, two))
        if one.startswith("~") or two.startswith("~"):
            if not one.startswith("~"):
                return 1
            if not two.startswith("~"):
                return -1
            one, two = one[1:], two[1:]
            continue
        if not one or not two:
            return (one > two) - (one < two)
        kind = r"[0-9]+" if one[0].isdigit() else r"[A-Za-z]+"
        first, second = re.match(kind, one), re.match(kind, two)
        assert first is not None
        if second is None:
            return 1 if one[0].isdigit() else -1
        left, right = (int(part[0]) if part[0].isdigit() else part[0] for part in (first, second))
        if left != right:
            return 1 if left > right else -1
        one, two = one[first.end() :], two[second.end() :]


@pytest.mark.parametrize("versions", ORDERED)
def test_versions_stand_in_the_order_people_expect(versions):
    assert sorted(versions, key=version_key) == versions
    assert all(version_key(one) < version_key(two) for one, two in pairwise(versions))


@SMALL
@given(
    one=st.one_of(VERSIONS, st.text(alphabet="019aA~._+", min_size=1, max_size=8)),
    two=st.one_of(VERSIONS, st.text(alphabet="019aA~._+", min_size=1, max_size=8)),
)
def test_the_order_is_rpm_s_and_total(one, two):
    left, right = version_key(one), version_key(two)
    assert (left > right) - (left < right) == compare(one, two)
    assert (left == right) + (left < right) + (left > right) == 1


# --- the classifier --------------------------------------------------------------------------------

STEP = ConfigStep(id="open-port", text="open port 1094")
TABLE = [
    (Changes(), (), []),
    (Changes(variables_old={"A": "1"}, variables_new={"A": "1"}), (), []),
    (Changes(flags={Flag.ENVIRONMENT_CHANGE: False, Flag.NEW_FUNCTIONALITY: True, Flag.SCHEMA_CHANGE: True}), (), []),
    (Changes(effort_ph=160, effort_validated=True), (), []),
    (Changes(variables_new={"A": "1"}), (), ["adds variable A"]),
    (Changes(variables_old={"A": "1"}), (), ["removes variable A"]),
    (Changes(variables_old={"A": "1"}, variables_new={"A": "2"}), (), ["changes variable A"]),
    (Changes(variables_old={"A": ""}, variables_new={"A": " "}), (), ["changes variable A"]),
    (Changes(), (STEP,), ["needs configuration step open-port"]),
    (Changes(flags={Flag.ENVIRONMENT_CHANGE: True}), (), ["flagged environment-change"]),
    (Changes(flags={Flag.OLD_SERVERS_INCOMPATIBLE: True}), (), ["flagged old-servers-incompatible"]),
    (
        Changes(
            variables_old={"B": "1", "C": "1"},
            variables_new={"C": "2", "A": "1"},
            flags={Flag.OLD_SERVERS_INCOMPATIBLE: True, Flag.ENVIRONMENT_CHANGE: True},
        ),
        (STEP,),
        [
            "adds variable A",
            "removes variable B",
            "changes variable C",
            "needs configuration step open-port",
            "flagged environment-change",
            "flagged old-servers-incompatible",
        ],
    ),
]


@pytest.mark.parametrize(("changes", "steps", "reasons"), TABLE)
def test_a_client_update_is_classified_with_every_reason(changes, steps, reasons):
    classified = classify_client(changes, steps)
    assert list(classified.reasons) == reasons
    assert classified.class_ is (ReleaseClass.CLIENT_NBC if reasons else ReleaseClass.CLIENT_BC)


VARIABLES = st.dictionaries(st.sampled_from("ABC"), st.sampled_from("12"))
FLAGS = st.dictionaries(st.sampled_from(Flag), st.booleans())


@SMALL
@given(old=VARIABLES, new=VARIABLES, flags=FLAGS, steps=st.lists(st.just(STEP), max_size=1).map(tuple))
def test_an_update_is_compatible_only_if_nothing_of_the_description_says_otherwise(old, new, flags, steps):
    class_ = classify_client(Changes(variables_old=old, variables_new=new, flags=flags), steps).class_
    forced = old != new or steps or flags.get(Flag.ENVIRONMENT_CHANGE) or flags.get(Flag.OLD_SERVERS_INCOMPATIBLE)
    assert (class_ is ReleaseClass.CLIENT_NBC) == bool(forced)


@SMALL
@given(old=VARIABLES, new=VARIABLES)
def test_no_reason_is_told_twice(old, new):
    assume(old != new)
    reasons = classify_client(Changes(variables_old=old, variables_new=new), ()).reasons
    assert len(set(reasons)) == len(reasons)
