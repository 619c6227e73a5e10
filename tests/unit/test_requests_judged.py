"""Which signed requests a site obeys: each rule by itself, and none obeyed twice or out of time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.requests import MAX_LIFE, find_objection
from pps_wire.names import ProbeName, Site
from pps_wire.request import Request, RequestKind

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SITE = Site("HERE")
ALL = [kind.value for kind in RequestKind]
seconds = st.integers(-200_000, 200_000).map(lambda number: timedelta(seconds=number))


def request(begin: timedelta = timedelta(0), end: timedelta = timedelta(hours=1), **fields: object) -> Request:
    defaults: dict[str, object] = {"site": SITE, "kind": RequestKind.RUN_PROBE, "probe": ProbeName("org.test.say")}
    times = {"not_before": NOW + begin, "deadline": NOW + end}
    return Request(id="0" * 32, **(defaults | times | fields))  # type: ignore[arg-type]


def test_one_that_fits_is_obeyed() -> None:
    assert find_objection(request(), SITE, ["run-probe"], known=False, now=NOW) == ""


@given(begin=seconds, end=seconds)
def test_it_is_obeyed_only_between_its_times_and_never_when_it_lives_too_long(begin: timedelta, end: timedelta) -> None:
    obeyed = find_objection(request(begin, end), SITE, ALL, known=False, now=NOW) == ""
    assert obeyed == (begin <= timedelta(0) < end and end - begin <= MAX_LIFE)


@given(begin=seconds, end=seconds, kind=st.sampled_from(RequestKind), site=st.sampled_from(["HERE", "THERE"]))
def test_one_that_was_seen_before_is_never_obeyed(
    begin: timedelta, end: timedelta, kind: RequestKind, site: str
) -> None:
    assert find_objection(request(begin, end, kind=kind, site=Site(site)), SITE, ALL, known=True, now=NOW)


@pytest.mark.parametrize("kind", RequestKind)
def test_only_what_the_agent_can_do_and_the_site_allows_is_obeyed(kind: RequestKind) -> None:
    assert find_objection(request(kind=kind), SITE, [], known=False, now=NOW)
    obeyed = find_objection(request(kind=kind), SITE, ALL, known=False, now=NOW) == ""
    assert obeyed == (kind is RequestKind.RUN_PROBE)
