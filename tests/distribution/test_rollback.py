"""Rolling back: what is chosen, what is recorded and untagged, and what a round makes of it."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pps_agent.database import open_database
from pps_agent.errors import AgentError, SiteError
from pps_agent.history import History
from pps_agent.policy import Consent, Decision
from pps_agent.rollback import decide_rollback, roll_back
from pps_agent.tags.areas import SiteTags
from pps_agent.tags.store import TagStore
from pps_wire.names import Component, Subcluster, Vo
from tests.distribution.site import picture

CLIENTS = Component("grid-clients")
SUBCLUSTER = Subcluster("ce01.example.org")
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def history(tmp_path):
    with contextlib.closing(open_database(tmp_path / "state" / "state.db")) as database:
        yield History(database)


@pytest.fixture
def tags(tmp_path):
    (tmp_path / "tags").mkdir()
    return TagStore(tmp_path / "tags", (SUBCLUSTER,))


@pytest.fixture
def three(site, repository, tags):
    """Three releases that were current one after the other, all tagged."""
    releases = [repository.publish(version=version) for version in ("1.0", "2.0", "3.0")]
    for release in releases:
        site.install(release)
        site.store.switch(CLIENTS, release.id)
        tags.add(Vo("dteam"), [*release.tags().values()])
    return releases


def go_back(site, tags, history, reason="", *more):
    lists = SiteTags((tags, *more))
    decided = decide_rollback(CLIENTS, site.store, lists, history)
    return roll_back(decided, Consent(Decision.ROLLBACK, reason, "alice"), site.store, lists, history, NOW)


def test_it_goes_to_the_release_before_untags_and_records_why(site, tags, history, three):
    assert go_back(site, tags, history, "crashes") == ""
    assert site.store.current() == {CLIENTS: three[1].id}
    assert set(tags.tags(SUBCLUSTER)) == {"VO-dteam-pps-1.0", "VO-dteam-pps-2.0"}
    assert history.resolve().consents == {three[2].id: Consent(Decision.ROLLBACK, "crashes", "alice", NOW)}
    assert {release.id for release in three} == set(site.store.ids())


def test_a_second_one_goes_further_back_and_never_to_what_was_left(site, tags, history, three):
    go_back(site, tags, history)
    go_back(site, tags, history)
    assert site.store.current() == {CLIENTS: three[0].id}
    with pytest.raises(AgentError, match=r"no release to go back to \(.*3.0.* was declined, rolled back"):
        go_back(site, tags, history)


@pytest.mark.parametrize("how", ["declined", "draining", "damaged", "removed"])
def test_a_release_that_is_no_good_is_passed_over(site, tags, history, three, how):
    middle = three[1].id
    match how:
        case "declined":
            history.decide(middle, Consent(Decision.DECLINE, "no"), NOW)
        case "draining":
            history.start_drain(middle, NOW)
        case "damaged":
            (site.store.tree(middle) / "bin" / "hello").unlink()
        case "removed":
            site.store.remove(middle)
    go_back(site, tags, history)
    assert site.store.current() == {CLIENTS: three[0].id}


def test_without_an_earlier_release_nothing_changes_and_the_error_says_so(site, repository, tags, history):
    release = repository.publish()
    site.install(release)
    with pytest.raises(AgentError, match="has no current release; components that have one: none"):
        go_back(site, tags, history)
    site.store.switch(CLIENTS, release.id)
    before = picture(site.store.root)
    with pytest.raises(AgentError, match="no release to go back to"):
        go_back(site, tags, history)
    assert before == picture(site.store.root)
    assert history.resolve().consents == {}


def test_a_tag_that_another_installed_release_has_too_stays(site, repository, tags, history):
    for version in ("1.0", "2.0"):
        release = repository.publish(version=version, tag_suffix="pps")
        site.install(release)
        site.store.switch(CLIENTS, release.id)
    tags.add(Vo("dteam"), [*release.tags().values()])
    go_back(site, tags, history)
    assert tags.tags(SUBCLUSTER) == {"VO-dteam-pps"}


def test_tag_files_that_cannot_be_read_do_not_keep_it_from_going_back(site, tmp_path, history, three):
    away = TagStore(tmp_path / "not-mounted", (SUBCLUSTER,))
    assert "does not exist" in go_back(site, away, history)
    assert site.store.current() == {CLIENTS: three[1].id}


def test_one_systems_lists_that_cannot_be_read_keep_no_tag_in_anothers(site, tmp_path, tags, history, three):
    away = TagStore(tmp_path / "not-mounted", (Subcluster("pps01.example.org"),))
    assert "does not exist" in go_back(site, away, history, "", tags)
    assert set(tags.tags(SUBCLUSTER)) == {"VO-dteam-pps-1.0", "VO-dteam-pps-2.0"}


def test_it_is_refused_while_another_process_changes_the_store(site, tags, history, three, tmp_path):
    from pps_agent.store import Store

    lists = SiteTags((tags,))
    decided = decide_rollback(CLIENTS, site.store, lists, history)
    with site.store.lock(), pytest.raises(SiteError, match="is changing this store; wait"):
        roll_back(decided, Consent(Decision.ROLLBACK), Store(site.store.root), lists, history, NOW)
    assert history.resolve().consents == {}


def test_many_switches_of_other_components_do_not_take_the_way_back(site, repository, tags, history, three):
    other = repository.publish(component="xroot")
    site.install(other)
    for number in range(12):
        site.store.switch(Component("xroot"), None if number % 2 else other.id)
    assert site.store.previous() == {CLIENTS: three[1].id, "xroot": other.id}
    assert len(list((site.store.root / "generations").iterdir())) <= 11
    go_back(site, tags, history)
    assert site.store.current()[CLIENTS] == three[1].id


def test_links_to_removed_releases_leave_old_generations_and_nothing_else(site, three):
    site.store.remove(three[0].id)
    links = [path.readlink().name for path in (site.store.root / "generations").glob("*/*")]
    assert sorted(links) == sorted([three[1].id, three[2].id])


# --- pins ------------------------------------------------------------------------------------------


def test_a_pinned_release_is_never_removed(site, three):
    site.store.pin(three[0].id, "our users' reference", "root", NOW)
    with pytest.raises(SiteError, match="is pinned; allow its removal with: pps-agent release unpin"):
        site.store.remove(three[0].id)
    (pin,) = site.store.pins().values()
    assert (pin.reason, pin.by, pin.at) == ("our users' reference", "root", "2026-11-22T00:00:00Z")
    assert (site.store.unpin(three[0].id), site.store.unpin(three[0].id)) == (True, False)
    site.store.remove(three[0].id)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[", b'{"reason": 1}', b'"text"', b"[" * 100_000])
def test_a_pin_holds_whatever_the_file_says(site, three, content):
    site.store.pin(three[0].id, "", "root", NOW)
    path = Path(site.store.root / "pins" / three[0].id)
    path.write_bytes(content)
    (path.parent / ".x.tmp").touch()
    (path.parent / "lost+found").mkdir()
    assert list(site.store.pins()) == [three[0].id]
