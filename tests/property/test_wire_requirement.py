"""Requirements of jobs: golden lines, read back by small parsers, judged by HTCondor's own matchmaker."""

import re
from collections.abc import Iterable
from pathlib import Path

import classad2
import htcondor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_wire import requirement
from pps_wire.errors import WireError
from pps_wire.names import MAX_TAG_LEN, Tag, Vo
from pps_wire.requirement import Form, find_vo, parse_rte_name, render_condition, render_requirement, rte_name

DTEAM = Vo("dteam")
TAG = "VO-dteam-pps-6.1.0"
NEIGHBOURS = ("VO-dteam-pps-6.1", "VO-dteam-pps-6.1.0.1", "VO-dteam-pps-6.1.0-rc1", "VO-ops-pps-6.1.0", "pps-6.1.0")
"""Prefixes, extensions and relatives of TAG: none of them is it."""
GOLDEN = {
    Form.JDL: 'Requirements = Member("VO-dteam-pps-6.1.0", other.GlueHostApplicationSoftwareRunTimeEnvironment);',
    Form.CLASSAD: 'requirements = stringListIMember("VO-dteam-pps-6.1.0", TARGET.PPS_TAGS)',
    Form.XRSL: '(runtimeenvironment="APPS/PPS/VO-dteam-pps-6.1.0")',
    Form.DIRAC: 'Tag = {"VO-dteam-pps-6.1.0"};',
    Form.SLURM: "#SBATCH --constraint=VO-dteam-pps-6.1.0",
}
CONDITIONS = {
    Form.JDL: 'Member("VO-dteam-pps-6.1.0", other.GlueHostApplicationSoftwareRunTimeEnvironment)',
    Form.CLASSAD: 'stringListIMember("VO-dteam-pps-6.1.0", TARGET.PPS_TAGS)',
    Form.XRSL: '(runtimeenvironment="APPS/PPS/VO-dteam-pps-6.1.0")',
    Form.DIRAC: '"VO-dteam-pps-6.1.0"',
    Form.SLURM: "VO-dteam-pps-6.1.0",
}
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "select-a-preview.md"
VOS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).map(Vo)
SUFFIXES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
SMALL = settings(deadline=None, max_examples=100)
STRING = r'"((?:[^"\\]|\\.)*)"'


def read_jdl(line: str) -> str:
    (text,) = re.fullmatch(rf"Requirements = Member\({STRING}, other\.\w+\);", line).groups()
    return re.sub(r"\\(.)", r"\1", text)


def read_classad(line: str) -> str:
    (text,) = re.fullmatch(rf"requirements = stringListIMember\({STRING}, TARGET\.\w+\)", line).groups()
    return re.sub(r"\\(.)", r"\1", text.replace("$(DOLLAR)", "$"))


def read_xrsl(line: str) -> str:
    (text,) = re.fullmatch(r'\(runtimeenvironment="((?:[^"]|"")*)"\)', line).groups()
    return text.replace('""', '"').removeprefix("APPS/PPS/")


def read_dirac(line: str) -> str:
    (text,) = re.fullmatch(r'Tag = \{"([^"]*)"\};', line).groups()
    return text


def read_slurm(line: str) -> str:
    (text,) = re.fullmatch(r"#SBATCH --constraint=([^&|()\[\]*,\s\"']+)", line).groups()
    return text


READERS = {
    Form.JDL: read_jdl,
    Form.CLASSAD: read_classad,
    Form.XRSL: read_xrsl,
    Form.DIRAC: read_dirac,
    Form.SLURM: read_slurm,
}


@pytest.mark.parametrize("form", Form)
def test_a_line_and_its_condition_are_as_the_system_reads_them(form):
    assert GOLDEN[form] == render_requirement(TAG, form, vo=DTEAM)
    assert CONDITIONS[form] == render_condition(TAG, form, vo=DTEAM)


@pytest.mark.parametrize("form", Form)
def test_the_how_to_shows_a_job_with_the_condition_and_one_without(form):
    name = {Form.JDL: "gLite", Form.CLASSAD: "HTCondor", Form.XRSL: "ARC", Form.DIRAC: "DIRAC", Form.SLURM: "Slurm"}[
        form
    ]
    section = PAGE.read_text().split(f"\n## {name}")[1].split("\n## ")[0]
    without, having = section.split("```")[1::2][:2]
    assert TAG not in without
    assert CONDITIONS[form] in having


@SMALL
@given(vo=VOS, suffix=SUFFIXES, form=st.sampled_from(Form))
def test_any_tag_is_read_back_from_any_form(vo, suffix, form):
    tag = f"VO-{vo}-{suffix}"
    if form is Form.DIRAC and len(tag) > requirement.MAX_DIRAC_TAG_LEN:
        with pytest.raises(WireError, match="DIRAC matches at most 64"):
            render_requirement(tag, form, vo=vo)
        return
    line = render_requirement(tag, form, vo=vo)
    assert tag == READERS[form](line)
    assert line.isascii()
    assert line.isprintable()


@SMALL
@given(text=st.one_of(st.text(max_size=30), st.text(max_size=10).map("VO-dteam-".__add__)), form=st.sampled_from(Form))
def test_any_other_text_is_refused_with_one_line(text, form):
    problem, line = "", ""
    try:
        line = render_requirement(text, form, vo=DTEAM)
    except WireError as exc:
        problem = str(exc)
    assert len(problem.splitlines()) == (0 if line else 1)
    assert not line or text == READERS[form](line)


@pytest.mark.parametrize(
    "text", ["", "VO-dteam-", "VO-ops-x", 'VO-dteam-"', "VO-dteam-a b", "VO-dteam-a\n", "VO-dteam-ä"]
)
@pytest.mark.parametrize("form", Form)
def test_what_is_no_tag_of_the_vo_is_refused_in_every_form(text, form):
    with pytest.raises(WireError, match=r"^tag: .*: write VO-dteam-<name> with letters, digits"):
        render_condition(text, form, vo=DTEAM)


def test_the_longest_tag_is_taken_but_for_dirac():
    tag = "VO-dteam-" + "x" * (MAX_TAG_LEN - 9)
    for form in set(Form) - {Form.DIRAC}:
        assert tag == READERS[form](render_requirement(tag, form, vo=DTEAM))
    assert read_dirac(render_requirement(tag[:64], Form.DIRAC, vo=DTEAM)) == tag[:64]
    for size in (65, MAX_TAG_LEN):
        with pytest.raises(WireError, match=f"has {size} characters, DIRAC matches at most 64"):
            render_requirement(tag[:size], Form.DIRAC, vo=DTEAM)


# The grammar of tags needs none of these; they hold for any text, so that a wider grammar finds them ready.


@SMALL
@given(text=PRINTABLE)
def test_a_quoted_string_is_read_back_by_the_classad_library(text):
    assert classad2.ExprTree(requirement.quote_classad(text)).eval() == text


@SMALL
@given(text=PRINTABLE.filter(lambda text: "\\" not in text))
def test_a_quoted_string_is_read_back_from_a_submit_file(text):
    submit = htcondor2.Submit(f"requirements = TARGET.A == {requirement.quote_submit(text)}\n")
    assert classad2.ExprTree(submit.expand("requirements").partition(" == ")[2]).eval() == text


@SMALL
@given(text=PRINTABLE)
def test_a_quoted_xrsl_string_holds_no_lone_quote(text):
    quoted = requirement.quote_xrsl(text)
    assert re.fullmatch(r'"(?:[^"]|"")*"', quoted)
    assert quoted[1:-1].replace('""', '"') == text


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        *(
            (quote, text)
            for quote in ("classad", "submit", "xrsl", "dirac", "slurm")
            for text in ("ä", "a\nb", "\0", "\x7f")
        ),
        ("submit", "a\\b"),
        *(("dirac", f"a{special}b") for special in '"\\,;{}[]= '),
        *(("slurm", f"a{special}b") for special in "&|()[]*,;:=\"'\\# "),
    ],
)
def test_what_a_language_cannot_hold_is_refused(quote, text):
    with pytest.raises(WireError, match="choose another tag"):
        getattr(requirement, f"quote_{quote}")(text)


def glue_site(tags: Iterable[str]) -> classad2.ClassAd:
    """A subcluster as gLite's matchmaker sees it: the attribute as a list."""
    listed = ", ".join(f'"{tag}"' for tag in tags)
    return classad2.parseOne(f"[{requirement.GLUE_ATTRIBUTE} = {{{listed}}}; Requirements = true]")


def condor_machine(tags: Iterable[str]) -> classad2.ClassAd:
    return classad2.parseOne(f'[{requirement.CONDOR_ATTRIBUTE} = "{",".join(tags)}"; Requirements = true]')


def jdl_job(line: str) -> classad2.ClassAd:
    return classad2.parseOne(f'[Executable = "/bin/true"; {line}]')


def condor_job(line: str) -> classad2.ClassAd:
    """A job as the submit file's own reader understands it."""
    submit = htcondor2.Submit(f"executable = /bin/true\n{line}\nqueue\n")
    return classad2.ClassAd({"Requirements": classad2.ExprTree(submit.expand("requirements"))})


MATCHMAKERS = [
    pytest.param(Form.JDL, jdl_job, glue_site, id="jdl"),
    pytest.param(Form.CLASSAD, condor_job, condor_machine, id="classad"),
]


@pytest.mark.parametrize(("form", "job", "machine"), MATCHMAKERS)
def test_a_matchmaker_takes_the_job_where_the_tag_is_and_nowhere_else(form, job, machine):
    asking = job(render_requirement(TAG, form, vo=DTEAM))
    assert asking.symmetricMatch(machine([TAG]))
    assert asking.symmetricMatch(machine(["GLITE-3_2_0", *NEIGHBOURS, TAG]))
    assert asking.symmetricMatch(machine([TAG.lower()]))  # GLUE compares without letter case too
    assert not asking.symmetricMatch(machine([]))
    assert not asking.symmetricMatch(classad2.parseOne("[Requirements = true]"))
    assert [tag for tag in NEIGHBOURS if asking.symmetricMatch(machine([tag]))] == []
    assert not asking.symmetricMatch(machine(NEIGHBOURS))


@pytest.mark.parametrize(("form", "job", "machine"), MATCHMAKERS)
@SMALL
@given(vo=VOS, tags=st.lists(SUFFIXES, max_size=6), wanted=SUFFIXES)
def test_a_matchmaker_agrees_for_any_tags(form, job, machine, vo, tags, wanted):
    there = [f"VO-{vo}-{suffix}" for suffix in tags]
    tag = f"VO-{vo}-{wanted}"
    asking = job(render_requirement(tag, form, vo=vo))
    assert asking.symmetricMatch(machine(there)) == (tag.lower() in {other.lower() for other in there})
    assert asking.symmetricMatch(machine([*there, tag]))


@pytest.mark.parametrize(("form", "job", "machine"), MATCHMAKERS)
def test_a_condition_is_joined_to_those_a_job_has(form, job, machine):
    own, end = ("other.Cpus >= 4", ";") if form is Form.JDL else ("TARGET.Cpus >= 4", "")
    asking = job(f"Requirements = {own} && {render_condition(TAG, form, vo=DTEAM)}{end}")
    site = machine([TAG])
    for cpus, matches in ((2, False), (8, True)):
        site["Cpus"] = cpus
        assert asking.symmetricMatch(site) == matches


def test_a_second_line_in_a_submit_file_replaces_the_first():
    job = condor_job("requirements = TARGET.Cpus >= 4\n" + render_requirement(TAG, Form.CLASSAD, vo=DTEAM))
    site = condor_machine([TAG])
    site["Cpus"] = 2
    assert job.symmetricMatch(site)


@SMALL
@given(vo=VOS, suffix=SUFFIXES)
def test_a_runtime_environment_leads_back_to_its_tag(vo, suffix):
    tag = Tag(f"VO-{vo}-{suffix}")
    name = rte_name(tag)
    assert parse_rte_name(name, vo) == tag
    *directories, file = name.split("/")
    assert directories == ["APPS", "PPS"]
    # What A-REX leaves out: RTEInfo.pm.
    assert not file.startswith(".")
    assert not file.endswith("~")
    # ARC's own cut and the way it is joined again: Software.cpp, ARC1ClusterInfo.pm.
    cut = re.fullmatch(r"(.*?)-([0-9].*)", name)
    assert name == ("-".join(cut.groups()) if cut else name)


def test_different_tags_have_different_runtime_environments():
    tags = [Tag(TAG), Tag("VO-a-b-c"), Tag("VO-a-b.c"), Tag("VO-a-B-c"), Tag("VO-3d.org-x-1.0")]
    assert len({rte_name(tag) for tag in tags}) == len(tags)


@pytest.mark.parametrize("text", ["", TAG, f"APPS/DTEAM/{TAG}", "APPS/PPS/", "APPS/PPS/VO-ops-x", f"apps/pps/{TAG}"])
def test_a_foreign_runtime_environment_stands_for_no_tag(text):
    with pytest.raises(WireError):
        parse_rte_name(text, DTEAM)


@pytest.mark.parametrize(
    ("tag", "vos", "expected"),
    [
        (TAG, ["ops", "dteam"], "dteam"),
        ("VO-vo.neugrid.eu-x", ["vo.neugrid.eu"], "vo.neugrid.eu"),
        ("VO-a-b-c", ["a", "a-b"], "a-b"),
        ("VO-a-b-c", ["a-b", "a"], "a-b"),
        ("VO-a-bc", ["a", "a-b"], "a"),
    ],
)
def test_the_longest_vo_that_fits_is_found(tag, vos, expected):
    assert find_vo(tag, [Vo(vo) for vo in vos]) == expected


@pytest.mark.parametrize(("tag", "vos"), [(TAG, []), (TAG, ["ops", "dtea"]), ("VO-dteam", ["dteam"]), ("", ["dteam"])])
def test_a_tag_of_no_known_vo_is_refused_with_those_known(tag, vos):
    with pytest.raises(WireError, match=f"a tag of none of these VOs: {', '.join(vos) or '-'}; name its VO"):
        find_vo(tag, [Vo(vo) for vo in vos])
