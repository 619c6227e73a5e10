"""Tag file, BDII plugin, bdii-update, slapd and ldap3 in one chain, all of them real."""

import subprocess
import threading
from pathlib import Path

from demo.bdii import start_bdii
from pps_agent import infosys
from pps_agent.infosys import Expectation, Propagation
from pps_agent.state import Unknown
from pps_wire.names import Subcluster, Tag, Vo
from tests.services.conftest import SITE, SUBCLUSTERS, Bdii

SC1, SC2 = SUBCLUSTERS
DTEAM, OPS = Vo("dteam"), Vo("ops")


def wait(bdii: Bdii, wanted: dict[Subcluster, Expectation]) -> Propagation:
    return infosys.wait_published(bdii.url, bdii.base, wanted, timeout_s=10, wait_s=60, poll_s=0.2)


def test_a_tag_in_the_file_is_published_and_one_taken_out_vanishes(bdii: Bdii) -> None:
    tag = Tag("VO-dteam-roundtrip-6.1.0")
    bdii.store.add(DTEAM, [tag])
    shown = wait(bdii, {SC1: Expectation(present=frozenset({tag})), SC2: Expectation(present=frozenset({tag}))})
    assert (shown.reached, shown.looks >= 1, shown.delay_s > 0) == (True, True, True)
    assert isinstance(shown.observed, dict)
    assert tag in shown.observed[SC1] & shown.observed[SC2]

    bdii.store.remove(DTEAM, [tag], [SC1])
    gone = wait(bdii, {SC1: Expectation(absent=frozenset({tag})), SC2: Expectation(present=frozenset({tag}))})
    assert gone.reached

    bdii.store.remove(DTEAM, [tag])
    assert wait(bdii, {SC2: Expectation(absent=frozenset({tag}))}).reached


def test_lists_spoilt_by_others_keep_no_good_tag_from_being_published(bdii: Bdii) -> None:
    path = bdii.tag_base / SC1 / OPS / "ops.list"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"# note\nVO-ops-spoilt-a VO-ops-SPOILT-a\nVO-ops-dn:x VO-ops-\xc3\xa4 VO-ops-!!\nVO-ops-spoilt-b")
    good = frozenset({Tag("VO-ops-spoilt-b")})
    shown = wait(bdii, {SC1: Expectation(present=good)})
    assert shown.reached
    assert isinstance(shown.observed, dict)
    assert {tag.lower() for tag in shown.observed[SC1] if tag.startswith("VO-ops")} == {
        "vo-ops-spoilt-a",
        "vo-ops-spoilt-b",
    }


def test_the_sites_own_middleware_tags_stay_beside_ours_and_are_not_taken_for_vo_tags(bdii: Bdii) -> None:
    tag = Tag("VO-dteam-beside-1")
    bdii.store.add(DTEAM, [tag], [SC2])
    shown = wait(bdii, {SC2: Expectation(present=frozenset({tag}))})
    assert isinstance(shown.observed, dict)
    assert all(value.startswith("VO-") for value in shown.observed[SC2])
    argv = ["ldapsearch", "-LLL", "-x", "-H", bdii.url, "-b", bdii.base, f"(GlueSubClusterUniqueID={SC2})"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "gluehostapplicationsoftwareruntimeenvironment: glite-3_2_0" in text.lower()


def test_a_subcluster_the_server_does_not_know_is_missing_and_letter_case_does_not_matter(bdii: Bdii) -> None:
    other, wild = Subcluster("ce99.example.org"), Subcluster("*)(objectClass=*")
    shouted = Subcluster(SC1.upper())
    found = infosys.observe_published(bdii.url, bdii.base, [shouted, other, wild], 10)
    assert isinstance(found, dict)
    assert set(found) == {shouted}


def test_a_search_base_that_does_not_exist_is_unknown_with_the_next_thing_to_try(bdii: Bdii) -> None:
    found = infosys.observe_published(bdii.url, "o=nowhere", [SC1], 10)
    assert isinstance(found, Unknown)
    assert "set infosys.base" in found.reason


def test_a_search_base_that_is_no_dn_is_unknown(bdii: Bdii) -> None:
    assert isinstance(infosys.observe_published(bdii.url, "nowhere", [SC1], 10), Unknown)


def test_a_stopped_information_system_is_unknown_and_leaves_no_process(tmp_path: Path, bdii: Bdii) -> None:
    with start_bdii(tmp_path, SITE, [SC1], ["/bin/true"]) as server:
        assert infosys.observe_published(server.url, server.base, [SC1, SC2], 10) == {SC1: frozenset()}
    found = infosys.observe_published(server.url, server.base, [SC1], 10)
    assert isinstance(found, Unknown)
    assert "refused" in found.reason
    for pid in server.pids:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_wait_ends_at_once_when_told_to_stop(bdii: Bdii) -> None:
    stop = threading.Event()
    stop.set()
    wanted = {SC1: Expectation(present=frozenset({Tag("VO-dteam-never")}))}
    ended = infosys.wait_published(bdii.url, bdii.base, wanted, timeout_s=10, wait_s=600, stop=stop)
    assert (ended.reached, ended.looks) == (False, 1)
