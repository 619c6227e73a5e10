"""Rounds at a site with a pre-production information system: lists of its own, and neither holds up the other."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository
from tests.support.site import SUBCLUSTER, SmallSite

ONE, TAG = release_id("1.0.0"), "VO-dteam-pps-1.0.0"
PPS = "pps01.example.org"


@pytest.fixture(autouse=True)
def preproduction(site: SmallSite) -> Path:
    """Give the base of the second system's lists."""
    base = site.base / "tags-preproduction"
    base.mkdir()
    site.configure(preproduction={"subclusters": [PPS], "tags": str(base), "global_tags": str(site.base / "none")})
    return base


def tags_in(base: Path, subcluster: str) -> list[str]:
    path = base / subcluster / "dteam" / "dteam.list"
    return path.read_text().split() if path.exists() else []


def test_a_preview_is_announced_in_both_and_withdrawn_from_both(
    repository: SmallRepository, site: SmallSite, preproduction: Path
) -> None:
    publish_passing(repository)
    assert site.once().actions.count("addtags") == 2
    assert (site.listed(), tags_in(preproduction, PPS)) == ([TAG], [TAG])
    assert not (preproduction / SUBCLUSTER).exists()
    assert not (site.tags / PPS).exists()
    for option in ([], ["--preproduction"]):
        (row,) = site.run("tag", "list", "--long", "--output", "json", *option).json()
        assert (row["tag"], row["state"], row["release"]) == (TAG, "installedverified", ONE)
    with sqlite3.connect(site.state / "state.db") as database:
        (text,) = database.execute("SELECT body FROM outbox WHERE kind = 'round'").fetchone()
    heads = json.loads(text)
    assert set(heads["tag_logs"]) == set(heads["preproduction_tag_logs"]) == {"dteam"}
    assert heads["tag_logs"] != heads["preproduction_tag_logs"]
    repository.withdraw(ONE)
    assert site.once().actions.count("removetags") == 2
    assert (site.listed(), tags_in(preproduction, PPS)) == ([], [])


@pytest.mark.parametrize("lost", ["production", "preproduction"])
def test_lists_that_cannot_be_read_hold_up_only_their_own_system(
    repository: SmallRepository, site: SmallSite, preproduction: Path, lost: str
) -> None:
    publish_passing(repository)
    gone, other, where = (
        (site.tags, preproduction, PPS) if lost == "production" else (preproduction, site.tags, SUBCLUSTER)
    )
    gone.rename(gone.with_name("away"))
    seen = site.once(code=6)
    assert f"the tag directory {gone} does not exist" in seen.errors
    assert tags_in(other, where) == [TAG]
    repository.withdraw(ONE)
    site.once(code=6)
    assert tags_in(other, where) == []
    assert site.installed() == [ONE]  # the lost lists may name it
    gone.with_name("away").rename(gone)


def test_a_site_that_announces_in_pre_production_only_has_no_subcluster_in_production(
    repository: SmallRepository, site: SmallSite, preproduction: Path
) -> None:
    site.configure(site={"subclusters": []})
    publish_passing(repository)
    assert site.once().actions.count("addtags") == 1
    assert tags_in(preproduction, PPS) == [TAG]
    assert list(site.tags.iterdir()) == []


def test_what_is_served_no_more_is_cleared_wherever_it_is(
    repository: SmallRepository, site: SmallSite, preproduction: Path
) -> None:
    publish_passing(repository)
    site.once()
    site.configure(preproduction={"subclusters": ["pps02.example.org"]}, site={"subclusters": ["ce02.example.org"]})
    site.once()
    assert (tags_in(preproduction, PPS), site.listed()) == ([], [])
    assert tags_in(preproduction, "pps02.example.org") == [TAG] == tags_in(site.tags, "ce02.example.org")


def test_a_rollback_clears_both(repository: SmallRepository, site: SmallSite, preproduction: Path) -> None:
    publish_passing(repository)
    site.once()
    publish_passing(repository, "1.1.0")
    site.once()
    untagged = site.run("release", "rollback", "grid-clients", "--output", "json").json()["untagged"]
    assert {one["subcluster"] for one in untagged} == {SUBCLUSTER, PPS}
    assert (site.listed(), tags_in(preproduction, PPS)) == ([TAG], [TAG])


def test_a_section_that_ends_takes_its_tags_along_while_its_base_is_there(
    repository: SmallRepository, site: SmallSite, preproduction: Path
) -> None:
    publish_passing(repository)
    site.once()
    site.configure(preproduction={"subclusters": []})
    site.once()
    assert (tags_in(preproduction, PPS), site.listed()) == ([], [TAG])


def test_a_withdrawn_tag_is_not_set_again_by_hand_without_force(repository: SmallRepository, site: SmallSite) -> None:
    publish_passing(repository)
    site.once()
    repository.withdraw(ONE)
    site.once()
    said = site.run("tag", "add", TAG, "--vo", "dteam")
    assert (said.code, "is on its way out; --force" in said.stderr) == (1, True)
    assert site.run("tag", "add", TAG, "--vo", "dteam", "--force").code == 0
    assert site.listed() == [TAG]
    site.once()
    assert site.listed() == []
