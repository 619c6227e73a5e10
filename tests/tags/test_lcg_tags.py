"""``lcg-ManageVOTag`` and ``lcg-tags`` as the certification tests and the experiments' scripts call them."""

import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SC1, SC2, HOST = "ce01.example.org", "ce02.example.org", "grid.example.org"
TWO = "VO-dteam-a VO-dteam-b"
BELLE = (
    f"lcg-ManageVOTag -host nowhere -vo dteam --add -tag {TWO} VO-dteam-c ||"
    f" lcg-tags --ce {HOST} --vo dteam --add --tags VO-dteam-a,VO-dteam-b,VO-dteam-c"
)
"""Whichever works."""
SETTINGS = f"""
[site]
name = "TEST"
vos = ["dteam", "cms"]
subclusters = ["{SC1}", "{SC2}"]
hosts = ["{HOST}"]
[repository]
url = "http://127.0.0.1:9/"
[paths]
tags = "tags"
global_tags = "everywhere"
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


class Tools:
    """The two commands over a tag base of their own."""

    def __init__(self, base: Path) -> None:
        self.tags = base / "tags"
        self.tags.mkdir()
        self.config = base / "agent.toml"
        self.config.write_text(SETTINGS)
        self.env = {"PATH": f"{BIN}:/usr/bin:/bin", "PPS_AGENT_CONFIG": str(self.config), "BASE": str(base)}

    def shell(self, line: str, given: str | None = None, **env: str) -> Said:
        """Run a line as a caller's script has it."""
        stdin = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            ["/bin/sh", "-c", line], env=self.env | env, capture_output=True, text=True, timeout=60, **stdin
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def read(self, subcluster: str = SC1, vo: str = "dteam") -> str:
        path = self.tags / subcluster / vo / f"{vo}.list"
        return path.read_text() if path.exists() else ""

    def write(self, content: str, subcluster: str = SC1, vo: str = "dteam") -> Path:
        path = self.tags / subcluster / vo / f"{vo}.list"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        return path

    def everything(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() for path in self.tags.rglob("*") if path.is_file() and path.suffix == ".list"
        }


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def test_a_list_is_bare_tags_one_a_line_in_file_order_and_nothing_else(tools: Tools) -> None:
    tools.write("# software of dteam\nVO-dteam-z VO-dteam-a\nVO-cms-odd nonsense\nVO-dteam-m")
    for line in (
        f"lcg-ManageVOTag -host {SC1} -vo dteam --list",
        f"lcg-ManageVOTag --host {SC1} --vo dteam -list",
        f"lcg-tags --sc {SC1} --vo dteam --list",
        f"lcg-tags --ce {HOST} --vo dteam --list",
        f"lcg-tags --ce {HOST} --vo dteam --list --verbose --debug",
    ):
        assert tools.shell(line) == Said(0, "VO-dteam-z\nVO-dteam-a\nVO-dteam-m\n", ""), line
    assert tools.shell(f"lcg-ManageVOTag -host {SC2} -vo dteam --list") == Said(0, "", "")


@pytest.mark.parametrize(
    "line",
    [
        f"lcg-ManageVOTag -host {HOST} -vo dteam --add -tag VO-dteam-a VO-dteam-b VO-dteam-c",
        f"lcg-ManageVOTag -vo dteam -host {HOST} -tag VO-dteam-a -tag VO-dteam-b VO-dteam-c --add",
        f"lcg-tags --ce {HOST} --vo dteam --add --tags VO-dteam-a,VO-dteam-b,VO-dteam-c",
        f"printf '# mine\\n{TWO}\\nVO-dteam-c' >$BASE/f; lcg-ManageVOTag -host {HOST} -vo dteam --add -file $BASE/f",
        f"printf '{TWO}\\nVO-dteam-c\\n' >$BASE/f; lcg-tags --ce {HOST} --vo dteam --add --tagfile $BASE/f",
        BELLE,
    ],
)
def test_all_ways_to_add_store_the_same_on_every_subcluster(tools: Tools, line: str) -> None:
    said = tools.shell(line)
    assert (said.code, said.out) == (0, ""), said
    assert tools.read(SC1) == tools.read(SC2) == "VO-dteam-a\nVO-dteam-b\nVO-dteam-c\n"


def test_one_subcluster_alone_is_changed_where_only_that_is_named(tools: Tools) -> None:
    assert tools.shell(f"lcg-tags --sc {SC2} --vo dteam --add --tags VO-dteam-a").code == 0
    assert (tools.read(SC1), tools.read(SC2)) == ("", "VO-dteam-a\n")


def test_adding_what_is_there_is_done_and_touches_nothing(tools: Tools) -> None:
    path = tools.write("VO-dteam-a\n")
    os.utime(path, (1, 1))
    said = tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-a")
    assert said == Said(0, "", "lcg-ManageVOTag: already present: VO-dteam-a\n")
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("given", ["yes\n", "", None])
def test_a_removal_asks_nothing_whatever_stdin_is(tools: Tools, given: str | None) -> None:
    tools.write("VO-dteam-a\nVO-dteam-b\n")
    said = tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --remove -tag VO-dteam-a", given)
    assert (said.code, said.out, tools.read()) == (0, "", "VO-dteam-b\n")


def test_a_removal_from_a_terminal_asks_nothing(tools: Tools) -> None:
    tools.write("VO-dteam-a\n")
    ours, theirs = pty.openpty()
    command = [f"{BIN}/lcg-ManageVOTag", "-host", SC1, "-vo", "dteam", "--remove", "-tag", "VO-dteam-a"]
    done = subprocess.run(command, env=tools.env, stdin=theirs, stdout=theirs, stderr=theirs, timeout=30, check=False)
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, tools.read()) == (0, "")


def test_scripts_that_name_the_interpreter_and_answer_a_question_work_as_they_are(tools: Tools) -> None:
    """As ATLAS's do. perl starts the program that a first line names, where that is not perl."""
    tools.write("VO-dteam-a\n")
    said = tools.shell(f"echo yes | perl {BIN}/lcg-ManageVOTag -host {SC1} -vo dteam --remove -tag VO-dteam-a")
    assert (said, tools.read()) == (Said(0, "", ""), "")


def test_a_rename_is_one_step(tools: Tools) -> None:
    tools.write("VO-dteam-old VO-dteam-keep\n")
    rename = f"lcg-ManageVOTag -host {SC1} -vo dteam --replace -tag VO-dteam-old VO-dteam-new"
    assert tools.shell(rename).code == 0
    assert tools.read() == "VO-dteam-keep\nVO-dteam-new\n"
    before = tools.everything()
    said = tools.shell(rename)
    assert (said.code, tools.everything()) == (1, before)
    assert "not tagged VO-dteam-old" in said.err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag 'VO-tagname-!!'", 1, "is not a tag of VO dteam"),
        (f"lcg-tags --ce {SC1} --vo dteam --add --tags 'VO-dteam-!!'", 1, "is not a valid tag"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-ok VO-cms-x", 1, "is not a tag of VO dteam"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-A", 1, "differs from VO-dteam-a"),
        (f"lcg-ManageVOTag -host {SC1} -vo '../x' --add -tag VO-dteam-b", 1, "vo"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --remove -tag VO-dteam-no", 1, "not tagged VO-dteam-no"),
        ("lcg-ManageVOTag -host nowhere.org -vo dteam --list", 2, "neither a host nor a subcluster of this site"),
        ("lcg-ManageVOTag -host ../etc -vo dteam --add -tag VO-dteam-b", 2, "neither a host nor a subcluster"),
        (f"lcg-tags --sc {HOST} --vo dteam --list", 2, "neither a host nor a subcluster"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam", 2, "say what to do: --list, --add, --remove or --replace"),
        (f"lcg-tags --sc {SC1} --list", 2, "name the VO (--vo) and the target (--ce or --sc)"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --list --add -tag VO-dteam-b", 2, "exclude each other"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add", 2, "--add needs tags"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --replace -tag VO-dteam-a", 2, "takes -tag OLD NEW"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add -file /no/such", 2, "/no/such: No such file"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --add -file /", 2, "/: Is a directory"),
        (f"lcg-ManageVOTag -host {SC1} --list", 2, "name the VO"),
        (f"lcg-tags --ce {SC1} --sc {SC1} --vo dteam --list", 2, "exclude each other"),
        (f"lcg-ManageVOTag -host {SC1} -vo dteam --lis", 2, "there is no option --lis"),
        (f"lcg-ManageVOTag -config /no/such -host {SC1} -vo dteam --list", 78, "/no/such"),
    ],
)
def test_what_cannot_be_done_has_its_code_says_why_and_changes_nothing(
    tools: Tools, line: str, code: int, words: str
) -> None:
    tools.write("VO-dteam-a\n")
    before = tools.everything()
    said = tools.shell(line)
    assert (said.code, said.out) == (code, ""), said
    assert words in said.err
    assert "Traceback" not in said.err
    assert tools.everything() == before
    assert sorted(path.name for path in tools.tags.iterdir() if not path.name.startswith(".")) == [SC1]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfVO-dteam-b\r\nVO-dteam-c\r\n", b"VO-dteam-b\x0cVO-dteam-c"])
def test_files_of_other_systems_are_read(tools: Tools, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    assert tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -file $BASE/f").code == 0
    assert tools.read() == "VO-dteam-b\nVO-dteam-c\n"


@pytest.mark.parametrize("content", [b"VO-dteam-b\0", b"VO-dteam-\xe9", b"x" * 100_000, b"VO-dteam-" + b"a" * 300])
def test_a_file_with_one_bad_tag_adds_none(tools: Tools, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(b"VO-dteam-good\n" + content + b"\n")
    said = tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -file $BASE/f")
    assert (said.code, tools.read()) == (1, "")
    assert len(said.err) < 1000


def test_what_cannot_be_read_or_locked_is_3_and_nothing_is_changed(tools: Tools) -> None:
    tools.tags.rmdir()
    said = tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-a")
    assert (said.code, said.out) == (3, "")
    assert "the tag directory" in said.err or "tags does not exist" in said.err
    assert not tools.tags.exists()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "tr_TR.UTF-8"])
def test_any_locale_gives_the_same(tools: Tools, locale: str) -> None:
    line = f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-ISI && lcg-tags --ce {SC1} --vo dteam --list"
    assert tools.shell(line, LC_ALL=locale, LANG=locale) == Said(0, "VO-dteam-ISI\n", "")


def test_a_reader_that_goes_away_is_no_error(tools: Tools) -> None:
    tools.write("".join(f"VO-dteam-{number}\n" for number in range(50_000)))
    said = tools.shell(f"lcg-tags --ce {SC1} --vo dteam --list | head -n 1")
    assert said == Said(0, "VO-dteam-0\n", "")


def test_the_log_names_the_command(tools: Tools) -> None:
    tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam --add -tag VO-dteam-a")
    said = tools.shell("pps-agent tag audit")
    assert re.search(r"add by .*, lcg-ManageVOTag\n    ce01.example.org: \+VO-dteam-a\n", said.out), said


def test_help_is_there(tools: Tools) -> None:
    for program in ("lcg-ManageVOTag", "lcg-tags"):
        said = tools.shell(f"{program} --help")
        assert (said.code, said.err) == (0, "")
        assert "VO's tags" in said.out


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_channels_change_no_exit_code(tools: Tools, closed: str) -> None:
    for line, code in (
        ("--add -tag VO-dteam-a", 0),
        ("--add -tag VO-dteam-a", 0),
        ("--list", 0),
        ("--add -tag VO-ops-a", 1),
        ("--nothing", 2),
    ):
        assert tools.shell(f"lcg-ManageVOTag -host {SC1} -vo dteam {line} {closed}").code == code, line
    assert tools.read() == "VO-dteam-a\n"
