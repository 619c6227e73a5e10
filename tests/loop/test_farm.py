"""A site is a farm: trees that others distribute, stores of several hosts, agents that meet on one store."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from pps_agent.news import untag_news
from pps_agent.ownership import OwnedError
from pps_agent.settings_file import load_settings
from pps_agent.site import Site
from tests.distribution.site import picture
from tests.loop.test_rounds import FIRST, ONE, TAG_ONE
from tests.support.releases import passing_files, publish_passing
from tests.support.repository import FaultyServer, Program, SmallRepository
from tests.support.services import need
from tests.support.site import SUBCLUSTER, SmallSite

DAY_S = 86_400
WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|^\d+ +(?:\w*unlink|\w*mkdir|\w*rename|\w*ch(?:mod|own)|\w*link|utime)")


@pytest.fixture
def cvmfs(site: SmallSite) -> Path:
    """A directory of read-only trees, as CVMFS shows it, with one tree that is not ours."""
    base = site.base / "cvmfs" / "pps.example.org"
    (base / "other").mkdir(parents=True)
    site.configure(store={"kind": "cvmfs", "trees": str(base / "{release}")})
    return base


def distribute(base: Path, version: str = "1.0.0", release: str = ONE) -> Path:
    """Lay a release's files out as somebody else would: other modes, a catalogue's mark."""
    tree = base / release
    for name, content in passing_files(version).items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.content if isinstance(content, Program) else content)
        path.chmod(0o775 if isinstance(content, Program) else 0o640)
    (tree / ".cvmfscatalog").touch()
    return tree


@pytest.fixture
def read_only(cvmfs: Path) -> Iterator[Path]:
    """The trees behind a read-only mount."""
    tree = distribute(cvmfs)
    mount = shutil.which("mount")
    done = subprocess.run([mount or "mount", "--bind", "-o", "ro", cvmfs, cvmfs], capture_output=True, check=False)
    need("" if done.returncode == 0 else "needs a bind mount, so root")
    subprocess.run(["mount", "-o", "remount,bind,ro", cvmfs], check=True)
    yield tree
    subprocess.run(["umount", cvmfs], check=True)


def drained(site: SmallSite) -> None:
    """Let every drain have begun long ago."""
    with closing(sqlite3.connect(site.state / "state.db", isolation_level=None)) as database:
        database.execute("UPDATE drain SET since = ?", ((datetime.now(UTC) - timedelta(days=30)).isoformat(),))


def test_a_distributed_tree_is_waited_for_then_verified_tagged_and_only_forgotten_in_the_end(
    repository: SmallRepository, server: FaultyServer, site: SmallSite, cvmfs: Path
) -> None:
    publish_passing(repository)
    seen = site.once()
    assert (seen.actions, seen.release(ONE)["state"]) == ([], "offered")
    assert seen.release(ONE)["reason"] == f"waits until {cvmfs / ONE} appears"
    tree = distribute(cvmfs)
    before = picture(cvmfs)
    seen = site.once()
    assert seen.actions == FIRST
    assert seen.outcome("install")["facts"]["files_verified"] == 3
    assert (site.store / "releases" / ONE / "tree").readlink() == tree
    assert (site.listed(), seen.release(ONE)["state"]) == ([TAG_ONE], "tagged")
    assert not [path for path in server.paths() if path.startswith("artifacts")]
    assert site.once().actions == []
    repository.withdraw(ONE)
    assert site.once().actions == ["removetags", "switch", "drain"]
    drained(site)
    assert site.once().actions == ["remove"]
    assert (site.installed(), picture(cvmfs)) == ([], before)


def test_the_agent_never_writes_below_the_trees(
    repository: SmallRepository, site: SmallSite, read_only: Path, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    need("" if strace else "strace is missing")
    publish_passing(repository)
    log = tmp_path / "calls"
    answer = site.run("once", prefix=("strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(log)))
    assert answer.code == 0, answer.stderr
    calls = [line for line in log.read_text(errors="replace").splitlines() if str(read_only) in line]
    assert any("openat" in line for line in calls)
    # The one call that names a tree and writes makes the link to it, in the store.
    writes = [line for line in calls if WRITING.search(line) and "readlink" not in line]
    assert [re.split(r"[(, ]+", line)[1] for line in writes] == ["symlink"], writes
    assert site.listed() == [TAG_ONE]


def test_a_tree_that_differs_from_what_was_signed_is_never_tagged(
    repository: SmallRepository, site: SmallSite, cvmfs: Path
) -> None:
    publish_passing(repository)
    (distribute(cvmfs) / "VERSION").write_text("1.0.1\n")
    seen = site.once(4)
    assert seen.actions == ["install!"]
    assert "VERSION has other content; tell whoever distributes it" in seen.errors
    assert (site.installed(), site.listed()) == ([], [])


def test_an_incomplete_tree_is_a_temporary_failure_and_a_changed_one_is_untagged(
    repository: SmallRepository, site: SmallSite, cvmfs: Path
) -> None:
    publish_passing(repository)
    tree = distribute(cvmfs)
    (tree / "VERSION").rename(cvmfs / "kept")
    assert "1 entries are not there yet" in site.once(75).errors
    (cvmfs / "kept").rename(tree / "VERSION")
    assert site.once().actions == FIRST
    times = (tree / "VERSION").stat()
    (tree / "VERSION").write_text("9.9.9\n")
    os.utime(tree / "VERSION", ns=(times.st_atime_ns, times.st_mtime_ns))  # the change time tells all the same
    seen = site.once(4)
    assert seen.actions[:2] == ["removetags", "install!"]
    assert (site.listed(), seen.release(ONE)["state"]) == ([], "broken")


def test_trees_that_are_not_mounted_are_unknown_and_nothing_is_removed(
    repository: SmallRepository, site: SmallSite, cvmfs: Path
) -> None:
    publish_passing(repository)
    distribute(cvmfs)
    site.once()
    cvmfs.rename(cvmfs.with_name("away"))
    for make in (lambda: None, cvmfs.mkdir):  # gone, and an empty mount point
        make()
        seen = site.once(6)
        assert (seen.actions, site.listed(), site.installed()) == ([], [TAG_ONE], [ONE])
        assert "check that it is mounted" in seen.errors
    cvmfs.rmdir()
    cvmfs.with_name("away").rename(cvmfs)
    assert site.once().actions == []


def test_an_agent_with_another_state_is_refused_until_it_takes_over(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    site.configure(paths={"state": "state2"})
    before = picture(site.tags) | picture(site.store / "releases")
    answer = site.run("once")
    assert answer.code == 6
    assert f"state in {site.state}" in answer.stderr
    assert "take over with: pps-agent once --take-over" in answer.stderr
    assert site.run("plan").code == 6
    assert picture(site.tags) | picture(site.store / "releases") == before
    assert site.run("once", "--dry-run", "--take-over").code == 0
    assert json.loads((site.store / "owner.json").read_text())["state"] == str(site.state)
    assert site.run("once", "--take-over").code == 0
    assert site.once().actions == []
    assert f"state in {site.base / 'state2'}" in site.run("status").stdout
    site.configure(paths={"state": "state"})
    assert site.run("once").code == 6


def test_between_rounds_too_an_agent_leaves_anothers_tags_alone(repository: SmallRepository, site: SmallSite) -> None:
    publish_passing(repository)
    site.once()
    site.configure(paths={"store": "store2", "state": "state2"})
    stranger = Site(load_settings(site.config).settings, site.config)
    with contextlib.closing(stranger), pytest.raises(OwnedError, match="another agent"):
        untag_news(stranger, None, structlog.get_logger())
    assert site.listed() == ["VO-dteam-pps-1.0.0"]


def test_a_lost_state_db_keeps_no_withdrawn_release_announced_and_leaves_the_rest_to_a_person(
    repository: SmallRepository, site: SmallSite
) -> None:
    first = publish_passing(repository)
    publish_passing(repository, "1.1.0")
    site.once()
    for path in site.state.glob("state.db*"):
        path.unlink()
    repository.withdraw(first.id)
    answer = site.run("once")
    assert answer.code == 6
    assert "this agent's state.db was lost or replaced" in answer.stderr
    assert site.listed() == ["VO-dteam-pps-1.1.0"]
    assert len(site.installed()) == 2
    assert site.run("once", "--take-over").code == 0


def test_agents_of_two_stores_may_share_a_tag_base_but_not_a_subcluster(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    site.once()
    site.configure(paths={"store": "store2", "state": "state2"})
    answer = site.run("once")
    assert answer.code == 6
    assert f"{site.tags / SUBCLUSTER}: another agent" in answer.stderr
    site.configure(site={"subclusters": ["ce02.example.org"]})
    assert site.run("once").code == 0
    owners = json.loads((site.tags / ".pps-tags" / "owners.json").read_text())
    assert {name: Path(owner["state"]).name for name, owner in owners.items()} == {
        SUBCLUSTER: "state",
        "ce02.example.org": "state2",
    }


def test_a_mark_that_cannot_be_read_may_be_another_agents(repository: SmallRepository, site: SmallSite) -> None:
    publish_passing(repository)
    site.once()
    (site.store / "owner.json").write_text("{")
    answer = site.run("once")
    assert (answer.code, "so another agent may act here" in answer.stderr) == (6, True)
    assert site.run("once", "--take-over").code == 0


def test_settings_of_the_nodes_decide_what_fits_a_shared_store(repository: SmallRepository, site: SmallSite) -> None:
    site.configure(store={"kind": "shared"}, group={"name": "el9", "glibc": "2.34", "os": "almalinux9"})
    publish_passing(repository)
    seen = site.once()
    assert (seen.actions, seen.release(ONE)["reason"]) == ([], "requires glibc 2.36, this node has 2.34")
    site.configure(group={"name": "el9", "glibc": "2.36", "os": "almalinux9"})
    assert site.once().actions == FIRST
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        groups = {json.loads(body).get("group") for (body,) in database.execute("SELECT body FROM outbox")}
    assert groups == {"el9"}
