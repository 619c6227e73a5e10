"""``pps-agent setup``: what root does, does again, refuses and leaves alone, in directories that belong to others."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.services import need
from tests.support.site_accounts import AGENT, GIDS, MANAGER, OPS_MANAGER, PUBLISHER, SECOND, STRANGER, UIDS
from tests.tags.test_tag_rights import SC1, SC2, SETTINGS, TRY_LOCK, Head, picture, rights

SHARED = (GIDS["dteamsgm"], "2775", {UIDS[AGENT]: 7})
LEDGER = ".pps-tags/dteam"


@pytest.fixture
def head(public_directory: Path) -> Head:
    return Head(public_directory)


def files_of_old_tools(head: Head) -> Path:
    """A list of the VO's account, as lcg-ManageVOTag left it."""
    path = head.list_path()
    path.parent.mkdir(parents=True)
    path.write_text("# ours\nVO-dteam-old\n")
    for one in (path, path.parent):
        os.chown(one, UIDS[MANAGER], GIDS["users"])
    return path


def test_setup_gives_each_vo_to_its_managers_and_the_agent_and_keeps_owners_and_content(head: Head) -> None:
    path = files_of_old_tools(head)
    said = head.setup("--publisher", PUBLISHER)
    assert said.err == ""
    assert path.read_text() == "# ours\nVO-dteam-old\n"
    assert (path.stat().st_uid, path.parent.stat().st_uid) == (UIDS[MANAGER], UIDS[MANAGER])
    assert rights(path) == (GIDS["dteamsgm"], "0664", {UIDS[AGENT]: 6, UIDS[MANAGER]: 6})
    assert rights(path.parent) == (*SHARED[:2], {UIDS[AGENT]: 7, UIDS[MANAGER]: 7})
    assert rights(head.tags / SC2 / "dteam") == (*SHARED[:2], {UIDS[AGENT]: 7, UIDS[MANAGER]: 7})
    assert rights(head.tags / SC2 / "ops") == (GIDS["opssgm"], "2775", {UIDS[AGENT]: 7})
    assert rights(head.tags / ".pps-tags") == (GIDS["pps-agent"], "0755", {})
    assert (head.tags / ".pps-tags").stat().st_uid == UIDS[AGENT]
    assert not (head.base / "global").exists()
    assert head.setup("--publisher", PUBLISHER) == type(said)(0, "nothing to do\n", "")


def test_a_dry_run_tells_the_same_and_changes_nothing(head: Head) -> None:
    files_of_old_tools(head)
    before = picture(head.base)
    dry = head.setup("--dry-run", "--publisher", PUBLISHER)
    assert before == picture(head.base)
    done = head.setup("--publisher", PUBLISHER)
    assert dry.out.splitlines() == [f"dry run: {line}" for line in done.out.splitlines()]
    assert ": made, group opssgm, mode 2775, access, also to new files, u::rwx,u:pps-agent:rwx,g::rwx," in done.out
    value = json.loads(head.setup("--output", "json", "--dry-run").out)
    assert value == {"dry_run": True, "changes": [], "notes": [], "problems": []}


def test_global_lists_are_set_up_where_the_site_has_them(head: Head) -> None:
    directory = head.base / "global" / "dteam"
    directory.mkdir(parents=True)
    (directory / "dteam.list").write_text("VO-dteam-everywhere\n")
    head.setup()
    assert rights(directory) == SHARED
    assert not (head.base / "global" / "ops").exists()
    for user in (MANAGER, AGENT):
        assert head.manage(user, "add", "VO-dteam-x").code == 0
        assert head.manage(user, "remove", "VO-dteam-x").code == 0
    assert head.manage(MANAGER, "remove", "VO-dteam-everywhere").code == 0


def test_what_was_loosened_or_lost_is_mended(head: Head) -> None:
    head.setup()
    assert head.manage(MANAGER, "add", "VO-dteam-a").code == 0
    path = head.list_path()
    before = picture(head.tags)
    path.chmod(0o4777)
    path.parent.chmod(0o700)
    (head.tags / ".pps-tags.lock").chmod(0o666)
    head.setup()
    assert set(head.python(STRANGER, TRY_LOCK, str(head.tags / ".pps-tags.lock")).out.split()) == {"refused"}
    assert {name: seen[:3] for name, seen in picture(head.tags).items()} == {
        name: seen[:3] for name, seen in before.items()
    }


def plant_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def plant_hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


PLANTED: dict[str, tuple[str, Callable[[Path, Path], None], str]] = {
    "a link for a list": (f"{SC1}/dteam/dteam.list", plant_link, "no regular file, or a symbolic link"),
    "a hard link for a list": (f"{SC1}/dteam/dteam.list", plant_hard_link, "a file with 2 names (hard links)"),
    "a pipe for a list": (f"{SC1}/dteam/dteam.list", lambda path, _: os.mkfifo(path), "no regular file"),
    "a directory for a list": (f"{SC1}/dteam/dteam.list", lambda path, _: path.mkdir(), "no regular file"),
    "a link for a VO": (f"{SC1}/dteam", lambda path, victim: path.symlink_to(victim.parent), "no directory, or"),
    "a link for a subcluster": (SC1, lambda path, victim: path.symlink_to(victim.parent), "no directory, or"),
    "a file for a VO": (f"{SC1}/dteam", lambda path, _: path.touch(), "no directory, or"),
    "a link for a log": (f"{LEDGER}/audit.jsonl", plant_link, "no regular file, or a symbolic link"),
    "a hard link for a log": (f"{LEDGER}/audit.jsonl", plant_hard_link, "a file with 2 names (hard links)"),
    "a link for a ledger": (LEDGER, lambda path, victim: path.symlink_to(victim.parent), "no directory, or"),
    "a link for all ledgers": (".pps-tags", lambda path, victim: path.symlink_to(victim.parent), "no directory, or"),
    "a link for the lock": (".pps-tags.lock", plant_link, "no regular file, or a symbolic link"),
    "a hard link for the lock": (".pps-tags.lock", plant_hard_link, "a file with 2 names (hard links)"),
    "a link for a publisher's directory": (f"../cache/tags/{61006}", plant_link, "no directory, or"),
}


@pytest.mark.parametrize(("where", "plant", "problem"), PLANTED.values(), ids=PLANTED)
def test_what_was_planted_is_refused_and_its_target_left_alone(
    head: Head, where: str, plant: Callable[[Path, Path], None], problem: str
) -> None:
    secrets = head.base / "secrets"
    (secrets / "dteam").mkdir(parents=True)
    for name in ("shadow", "audit.jsonl", "dteam/dteam.list"):
        (secrets / name).write_text("secret")
        (secrets / name).chmod(0o600)
    path = Path(os.path.normpath(head.tags / where))
    path.parent.mkdir(parents=True, exist_ok=True)
    plant(path, secrets / "shadow")
    before = picture(secrets)
    for _ in range(2):
        said = head.setup("--publisher", PUBLISHER, code=6)
        assert said.err.count("error: ") == 1
        assert f"{path} is {problem}" in said.err
        assert "so that root does not touch it: see who put it there and move it away" in said.err
    assert before == picture(secrets)
    if where != ".pps-tags.lock":  # one fault stops nothing else
        assert rights(head.tags / SC2 / "ops")[1] == "2775"


SWAP = """
import os, sys
path, other = sys.argv[1:]
print("ready", flush=True)
while True:
    for target in (other, None):
        try:
            os.unlink(path)
        except OSError:
            pass
        if target:
            os.symlink(target, path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
"""


def test_a_manager_who_swaps_a_list_for_a_link_all_the_time_gains_nothing(head: Head) -> None:
    head.setup()
    victim = head.base / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    before = rights(victim), victim.stat().st_uid
    swapper = head.accounts.start(MANAGER, "python", "-c", SWAP, str(head.list_path()), str(victim))
    try:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        for _ in range(20):
            assert head.accounts.run("root", "pps-agent", "setup").code in (0, 6)
            assert before == (rights(victim), victim.stat().st_uid)
    finally:
        swapper.kill()
        swapper.communicate()


@pytest.fixture
def plain(public_directory: Path) -> Iterator[Head]:
    """A head whose tag base is on a file system without access lists."""
    head = Head(public_directory)
    mounted = subprocess.run(["mount", "-t", "ramfs", "ramfs", head.tags], capture_output=True, check=False)
    need("" if mounted.returncode == 0 else f"a ramfs cannot be mounted: {mounted.stderr!r}")
    head.tags.chmod(0o755)
    yield head
    subprocess.run(["umount", head.tags], check=True)


def test_without_access_lists_groups_do_and_setup_says_which(plain: Head) -> None:
    said = plain.setup()
    assert "keeps no access lists (POSIX ACLs), so groups must do" in said.err
    assert f"usermod -a -G dteamsgm,opssgm {AGENT}" in said.err
    assert "for the lock, make all managers of VOs members of pps-agent" in said.err
    assert rights(plain.tags / SC1 / "dteam") == (GIDS["dteamsgm"], "2775", {})
    plain.accounts.members(
        {"dteamsgm": [SECOND, AGENT], "opssgm": [AGENT], "pps-agent": [MANAGER, SECOND, OPS_MANAGER]}
    )
    for number, user in enumerate((AGENT, MANAGER, SECOND) * 2):
        done = plain.manage(user, "add", f"VO-dteam-{number}")
        assert done.code == 0, done
    assert plain.manage(OPS_MANAGER, "add", "VO-dteam-x").code == 3
    assert plain.manage(OPS_MANAGER, "add", "VO-ops-x", vo="ops").code == 0
    assert set(plain.python(STRANGER, TRY_LOCK, str(plain.tags / ".pps-tags.lock")).out.split()) == {"refused"}
    again = plain.setup()
    assert (again.out, "usermod" in again.err) == ("nothing to do\n", False)


def test_without_access_lists_the_one_group_of_managers_has_the_lock(plain: Head) -> None:
    plain.accounts.config.write_text(SETTINGS.replace('"dteam", "ops"', '"dteam"').replace(', ops = "opssgm"', ""))
    plain.accounts.members({"dteamsgm": [AGENT]})
    assert "for the lock" not in plain.setup().err
    for number, user in enumerate((MANAGER, AGENT) * 2):
        assert plain.manage(user, "add", f"VO-dteam-{number}").code == 0


def test_what_keeps_setup_from_beginning_is_said_and_changes_nothing(head: Head) -> None:
    before = picture(head.tags)
    assert head.accounts.run(AGENT, "pps-agent", "setup").code == 6
    assert "only root can run it" in head.accounts.run(STRANGER, "pps-agent", "setup").err
    assert "there is no account 'nosuch'" in head.setup("--user", "nosuch", code=6).err
    assert "name another with --publisher" in head.setup("--publisher", "nosuch", code=6).err
    settings = head.accounts.config.read_text()
    head.accounts.config.write_text(settings.replace('"dteamsgm"', '"nosuch"'))
    assert "there is no group 'nosuch', which site.managers names for dteam" in head.setup(code=6).err
    head.accounts.config.write_text(settings.replace('"info"', '"nowhere"'))
    assert "create it, or set paths.tags" in head.setup(code=6).err
    assert before == picture(head.tags)
