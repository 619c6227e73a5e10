"""Releases side by side, generations, removal, and what a look at the store tells."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pps_agent import disk, processes
from pps_agent.errors import SiteError
from pps_agent.generations import KEPT_GENERATIONS
from pps_agent.state import Unknown
from pps_agent.store import Store
from pps_wire.names import Component, ReleaseId
from tests.distribution.site import picture
from tests.support.repository import LinkTo, Program
from tests.support.services import need

CLIENTS = Component("grid-clients")
OTHER = Component("xroot")


@pytest.fixture
def release(site, repository):
    """An installed release."""
    published = repository.publish()
    site.install(published)
    return published


def test_a_new_store_is_empty(site):
    assert ({}, {}, frozenset()) == (site.store.installed(), site.store.current(), site.store.in_use())


def test_a_store_that_was_never_made_is_empty_too(tmp_path):
    store = Store(tmp_path / "nowhere")
    assert (store.installed(), store.current()) == ({}, {})


def test_an_installed_release_is_seen_intact(site, release):
    seen = site.store.installed()[release.id]
    assert (release, "", "") == (seen.release, seen.profile, seen.fault)


@pytest.mark.parametrize("record", ['{"profile": "abc"}', "{}", "[", ""])
def test_an_environment_record_of_an_older_agent_or_none_is_composed_anew(site, release, record):
    (site.store.path(release.id) / "environment.json").write_text(record)
    assert site.store.installed()[release.id].profile == ""


def test_the_profile_is_what_the_environment_left_behind(site, release):
    mark = site.store.path(release.id) / "environment.json"
    mark.write_text(json.dumps({"profile": "abc", "prepend": {}, "more": [1]}))
    assert site.store.installed()[release.id].profile == "abc"
    mark.write_text("{")
    assert site.store.installed()[release.id].profile == ""


def _truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x")
    path.chmod(0o555)


def _replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/bin/sh")


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("bin/hello", Path.unlink, "bin/hello: is missing"),
        ("bin/hello", _truncate, "bin/hello: has 1 of "),
        ("bin/hello", lambda path: path.chmod(0o755), "bin/hello: has mode 0755 instead of 0555"),
        ("bin/hello", _replace_by_link, "bin/hello: is no regular file"),
        ("bin/hi", Path.unlink, "bin/hi: is missing"),
        ("bin/hi", lambda path: (path.unlink(), path.symlink_to("/bin/sh")), "bin/hi: does not point to 'hello'"),
        ("bin/hi", lambda path: (path.unlink(), path.write_text("")), "bin/hi: is no symbolic link"),
        ("etc", lambda path: disk.remove_tree(path), "etc: is missing"),
        ("etc", lambda path: (disk.remove_tree(path), path.write_text("")), "etc: is no directory"),
    ],
)
def test_the_first_thing_that_is_not_as_signed_is_told(site, release, name, damage, words):
    damage(site.store.tree(release.id) / name)
    assert site.store.installed()[release.id].fault.startswith(words)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x28\xb5\x2f\xfd"])
def test_a_damaged_manifest_is_a_fault_of_its_release_only(site, repository, release, content):
    other = repository.publish(version="1.0.1")
    site.install(other)
    (site.store.path(release.id) / "manifest").write_bytes(content)
    installed = site.store.installed()
    assert installed[release.id].fault.startswith("manifest: ")
    assert installed[other.id].fault == ""


def test_a_release_without_its_commit_mark_is_not_installed(site, release):
    (site.store.path(release.id) / "manifest").unlink()
    assert site.store.installed() == {}
    with pytest.raises(SiteError, match="is not installed"):
        site.store.switch(CLIENTS, release.id)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"v": 99}'])
def test_a_release_whose_description_is_lost_hides_no_other(site, repository, release, content):
    other = repository.publish(version="1.0.1")
    site.install(other)
    (site.store.path(release.id) / "release.json").write_text(content)
    assert list(site.store.installed()) == [other.id]


def test_strange_things_in_the_store_are_passed_over(site, release):
    (site.store.releases / "lost+found").mkdir()
    (site.store.releases / "file-1-x86_64-glibc2.36").write_text("")
    assert list(site.store.installed()) == [release.id]


def test_a_switch_points_current_at_a_new_generation_and_keeps_the_other_components(site, repository, release):
    other = repository.publish(component="xroot")
    site.install(other)
    assert site.store.switch(CLIENTS, release.id) == 1
    assert site.store.switch(OTHER, other.id) == 2
    assert site.store.current() == {CLIENTS: release.id, OTHER: other.id}
    assert (site.store.root / "current" / "grid-clients" / "tree" / "bin" / "hello").is_file()
    assert str((site.store.root / "current").readlink()) == "generations/2"
    assert str((site.store.root / "current" / "xroot").readlink()) == f"../../releases/{other.id}"
    assert site.store.switch(CLIENTS, None) == 3
    assert site.store.current() == {OTHER: other.id}


def test_switching_to_what_is_current_already_makes_no_generation(site, release):
    assert [site.store.switch(CLIENTS, release.id), site.store.switch(CLIENTS, release.id)] == [1, 1]


def test_old_generations_are_kept_up_to_a_number(site, release):
    for _ in range(KEPT_GENERATIONS):
        site.store.switch(CLIENTS, release.id)
        number = site.store.switch(CLIENTS, None)
    kept = sorted(int(path.name) for path in (site.store.root / "generations").iterdir())
    assert list(range(number - KEPT_GENERATIONS + 1, number + 1)) == kept


def test_a_store_can_be_moved(site, release, tmp_path):
    site.store.switch(CLIENTS, release.id)
    site.store.root.rename(tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    assert moved.installed()[release.id].fault == ""
    assert (tmp_path / "moved" / "current" / "grid-clients" / "tree" / "bin" / "hello").is_file()


@pytest.mark.parametrize("target", ["generations/99", "/etc", "elsewhere"])
def test_a_broken_current_is_replaced_by_the_next_switch(site, release, target):
    (site.store.root / "current").symlink_to(target)
    assert site.store.current() == {}
    site.store.switch(CLIENTS, release.id)
    assert site.store.current() == {CLIENTS: release.id}


def test_removing_the_current_release_is_refused(site, release):
    site.store.switch(CLIENTS, release.id)
    before = picture(site.store.root)
    with pytest.raises(SiteError, match="is the current release of grid-clients"):
        site.store.remove(release.id)
    assert before == picture(site.store.root)


def test_a_removed_release_is_gone_and_the_others_stay(site, repository, release):
    other = repository.publish(version="1.0.1")
    site.install(other)
    before = picture(site.store.tree(other.id))
    site.store.remove(release.id)
    site.store.remove(release.id)
    assert list(site.store.installed()) == [other.id]
    assert before == picture(site.store.tree(other.id))
    assert list(site.store.staging.iterdir()) == []


def test_removal_follows_no_link_and_gets_through_read_only_directories(site, repository, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    release = repository.publish({"a/b/file": b"x", "a/link": LinkTo("b")})
    site.install(release)
    tree = site.store.tree(release.id)
    (tree / "a" / "to-outside").symlink_to(outside)
    (tree / "a" / "b").chmod(0o555)
    (tree / "a").chmod(0)
    site.store.remove(release.id)
    assert site.store.installed() == {}
    assert (outside / "precious").read_text() == "keep"


def test_sweeping_deletes_dead_work_but_what_may_be_resumed(site, release):
    wanted = ReleaseId("grid-clients-9.9.9-x86_64-glibc2.36")
    for name in (f"{wanted}@1.abc", f"{release.id}@2.def", f"removed@{wanted}@aa", "junk"):
        (site.store.staging / name / "tree").mkdir(parents=True)
    (site.store.root / "generations" / ".new-dead").mkdir()
    assert site.store.sweep(keep={wanted}) == 4
    assert [path.name for path in site.store.staging.iterdir()] == [f"{wanted}@1.abc"]
    assert site.store.sweep() == 1
    assert list(site.store.staging.iterdir()) == []


def test_dead_work_of_a_release_is_not_mistaken_for_that_of_one_with_a_longer_name(site):
    short, long = ReleaseId("c-1-x86_64-glibc2.36-el9"), ReleaseId("c-1-x86_64-glibc2.36-el9.4")
    work = site.store.new_staging(long)
    assert ([], [work]) == (site.store.dead_staging(short), site.store.dead_staging(long))


def test_a_locked_store_names_the_holder(site):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(site.store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                SiteError, match=f"process {holder.pid} on {socket.gethostname()} is changing this store"
            ) as caught,
            site.store.lock(),
        ):
            pass
        holder.kill()
    assert caught.value.exit_code == 75
    with site.store.lock(), site.store.lock():
        pass


_HOLD = """
import sys
from pathlib import Path
from pps_agent.store import Store
with Store(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_release_is_in_use_by_working_directory_program_or_open_map(site, repository):
    shell = Path("/bin/sh").resolve()
    release = repository.publish({"bin/sh": Program(shell.read_bytes()), "etc/x": b""})
    site.install(release)
    tree = site.store.tree(release.id)
    for program, directory in ((tree / "bin" / "sh", Path("/")), (shell, tree / "etc")):
        with subprocess.Popen([program, "-c", "read x"], cwd=directory, stdin=subprocess.PIPE) as process:
            assert site.store.in_use() == {release.id}
            process.kill()
    assert site.store.in_use() == frozenset()


def test_processes_that_cannot_be_listed_are_unknown(tmp_path):
    assert isinstance(processes.observe_users(tmp_path, tmp_path / "no-proc"), Unknown)


def test_hard_linked_files_count_once(site, repository):
    content = os.urandom(1_000_000)
    for version in ("1.0.0", "1.0.1"):
        site.install(repository.publish({"big": content, "version": version.encode()}, version=version))
    assert 1_000_000 < site.store.disk_bytes() < 1_500_000


def test_two_names_are_swapped_at_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    need("" if disk.exchange(tmp_path / "a", tmp_path / "b") else "this file system cannot swap names")
    assert (tmp_path / "a" / "was-b").exists()
    with pytest.raises(FileNotFoundError):
        disk.exchange(tmp_path / "a", tmp_path / "missing")


def test_a_store_in_the_way_of_a_file_is_a_site_error(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(SiteError, match="store") as caught:
        Store(tmp_path / "store").ensure()
    assert caught.value.exit_code == 6
