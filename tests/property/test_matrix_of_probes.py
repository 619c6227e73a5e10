"""Production beside previews: what differs, whatever is known."""

from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.matrix import compare
from pps_agent.probes.slots import Key, Past
from pps_wire.report import Status

METRICS = ("org.pps.a", "org.pps.b", "org.pps.c")
RELEASES = (None, "x-1-p", "x-2-p")


class Seen(Past):
    """A result with words."""

    summary = "said"


results = st.dictionaries(
    st.builds(Key, st.sampled_from(METRICS), st.sampled_from(RELEASES)),
    st.builds(Seen, st.just(0.0), st.sampled_from(Status), st.just(1), st.just(True)),
)


@given(results, st.sets(st.sampled_from(METRICS)))
def test_each_preview_with_a_result_is_compared_and_differs_only_from_a_known_production(known, metrics):
    compared = compare(known, metrics)
    there = {metric for metric, release in known if release is not None and metric in metrics}
    assert [one.metric for one in compared] == sorted(there)
    for one in compared:
        production = known.get(Key(one.metric, None))
        assert one.production is (None if production is None else production.status)
        for release, status, _ in one.previews:
            assert known[Key(one.metric, release)].status is status
            assert (release in one.differing) == (production is not None and production.status is not status)
            assert f"{release} {status.name}{' (differs)' if release in one.differing else ''}" in one.describe()
