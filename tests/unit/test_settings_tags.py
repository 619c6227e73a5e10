"""What tag commands read of the settings: the same as everybody, and no more than concerns tags."""

from dataclasses import fields
from pathlib import Path

import pytest

from pps_agent.errors import ConfigError
from pps_agent.settings import Settings
from pps_agent.settings_file import load_settings
from pps_agent.settings_tags import OTHER_SECTIONS, TagSettings
from pps_agent.settings_tags_file import load_tag_settings
from tests.unit.test_settings_file import MINIMAL, write

OURS = {field.name for field in fields(TagSettings)}
ALL_SET = """\
subclusters = ["ce01"]
hosts = ["ce"]
[paths]
tags = "tags"
cache = "cache"
[infosys]
url = "ldap://bdii"
service = "s"
ldif = "a.ldif"
[preproduction]
subclusters = ["pps01"]
tags = "pre"
url = "ldap://pps-bdii"
"""
TEXT = MINIMAL.replace("[repository]", ALL_SET + "[repository]")


def faults_of(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_tag_settings(path)
    return caught.value.faults


def test_every_section_is_read_or_known_to_be_passed_over() -> None:
    assert {field.name for field in fields(Settings)} == OURS | OTHER_SECTIONS
    assert not OURS & OTHER_SECTIONS


def test_what_is_read_is_what_everybody_reads(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT, more='[site]\nhosts = ["other"]\n')
    whole, part = load_settings(path).settings, load_tag_settings(path)
    assert {name: getattr(whole, name) for name in OURS} == {name: getattr(part, name) for name in OURS}


@pytest.mark.parametrize("fault", ["[probes]\nretry_s = 'x'", "[store]\nkeeep = 1", "[production.x]\n", "probes = 3"])
def test_a_fault_in_another_section_is_everybody_elses(tmp_path: Path, fault: str) -> None:
    path = write(tmp_path, f"{fault}\n{TEXT}")
    with pytest.raises(ConfigError):
        load_settings(path)
    assert load_tag_settings(path).site.subclusters == ("ce01",)


@pytest.mark.parametrize(
    "fault",
    [
        "[path]\ntags = 'elsewhere'",
        "[paths]\ntag = 'elsewhere'",
        "[infosys]\ntimeout_s = 0",
        "[infosys]\nurl = 'http://x'",
        "[preproduction]\nsubclusters = ['ce01']",
        "[preproduction]\nldif = 'x.txt'",
        "[site]\nvos = []",
        "no toml",
    ],
)
def test_a_fault_in_ours_is_told_as_to_everybody(tmp_path: Path, fault: str) -> None:
    path = write(tmp_path, TEXT, more=fault)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    told = [fault.partition("; known: ")[0] for fault in caught.value.faults]
    assert [fault.partition("; known: ")[0] for fault in faults_of(path)] == told
    assert faults_of(path)[0].startswith(f"{tmp_path}/conf.d/more.toml:")
