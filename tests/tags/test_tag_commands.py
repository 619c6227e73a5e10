"""``pps-agent tag …``: what the commands say and do, beside what every command does (tests/loop/test_cli.py)."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.tags.test_lcg_tags import BIN, HOST, SC1, SC2, Tools


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def test_tags_are_added_with_an_end_replaced_and_shown_with_all_that_is_known(tools: Tools) -> None:
    assert tools.shell("pps-agent tag add VO-dteam-a --vo dteam --expires 2099-01-01 --reason 'for tests'").code == 0
    assert tools.shell(f"pps-agent tag add VO-dteam-b --vo dteam --sc {SC1}").code == 0
    tools.write("VO-cms-old\n", vo="cms")
    rows = json.loads(tools.shell("pps-agent tag list --long --output json").out)
    assert [(row["tag"], row["subcluster"], row["state"], row["expires"][:10]) for row in rows] == [
        ("VO-cms-old", SC1, "", ""),
        ("VO-dteam-a", SC1, "installedverified", "2099-01-01"),
        ("VO-dteam-b", SC1, "", ""),
        ("VO-dteam-a", SC2, "installedverified", "2099-01-01"),
    ]
    assert rows[0]["set"] == "not by this program"
    assert rows[1]["set"].endswith("pps-agent tag add")
    assert (
        tools.shell("pps-agent tag replace VO-dteam-a VO-dteam-c --vo dteam").out
        == "added VO-dteam-c\nremoved VO-dteam-a\n"
    )
    assert tools.read(SC2) == "VO-dteam-c\n"


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_too_narrow_for_the_table_gets_a_block_for_each_tag(tools: Tools, columns: int) -> None:
    tools.shell(f"pps-agent tag add VO-dteam-a --vo dteam --sc {SC1} --expires 2099-01-01")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [f"{BIN}/pps-agent", "tag", "list", "--long"]
    subprocess.run(command, env=tools.env, stdin=theirs, stdout=theirs, timeout=30, check=True)
    lines = os.read(ours, 4096).decode().splitlines()
    os.close(theirs)
    os.close(ours)
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines] == (
        ["VO-dteam-a", "state", "expires", "set"] if columns == 80 else ["TAG", "VO-dteam-a"]
    )


def test_tags_come_from_a_file_or_from_stdin(tools: Tools) -> None:
    said = tools.shell("pps-agent tag add --vo dteam --file -", "# mine\nVO-dteam-a VO-dteam-b\n")
    assert (said.code, said.out) == (0, "added VO-dteam-a\nadded VO-dteam-b\n")
    said = tools.shell("pps-agent tag remove --vo dteam")
    assert (said.code, "give tags, or --file" in said.err) == (2, True)


def test_expired_tags_are_gone_at_once_and_cleaned_away(tools: Tools) -> None:
    said = tools.shell("pps-agent tag add VO-dteam-a VO-dteam-b --vo dteam --expires 2001-01-01")
    assert (said.code, "warning: --expires 2001-01-01T00:00 is over" in said.err) == (0, True)
    assert tools.shell("pps-agent tag list").out == ""
    assert tools.shell("pps-agent tag ldif").out == ""
    assert tools.read() == "VO-dteam-a\nVO-dteam-b\n"
    assert (
        tools.shell("pps-agent tag clean --dry-run").out == "dry run: removed VO-dteam-a\ndry run: removed VO-dteam-b\n"
    )
    assert json.loads(tools.shell("pps-agent tag clean --output json").out)["removed"] == ["VO-dteam-a", "VO-dteam-b"]
    assert tools.read() == ""


def test_a_site_switches_from_the_old_tools_in_place(tools: Tools) -> None:
    path = tools.write("# by hand\nVO-dteam-a odd VO-dteam-b")
    before = path.read_bytes()
    assert (
        tools.shell("pps-agent tag adopt --dry-run").out
        == "dry run: on record VO-dteam-a\ndry run: on record VO-dteam-b\n"
    )
    assert tools.shell("pps-agent tag audit").out == ""
    assert tools.shell("pps-agent tag adopt").out == "on record VO-dteam-a\non record VO-dteam-b\n"
    assert path.read_bytes() == before
    said = tools.shell("pps-agent tag list --long")
    assert said.out.count("before us, seen ") == 2
    assert tools.shell("pps-agent tag adopt").out == "nothing to do\n"


def test_the_log_is_shown_and_a_changed_byte_in_it_is_found(tools: Tools) -> None:
    for name in "abc":
        assert tools.shell(f"pps-agent tag add VO-dteam-{name} --vo dteam --sc {SC1}").code == 0
    said = tools.shell("pps-agent tag audit --verify")
    assert (said.code, said.out.startswith("dteam: whole, 3 changes, head ")) == (0, True)
    head = said.out.split()[-1]
    assert head.startswith("3:")
    assert tools.shell(f"pps-agent tag audit --vo dteam --verify --head {head}").code == 0
    assert tools.shell(f"pps-agent tag audit --verify --head {head}").code == 2
    log = tools.tags / ".pps-tags" / "dteam" / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"VO-dteam-b", b"VO-dteam-x"))
    said = tools.shell("pps-agent tag audit --verify")
    assert (said.code, said.out) == (1, "")
    assert "audit.jsonl: line 3: does not follow the one before: line 2 was changed" in said.err
    said = tools.shell("pps-agent tag audit --verify --output json")
    assert (said.code, json.loads(said.out)["dteam"]["entries"]) == (1, 2)
    log.unlink()  # and written anew, so that it is whole
    for name in "xyz":
        assert tools.shell(f"pps-agent tag add VO-dteam-{name} --vo dteam --sc {SC1}").code == 0
    assert tools.shell("pps-agent tag audit --vo dteam --verify").code == 0
    said = tools.shell(f"pps-agent tag audit --vo dteam --verify --head {head}")
    assert (said.code, "line 3: is not the one that once was its last" in said.err) == (1, True)


def test_a_host_is_no_subcluster_for_the_agents_own_command(tools: Tools) -> None:
    said = tools.shell(f"pps-agent tag list --sc {HOST}")
    assert (said.code, "is not a subcluster of this site" in said.err) == (2, True)


def test_a_fault_that_concerns_no_tag_stops_no_tag_command(tools: Tools) -> None:
    tools.write("VO-dteam-a\n")
    with tools.config.open("a") as settings:
        settings.write("cache = '.'\n[probes]\ntimeout_s = 'soon'\n")
    published = tools.shell("pps-agent tag ldif")
    assert (published.code, published.out.count(": VO-dteam-a"), published.err) == (0, 1, "")
    assert tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-b").code == 0
    said = tools.shell("pps-agent config check")
    assert (said.code, "probes.timeout_s: 'soon' must be a whole number" in said.err) == (78, True)


def test_one_vos_list_that_cannot_be_read_hides_and_hinders_no_other_vos(tools: Tools) -> None:
    assert tools.shell("pps-agent tag add VO-dteam-old --vo dteam --expires 2001-01-01").code == 0
    assert tools.shell("pps-agent tag add VO-dteam-a --vo dteam").code == 0
    (tools.tags / SC1 / "cms" / "cms.list").mkdir(parents=True)
    for command, expected in (
        ("list", "VO-dteam-a\n"),
        ("list --output json", json.dumps({SC1: ["VO-dteam-a"], SC2: ["VO-dteam-a"]}, indent=2) + "\n"),
        ("clean", "removed VO-dteam-old\n"),
    ):
        said = tools.shell(f"pps-agent tag {command}")
        assert (said.code, said.out, said.err.count("not a regular file")) == (3, expected, 1), command
    assert tools.shell("pps-agent tag list --vo dteam").code == 0


@pytest.mark.parametrize("end", ["0001-01-01", "9999-12-31T23:59"])
@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT-14", "Etc/GMT+12"])
def test_an_end_at_the_calendars_end_is_taken_or_refused(tools: Tools, end: str, zone: str) -> None:
    said = tools.shell(f"pps-agent tag add VO-dteam-a --vo dteam --expires {end}", TZ=zone)
    assert said.code == 0 or (said.code == 2 and "beyond the calendar" in said.err), said.err
    for line in ("list --long", "render --format json"):
        said = tools.shell(f"pps-agent tag {line}", TZ=zone)
        assert said.code == 0, said.err
