"""Who may change tags once root ran ``pps-agent setup``: real processes of real accounts over one tag base."""

import json
import os
import stat
from pathlib import Path

import pytest

from pps_agent.acl import ACCESS, acl_of_mode, name_all, parse_acl, render_acl
from pps_agent.acl_files import load_acl
from tests.support.site_accounts import (
    AGENT,
    BIN,
    GIDS,
    MANAGER,
    OPS_MANAGER,
    PUBLISHER,
    SECOND,
    STRANGER,
    UIDS,
    Accounts,
    Said,
)

SC1, SC2, HOST = "ce01.example.org", "ce02.example.org", "grid.example.org"
SETTINGS = """
[site]
name = "TEST"
vos = ["dteam", "ops"]
subclusters = ["ce01.example.org", "ce02.example.org"]
hosts = ["grid.example.org"]
managers = { dteam = "dteamsgm", ops = "opssgm" }
[repository]
url = "http://127.0.0.1:9/"
[paths]
tags = "info"
global_tags = "global"
cache = "cache"
"""
READ, WRITE = 4, 6


class Head:
    """A site's head with a tag base that is root's."""

    def __init__(self, base: Path, settings: str = SETTINGS) -> None:
        self.accounts, self.base = Accounts(base), base
        self.tags, self.cache = base / "info", base / "cache"
        self.tags.mkdir(exist_ok=True)
        self.accounts.config.write_text(settings)

    def setup(self, *options: str, code: int = 0) -> Said:
        said = self.accounts.run("root", "pps-agent", "setup", *options)
        assert said.code == code, said
        return said

    def manage(self, user: str, verb: str, *tags: str, vo: str = "dteam") -> Said:
        given = ("-tag", *tags) if tags else ()
        return self.accounts.run(user, "lcg-ManageVOTag", "-host", HOST, "-vo", vo, f"--{verb}", *given)

    def tag(self, user: str, verb: str, *words: str) -> Said:
        return self.accounts.run(user, "pps-agent", "tag", verb, *words)

    def python(self, user: str, code: str, *words: str) -> Said:
        return self.accounts.run(user, str(BIN / "python"), "-c", code, *words)

    def list_path(self, subcluster: str = SC1, vo: str = "dteam") -> Path:
        return self.tags / subcluster / vo / f"{vo}.list"


@pytest.fixture
def head(public_directory: Path) -> Head:
    return Head(public_directory)


@pytest.fixture
def ready(head: Head) -> Head:
    head.setup("--publisher", PUBLISHER)
    return head


def rights(path: Path) -> tuple[int, str, dict[int, int]]:
    """Give a path's group, mode and named accounts."""
    status = path.lstat()
    try:
        named = dict(parse_acl(os.getxattr(path, ACCESS, follow_symlinks=False)).users)
    except OSError:
        named = {}
    return status.st_gid, f"{stat.S_IMODE(status.st_mode):04o}", named


def picture(base: Path) -> dict[str, object]:
    """Give all that can be seen below a directory, times left out."""
    found: dict[str, object] = {}
    for path in sorted(base.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path.relative_to(base))] = (path.lstat().st_uid, *rights(path), content)
    return found


OURS = (GIDS["dteamsgm"], "0664", {UIDS[AGENT]: 7})
"""A file in a directory of dteam's: what is handed down, and held by the mask to rw."""


def test_managers_and_the_agent_change_a_vos_tags_in_turn(ready: Head) -> None:
    writers = (MANAGER, AGENT, SECOND, "root")
    for number in range(12):
        user, other = writers[number % 4], writers[(number + 1) % 4]
        add, remove = (
            (ready.manage(user, "add", f"VO-dteam-{number}"), ready.manage(other, "remove", f"VO-dteam-{number}"))
            if number % 2
            else (
                ready.tag(user, "add", f"VO-dteam-{number}", "--vo", "dteam", "--expires", "2099-01-01"),
                ready.tag(other, "remove", f"VO-dteam-{number}", "--vo", "dteam"),
            )
        )
        assert (add.code, remove.code) == (0, 0), (user, other, add, remove)
        owner = other if other != "root" else user  # root alone may give files away, and so keeps the owner
        assert ready.list_path().stat().st_uid == UIDS[owner]
        ledger = ready.tags / ".pps-tags" / "dteam"
        for path in (ready.list_path(), ready.list_path(SC2), ledger / "life.json", ledger / "audit.jsonl"):
            assert rights(path) == OURS, path
    assert ready.tag(STRANGER, "audit", "--vo", "dteam", "--verify").code == 0
    who = [entry["who"].partition(" ")[0] for entry in json.loads(ready.tag(STRANGER, "audit", "--output", "json").out)]
    assert {MANAGER, SECOND, AGENT, "root"} == set(who)
    assert ready.setup("--publisher", PUBLISHER).out == "nothing to do\n"


@pytest.mark.parametrize("user", [OPS_MANAGER, STRANGER, PUBLISHER])
def test_who_is_no_manager_of_the_vo_is_refused_and_nothing_changes(ready: Head, user: str) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    before = picture(ready.tags)
    for said in (
        ready.manage(user, "add", "VO-dteam-b"),
        ready.manage(user, "remove", "VO-dteam-a"),
        ready.tag(user, "replace", "VO-dteam-a", "VO-dteam-c", "--vo", "dteam"),
    ):
        assert (said.code, said.out) == (3, "")
        assert "have root run pps-agent setup" in said.err
    assert before == picture(ready.tags)
    assert ready.manage(user, "list") == Said(0, "VO-dteam-a\n", "")


TRY_LOCK = """
import fcntl, os, sys
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    try:
        fcntl.flock(os.open(sys.argv[1], flags), fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("held")
    except PermissionError:
        print("refused")
"""


def test_only_who_may_change_tags_can_hold_the_lock(ready: Head) -> None:
    said = {
        user: set(ready.python(user, TRY_LOCK, str(ready.tags / ".pps-tags.lock")).out.split())
        for user in (STRANGER, PUBLISHER, MANAGER, SECOND, OPS_MANAGER, AGENT)
    }
    assert {user for user, words in said.items() if words == {"held"}} == {MANAGER, SECOND, OPS_MANAGER, AGENT}
    assert {user for user, words in said.items() if words == {"refused"}} == {STRANGER, PUBLISHER}


def test_a_publisher_keeps_the_last_good_tags_in_a_directory_of_its_own(ready: Head) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    first = ready.tag(PUBLISHER, "ldif")
    assert (first.code, first.out.count("VO-dteam-a"), first.err) == (0, 2, "")
    ready.list_path().unlink()
    ready.list_path().mkdir()
    second = ready.tag(PUBLISHER, "ldif")
    assert (second.code, second.out) == (0, first.out)
    assert "is not a regular file" in second.err
    kept = ready.cache / "tags" / str(UIDS[PUBLISHER])
    assert (kept.stat().st_uid, stat.S_IMODE(kept.stat().st_mode)) == (UIDS[PUBLISHER], 0o700)
    assert [path.name for path in kept.iterdir()] == ["production.json"]


def test_a_publisher_that_was_not_set_up_prints_all_the_same_and_says_what_to_do(ready: Head) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    said = ready.tag(STRANGER, "ldif")
    assert (said.code, said.out.count("VO-dteam-a")) == (0, 2)
    assert f"have root run pps-agent setup --publisher {STRANGER}" in said.err
    ready.setup("--publisher", STRANGER)
    assert ready.tag(STRANGER, "ldif") == Said(0, said.out, "")


KILLED = """
import os, signal
from pathlib import Path
from pps_agent.settings_file import load_settings
from pps_agent.tags import disk
from pps_agent.tags.areas import choose_area
save, left = disk.save_list, [1]
def save_and_die(path, content):
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
    save(path, content)
disk.save_list = save_and_die
choose_area(load_settings(Path(os.environ["PPS_AGENT_CONFIG"])).settings, None).open().add("dteam", ["VO-dteam-begun"])
"""


def test_what_a_killed_manager_began_the_agent_finishes(ready: Head) -> None:
    assert ready.tag(AGENT, "add", "VO-dteam-a", "--vo", "dteam").code == 0
    assert ready.python(MANAGER, KILLED).code in (-9, 137)
    intent = ready.tags / ".pps-tags" / "dteam" / "intent.json"
    assert (intent.stat().st_uid, b"begun" in ready.list_path(SC2).read_bytes()) == (UIDS[MANAGER], False)
    assert ready.manage(STRANGER, "list").out == "VO-dteam-a\nVO-dteam-begun\n"
    assert ready.tag(AGENT, "add", "VO-dteam-b", "--vo", "dteam").code == 0
    assert not intent.exists()
    assert ready.list_path(SC2).read_bytes() == b"VO-dteam-a\nVO-dteam-begun\nVO-dteam-b\n"
    assert ready.tag(STRANGER, "audit", "--verify").code == 0
    assert rights(ready.list_path(SC2)) == OURS


ADD_UNDER_UMASK = """
import os, sys
from pathlib import Path
from pps_agent.settings_file import load_settings
from pps_agent.tags.life import Life, TagState
from pps_agent.tags.areas import choose_area
os.umask(0o077)
store = choose_area(load_settings(Path(os.environ["PPS_AGENT_CONFIG"])).settings, None).open()
store.add("dteam", [sys.argv[1]], life=Life(TagState.VERIFIED, expires_at=4e9))
"""


@pytest.mark.parametrize("first", [MANAGER, AGENT, "root"])
def test_a_writer_with_a_tight_umask_locks_nobody_out(ready: Head, first: str) -> None:
    for number, user in enumerate((first, AGENT, MANAGER, first, SECOND)):
        assert ready.python(user, ADD_UNDER_UMASK, f"VO-dteam-{number}") == Said(0, "", "")
        assert rights(ready.list_path()) == OURS
    assert ready.manage(STRANGER, "list").out.split() == [f"VO-dteam-{number}" for number in range(5)]


def test_a_lock_made_before_setup_is_for_who_may_write_the_base(head: Head) -> None:
    head.tags.chmod(0o2775)
    os.chown(head.tags, UIDS[AGENT], GIDS["dteamsgm"])
    head.tags.chmod(0o2775)
    assert head.python(MANAGER, ADD_UNDER_UMASK, "VO-dteam-a").code == 0
    lock = str(head.tags / ".pps-tags.lock")
    assert set(head.python(SECOND, TRY_LOCK, lock).out.split()) == {"held"}
    assert set(head.python(STRANGER, TRY_LOCK, lock).out.split()) == {"refused"}
    head.tags.chmod(0o755)
    (head.tags / ".pps-tags.lock").unlink()
    assert head.python("root", ADD_UNDER_UMASK, "VO-dteam-b").code == 0
    assert rights(head.tags / ".pps-tags.lock")[1] == "0600"


def test_without_setup_it_says_that_root_is_to_run_it(head: Head) -> None:
    for user in (AGENT, MANAGER):
        said = head.manage(user, "add", "VO-dteam-a")
        assert (said.code, "have root run pps-agent setup" in said.err) == (3, True)
    assert list(head.tags.iterdir()) == []


def test_a_list_of_a_third_group_or_without_the_arrangement_is_refused_as_ever(ready: Head) -> None:
    path, directory = ready.list_path(), ready.list_path().parent
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    spoilt = {
        "the list is of another group": lambda: os.chown(path, -1, GIDS["users"]),
        "the directory has no setgid bit": lambda: directory.chmod(0o775),
        "the directory is open to all": lambda: directory.chmod(0o2777),
        "the group may not write the list": lambda: path.chmod(0o644),
        "the old list may not be written": lambda: os.removexattr(path, ACCESS),
    }
    for what, spoil in spoilt.items():
        spoil()
        before = picture(ready.tags)
        said = ready.tag(AGENT, "add", "VO-dteam-b", "--vo", "dteam")
        assert (said.code, "and keep its owner" in said.err) == (3, True), (what, said)
        assert before == picture(ready.tags), what
        ready.setup("--publisher", PUBLISHER)
        assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
        assert rights(path)[:2] == OURS[:2]
    assert ready.tag(AGENT, "add", "VO-dteam-b", "--vo", "dteam").code == 0


def test_without_the_setgid_bit_a_manager_takes_no_list_of_the_agents(ready: Head) -> None:
    assert ready.tag(AGENT, "add", "VO-dteam-a", "--vo", "dteam").code == 0
    ready.list_path().parent.chmod(0o775)  # a new file would have the manager's group all the same
    said = ready.manage(MANAGER, "add", "VO-dteam-b")
    assert (said.code, "and keep its owner" in said.err) == (3, True)


def test_whom_people_let_in_to_a_list_or_a_directory_stays_let_in(ready: Head) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    let_in = ((UIDS[AGENT], 6), (UIDS[STRANGER], 4))
    for_directory = ((UIDS[AGENT], 7), (UIDS[STRANGER], 4))
    os.setxattr(ready.list_path(), ACCESS, render_acl(name_all(acl_of_mode(0o664), let_in, ())))
    os.setxattr(ready.list_path().parent, ACCESS, render_acl(name_all(acl_of_mode(0o775), for_directory, ())))
    for user in (AGENT, MANAGER, "root"):
        assert ready.manage(user, "add", f"VO-dteam-{user}").code == 0
        assert rights(ready.list_path()) == (*OURS[:2], dict(let_in))
    ready.setup()
    assert rights(ready.list_path()) == (*OURS[:2], dict(let_in))
    assert rights(ready.list_path().parent)[2] == dict(for_directory)


def test_who_cannot_write_the_log_changes_no_list(ready: Head) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    log = ready.tags / ".pps-tags" / "dteam" / "audit.jsonl"
    os.chown(log, 0, 0)
    os.removexattr(log, ACCESS)
    before = picture(ready.tags)
    said = ready.tag(AGENT, "add", "VO-dteam-b", "--vo", "dteam")
    assert (said.code, "audit.jsonl: Permission denied" in said.err) == (3, True)
    assert before == picture(ready.tags)
    ready.setup()
    assert ready.tag(AGENT, "add", "VO-dteam-b", "--vo", "dteam").code == 0


def test_an_accounts_own_directory_stays_in_its_hands_where_no_group_is_named(public_directory: Path) -> None:
    """As the old tools left them: the VO's account owns all, and its group may not write."""
    head = Head(public_directory, "\n".join(line for line in SETTINGS.splitlines() if "managers" not in line))
    path = head.list_path()
    path.parent.mkdir(parents=True)
    path.write_text("VO-dteam-old\n")
    for one in (path, path.parent):
        os.chown(one, UIDS[MANAGER], GIDS["users"])
    head.setup()
    assert (path.stat().st_uid, path.stat().st_gid) == (UIDS[MANAGER], GIDS["pps-agent"])
    for number in range(4):
        user = (AGENT, MANAGER)[number % 2]
        said = head.manage(user, "add", f"VO-dteam-{number}")
        assert said.code == 0, said
    for user in (STRANGER, SECOND):  # in the same group: it never could
        assert head.manage(user, "add", "VO-dteam-x").code == 3
    assert head.setup().out == "nothing to do\n"


def test_the_access_list_of_a_list_is_kept_by_root_too(ready: Head) -> None:
    assert ready.manage(MANAGER, "add", "VO-dteam-a").code == 0
    with ready.list_path().open("rb") as stream:
        before = load_acl(stream.fileno())
    assert ready.tag("root", "add", "VO-dteam-b", "--vo", "dteam").code == 0
    with ready.list_path().open("rb") as stream:
        assert (before, ready.list_path().stat().st_uid) == (load_acl(stream.fileno()), UIDS[MANAGER])


PREPRODUCTION = """
[infosys]
service = "site-compute"
ldif = "bdii/ldif/pps-tags.ldif"
[preproduction]
subclusters = ["pps01.example.org"]
tags = "info-pps"
"""


def test_a_pre_production_system_has_the_same_rights_and_a_bdii_lets_the_agent_write_its_file(head: Head) -> None:
    head.accounts.config.write_text(SETTINGS + PREPRODUCTION)
    (head.base / "info-pps").mkdir()
    ldif = head.base / "bdii" / "ldif"
    ldif.mkdir(parents=True)
    os.chown(ldif, UIDS[PUBLISHER], GIDS[PUBLISHER])
    ldif.chmod(0o750)
    (head.base / "bdii").chmod(0o755)
    head.setup("--publisher", PUBLISHER)
    assert head.setup().out == "nothing to do\n"
    assert rights(ldif) == (GIDS[PUBLISHER], "0770", {UIDS[AGENT]: 7})
    assert load_mask_free_group(ldif) == 5
    for user in (MANAGER, AGENT):
        said = head.tag(user, "add", f"VO-dteam-{user}", "--vo", "dteam", "--preproduction")
        assert said.code == 0, said
    assert rights(head.base / "info-pps" / "pps01.example.org" / "dteam" / "dteam.list") == OURS
    assert head.tag(STRANGER, "add", "VO-dteam-x", "--vo", "dteam", "--preproduction").code == 3
    said = head.accounts.run(AGENT, "pps-agent", "job", "ldif")
    assert json.loads(said.out)["problems"] == [], said
    assert (ldif / "pps-tags.ldif").stat().st_mode & 0o777 == 0o644


def load_mask_free_group(path: Path) -> int:
    """Give what the owning group may do, whatever the mask says."""
    return parse_acl(os.getxattr(path, ACCESS)).group


def test_managers_of_a_vo_that_is_offered_no_previews_change_their_tags_too(head: Head) -> None:
    for subcluster in (SC1, SC2):
        directory = head.tags / subcluster / "atlas"
        directory.mkdir(parents=True)
        os.chown(directory, UIDS[OPS_MANAGER], GIDS["opssgm"])
        directory.chmod(0o775)
    head.setup()
    said = head.manage(OPS_MANAGER, "add", "VO-atlas-a", vo="atlas")
    assert said.code == 0, said
    assert head.manage(MANAGER, "add", "VO-atlas-b", vo="atlas").code == 3
    assert head.setup().out == "nothing to do\n"
