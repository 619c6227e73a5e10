"""What the page says, as a pure function of the latest states; and as JSON from a real server."""

from datetime import UTC, datetime, timedelta

import msgspec
import requests
from hypothesis import given
from hypothesis import strategies as st

from pps_collector.pages.matrix import LatestRow, Matrix, SiteRow, build_matrix
from pps_collector.pages.wording import age_of, span_of, tone_of, visible, word_of
from pps_wire.report import Body, ReleaseState, Status, TagState
from tests.collector.running import RELEASE, probe, release, round_of, tag

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SILENT_S = 3 * 3600


def row(body: Body, site: str = "A", at: datetime = NOW) -> LatestRow:
    return LatestRow(site, body.KIND, msgspec.json.encode(body).decode(), at)


def matrix_of(*rows: LatestRow, sites: tuple[SiteRow, ...] = ()) -> Matrix:
    return build_matrix(rows, sites or (SiteRow("A", 1, NOW), SiteRow("B", 1, NOW)), NOW, SILENT_S)


def test_releases_come_newest_version_first_within_their_component():
    versions = ["6.1.0", "6.1.0~rc1", "6.10.0", "6.2.0"]
    other = msgspec.structs.replace(release(), component="arc", release="arc-1.0-x86_64-glibc2.36", version="1.0")
    matrix = matrix_of(*[row(release(version=one)) for one in versions], row(other))
    assert [one.version for one in matrix.releases] == ["1.0", "6.10.0", "6.2.0", "6.1.0", "6.1.0~rc1"]
    assert {one.platform for one in matrix.releases} == {"x86_64-glibc2.36"}


def test_a_cell_holds_state_probes_and_tags_of_one_site():
    matrix = matrix_of(
        row(release(ReleaseState.TAGGED, current=True)), row(probe()), row(tag(TagState.LISTED)), row(release(), "B")
    )
    first, second = matrix.releases[0].sites
    assert (first.site, first.state, first.current) == ("A", "tagged", True)
    assert [one.status for one in first.probes] == ["ok"]
    assert [(one.vo, one.state) for one in first.tags] == [("dteam", "listed")]
    assert (second.site, second.state, second.probes, second.tags) == ("B", "installed", [], [])


def test_failing_probes_stand_first():
    states = [Status.OK, Status.WARNING, Status.UNKNOWN, Status.CRITICAL]
    matrix = matrix_of(*[row(probe(status, probe=f"org.pps.p{status}")) for status in states])
    assert [one.status for one in matrix.releases[0].sites[0].probes] == ["critical", "unknown", "warning", "ok"]


def test_production_probes_stand_with_the_site_not_with_a_release():
    matrix = matrix_of(row(probe(release=None)), row(round_of(2, 1)))
    assert matrix.releases == []
    assert [one.summary for one in matrix.sites[0].production] == ["fine"]
    assert matrix.sites[0].round is not None
    assert matrix.sites[0].round.state == "failed"


def of_group(body: Body, group: str, last_seen_at: datetime = NOW) -> LatestRow:
    raw = msgspec.json.encode(msgspec.structs.replace(body, group=group)).decode()
    return LatestRow("A", body.KIND, raw, NOW, group, last_seen_at)


def test_two_host_groups_of_a_site_stand_side_by_side():
    matrix = matrix_of(
        of_group(release(ReleaseState.TAGGED), "el8"),
        of_group(release(ReleaseState.BROKEN), "el9"),
        of_group(probe(Status.CRITICAL), "el9"),
        of_group(round_of(), "el8"),
    )
    cells = [(one.site, one.group, one.state, len(one.probes)) for one in matrix.releases[0].sites]
    assert cells == [("A", "el8", "tagged", 0), ("A", "el9", "broken", 1)]
    lives = [(one.site, one.group, one.round is not None) for one in matrix.sites]
    assert lives == [("A", "el8", True), ("A", "el9", False), ("B", "default", False)]


def test_a_silent_host_group_is_not_hidden_by_another_one_of_its_site():
    long_ago = NOW - timedelta(seconds=SILENT_S + 1)
    matrix = matrix_of(of_group(release(), "el8", long_ago), of_group(release(), "el9"))
    assert [(one.group, one.silent) for one in matrix.releases[0].sites] == [("el8", True), ("el9", False)]
    alone = matrix_of(of_group(release(), "el8", long_ago))
    assert [(one.group, one.silent) for one in alone.releases[0].sites] == [("el8", False)]


def test_a_site_is_silent_by_the_collectors_clock_only():
    sites = (
        SiteRow("A", 1, NOW - timedelta(seconds=SILENT_S)),
        SiteRow("B", 1, NOW - timedelta(seconds=SILENT_S + 1)),
        SiteRow("C", 1, None),
    )
    matrix = matrix_of(row(release(), "B", at=NOW), row(release(), "A", NOW - timedelta(days=9)), sites=sites)
    assert [(one.site, one.silent) for one in matrix.sites] == [("A", False), ("B", True), ("C", True)]
    assert [(one.site, one.silent) for one in matrix.releases[0].sites] == [("A", False), ("B", True)]


def test_a_probe_that_arrives_before_its_release_is_shown_under_the_id():
    matrix = matrix_of(row(probe()))
    assert (matrix.releases[0].component, matrix.releases[0].version) == (RELEASE, "")
    assert matrix.releases[0].sites[0].state == ""


def test_states_that_cannot_be_read_are_counted():
    assert matrix_of(LatestRow("A", "probe", '{"later": 1}', NOW), row(release())).unreadable == 1


def test_details_of_passed_probes_are_left_out():
    passed, failed = probe(details="x" * 9999), probe(Status.CRITICAL, details="x" * 9999, probe="org.pps.other")
    assert [len(one.details) for one in matrix_of(row(passed), row(failed)).releases[0].sites[0].probes] == [4096, 0]


def test_every_state_has_a_word_and_a_tone_of_its_own():
    kinds = {"release": ReleaseState, "tag": TagState}
    known = [(kind, one.value) for kind, states in kinds.items() for one in states]
    known += [("probe", one.name.lower()) for one in Status]
    for kind, state in known:
        assert word_of(kind, state) != ""
        assert tone_of(kind, state) in {"good", "busy", "warn", "bad", "quiet"}
    assert len({word_of("release", one.value) for one in ReleaseState}) == len(ReleaseState)


@given(text=st.text())
def test_visible_text_has_no_controls_and_no_direction_marks(text):
    shown = visible(text)
    assert len(shown) == len(text)
    assert not set(shown) & set("\0\x07\x1b\u202a\u202e\u2066\u2069\u200e\u200f\u200b\ufeff")


def test_spans_read_as_people_say_them():
    cases = {-5: "0 s", 59: "59 s", 60: "1 min", 3599: "59 min", 3600: "1 h", 18_720: "5 h 12 min", 90_000: "1 d 1 h"}
    assert {seconds: span_of(seconds) for seconds in cases} == cases
    assert age_of(NOW - timedelta(minutes=12), NOW) == "12 min ago"


def test_the_server_gives_the_matrix_as_json(collector):
    site = collector.enrol()
    site.report(release(ReleaseState.BROKEN, "9.9.9", reason="why"), probe(), round_of())
    matrix = msgspec.json.decode(requests.get(f"{collector.pages}/v1/matrix", timeout=30).content, type=Matrix)
    mine = next(one for one in matrix.sites if one.site == site.site)
    assert (mine.silent, mine.agents, mine.round is not None) == (False, 1, True)
    cell = next(one for row in matrix.releases if row.version == "9.9.9" for one in row.sites if one.site == site.site)
    assert (cell.state, cell.reason) == ("broken", "why")


def test_health_says_what_is_wrong_and_what_is_right(collector):
    for base in (collector.pages, collector.agents):
        assert requests.get(f"{base}/healthz", verify=collector.ca, timeout=30).json()["status"] == "ok"
        answer = requests.get(f"{base}/readyz", verify=collector.ca, timeout=30)
        assert answer.status_code == 200
        assert answer.json() == {"ready": True, "database": "ok", "schema": "ok", "writer": "ok"}
