"""Which releases are superseded: over any wishes and any sight, nothing that must be kept is named."""

from hypothesis import given
from hypothesis import strategies as st

from pps_agent.retention import Kept, find_superseded
from pps_agent.state import Stance, Unknown
from pps_wire.names import version_key
from tests.support.worlds import make_release, make_wish

RELEASES = [make_release(component, f"{number}.0") for component in ("gfal", "xroot") for number in range(1, 8)]


@st.composite
def worlds(draw):
    chosen = draw(st.lists(st.sampled_from(RELEASES), unique_by=lambda release: release.id))
    wishes = [make_wish(release, draw(st.sampled_from([Stance.WANTED, *Stance]))) for release in chosen]
    some = st.sampled_from([release.id for release in RELEASES])
    kept = Kept(
        current={c: draw(some) for c in ("gfal", "xroot") if draw(st.booleans())},
        previous={c: draw(some) for c in ("gfal", "xroot") if draw(st.booleans())},
        pins=draw(st.frozensets(some, max_size=3)),
    )
    return wishes, draw(st.integers(1, 4)), kept


@given(worlds())
def test_what_is_kept_is_never_superseded_and_only_the_wanted_is(world):
    wishes, keep, kept = world
    superseded = find_superseded(wishes, keep, kept)
    stances = {wish.release: wish.stance for wish in wishes}
    for release in superseded:
        assert release not in kept.pins
        assert release not in kept.current.values()
        assert release not in kept.previous.values()
        assert stances[release] is Stance.WANTED


@given(worlds())
def test_the_newest_stay_and_at_most_they_and_the_kept_remain(world):
    wishes, keep, kept = world
    superseded = find_superseded(wishes, keep, kept)
    for component in ("gfal", "xroot"):
        wanted = [w for w in wishes if w.component == component and w.stance is Stance.WANTED]
        newest = sorted(wanted, key=lambda wish: version_key(wish.version))[-keep:]
        assert not {wish.release for wish in newest} & superseded.keys()
        remain = [wish for wish in wanted if wish.release not in superseded and wish.release not in kept]
        assert len(remain) <= keep


@given(worlds())
def test_asked_again_of_what_remains_it_names_nothing_more(world):
    wishes, keep, kept = world
    superseded = find_superseded(wishes, keep, kept)
    assert find_superseded([wish for wish in wishes if wish.release not in superseded], keep, kept) == {}


@given(worlds())
def test_nothing_is_superseded_when_nobody_could_look_what_must_be_kept(world):
    wishes, keep, _ = world
    assert find_superseded(wishes, keep, Unknown("no store")) == {}
