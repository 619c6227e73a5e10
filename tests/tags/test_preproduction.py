"""The pre-production information system beside production's: nothing of one ever shows in the other."""

import json
from pathlib import Path

import pytest

from tests.tags.test_lcg_tags import HOST, SC1, SC2, Said, Tools

PPS, PPS_HOST = "pps01.example.org", "pps-grid.example.org"
SECTION = f"""
[preproduction]
subclusters = ["{PPS}"]
hosts = ["{PPS_HOST}"]
tags = "tags-preproduction"
service = "pps-compute"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    for name in ("tags-preproduction", "cache"):
        (tmp_path / name).mkdir()
    made = Tools(tmp_path)
    made.config.write_text(made.config.read_text() + 'cache = "cache"\n' + SECTION)
    return made


def ok(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out


def test_a_tag_of_one_is_in_no_output_of_the_other(tools: Tools) -> None:
    ok(tools.shell("pps-agent tag add VO-dteam-ours --vo dteam"))
    ok(tools.shell("pps-agent tag add VO-dteam-theirs --vo dteam --preproduction"))
    commands = [
        "list",
        "list --long",
        "ldif",
        "render --format glue2 --service s",
        *(f"render --format {form}" for form in ("json", "condor", "condor-cron", "slurm")),
    ]
    for command in commands:
        for option, own, other in (("", "ours", "theirs"), (" --preproduction", "theirs", "ours")):
            said = ok(tools.shell(f"pps-agent tag {command}{option}"))
            assert (f"VO-dteam-{own}" in said, f"VO-dteam-{other}" in said) == (True, False), command + option
    assert "pps-agent tag add" in ok(tools.shell("pps-agent tag audit --preproduction"))
    assert ok(tools.shell("pps-agent tag audit --preproduction")).count("theirs") == 1
    assert "theirs" not in ok(tools.shell("pps-agent tag audit"))


def test_the_subclusters_name_says_which_one_is_meant(tools: Tools) -> None:
    ok(tools.shell(f"pps-agent tag add VO-dteam-a --vo dteam --sc {PPS}"))
    assert ok(tools.shell("pps-agent tag list")) == ""
    assert ok(tools.shell("pps-agent tag list --preproduction")) == "VO-dteam-a\n"
    assert PPS in ok(tools.shell(f"pps-agent tag ldif --sc {PPS}"))
    said = tools.shell(f"pps-agent tag add VO-dteam-a --vo dteam --sc {SC1} --preproduction")
    assert (said.code, f"known: {PPS}" in said.err) == (2, True)
    said = tools.shell("pps-agent tag add VO-dteam-a --vo dteam --sc nowhere")
    assert (said.code, f"known: {SC1}, {SC2}, {PPS}" in said.err) == (2, True)


def test_the_old_commands_reach_it_by_its_hosts_and_subclusters(tools: Tools) -> None:
    ok(tools.shell(f"lcg-ManageVOTag -host {PPS_HOST} -vo dteam --add -tag VO-dteam-a"))
    ok(tools.shell(f"lcg-tags --sc {PPS} --vo dteam --add --tags VO-dteam-b"))
    ok(tools.shell(f"lcg-tags --ce {HOST} --vo dteam --add --tags VO-dteam-c"))
    assert ok(tools.shell(f"lcg-tags --ce {PPS_HOST} --vo dteam --list")) == "VO-dteam-a\nVO-dteam-b\n"
    assert ok(tools.shell(f"lcg-ManageVOTag -host {HOST} -vo dteam --list")) == "VO-dteam-c\n"
    assert tools.shell(f"lcg-tags --sc {PPS_HOST} --vo dteam --list").code == 2


def test_a_case_variant_in_the_other_one_hinders_nothing(tools: Tools) -> None:
    ok(tools.shell("pps-agent tag add VO-dteam-A --vo dteam"))
    ok(tools.shell("pps-agent tag add VO-dteam-a --vo dteam --preproduction"))
    assert ok(tools.shell("pps-agent tag list --preproduction")) == "VO-dteam-a\n"


def test_what_was_last_known_of_one_is_never_printed_for_the_other(tools: Tools, tmp_path: Path) -> None:
    ok(tools.shell("pps-agent tag add VO-dteam-ours --vo dteam"))
    ok(tools.shell("pps-agent tag add VO-dteam-theirs --vo dteam --preproduction"))
    for option in ("", " --preproduction", f" --sc {SC1}", f" --sc {SC2}"):
        ok(tools.shell(f"pps-agent tag ldif{option}"))
    for base in ("tags", "tags-preproduction"):
        (tmp_path / base).rename(tmp_path / f"{base}-away")
    for option, own, other in (
        ("", "ours", "theirs"),
        (" --preproduction", "theirs", "ours"),
        (f" --sc {SC1}", "ours", "theirs"),
        (f" --sc {SC2}", "ours", "theirs"),
    ):
        said = tools.shell(f"pps-agent tag ldif{option}")
        assert ("does not exist" in said.err, own in said.out, other in said.out) == (True, True, False), option


def test_a_site_without_one_says_which_setting_makes_one(tmp_path: Path) -> None:
    said = Tools(tmp_path).shell("pps-agent tag list --preproduction")
    assert (said.code, "set preproduction.subclusters" in said.err) == (2, True)


def test_json_says_the_same(tools: Tools) -> None:
    ok(tools.shell("pps-agent tag add VO-dteam-theirs --vo dteam --preproduction"))
    assert json.loads(ok(tools.shell("pps-agent tag list --output json"))) == {SC1: [], SC2: []}
    assert json.loads(ok(tools.shell("pps-agent tag list --preproduction --output json"))) == {PPS: ["VO-dteam-theirs"]}
