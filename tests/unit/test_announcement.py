"""What is known of a release's tags, by what was seen of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from pps_agent.announcement import find_changes
from pps_agent.state import Desired, Installed, Observed, ProbeSeen, Stance, Unknown
from pps_agent.tags.life import LISTED, UNLISTED, Life, TagState
from pps_wire.names import Vo
from pps_wire.report import Status
from tests.support.worlds import (
    DRAIN_S,
    NOW,
    PROBES,
    PROFILE,
    SUBCLUSTERS,
    make_desired,
    make_observed,
    make_release,
    make_wish,
)

SC1, SC2 = SUBCLUSTERS
DTEAM = Vo("dteam")
END = NOW + timedelta(days=100)
RELEASE = make_release("xroot", "1.0", ("dteam",), expires_at=END)
TAG = RELEASE.tags()[DTEAM]
WISH = make_wish(RELEASE)
PASSING = {(RELEASE.id, probe): ProbeSeen(Status.OK, NOW, "fine", PROFILE) for probe in PROBES}
FAILING = PASSING | {(RELEASE.id, PROBES[0]): ProbeSeen(Status.CRITICAL, NOW, "bad", PROFILE)}


def sight(**fields: object) -> Observed:
    there = {RELEASE.id: Installed(RELEASE, profile=PROFILE)}
    return make_observed(**({"installed": there, "probes": PASSING} | fields))


def look(observed: Observed, *wishes: object, known: Life | None = None) -> Life | None:
    """Give what SC1's entry becomes; an unchanged one is given too."""
    desired: Desired = make_desired(*(wishes or (WISH,)))  # type: ignore[arg-type]
    before = replace(observed, lives={(SC1, DTEAM): {TAG: known}}) if known else observed
    changes = find_changes(desired, before, NOW)
    return changes.get(DTEAM, {}).get(SC1, {}).get(TAG, known)


LISTED_THERE = {(SC1, DTEAM): frozenset({TAG}), (SC2, DTEAM): frozenset({TAG})}
EXPIRING = make_release("xroot", "1.0", ("dteam",), expires_at=NOW + timedelta(days=6))


@pytest.mark.parametrize(
    ("observed", "wish", "state"),
    [
        (sight(probes={}), WISH, TagState.NOT_VERIFIED),
        (sight(), WISH, TagState.VERIFIED),
        (sight(probes={}, tags=LISTED_THERE), WISH, TagState.VERIFIED),
        (sight(probes=FAILING, tags=LISTED_THERE), WISH, TagState.BROKEN),
        (sight(installed={RELEASE.id: Installed(RELEASE, PROFILE, "damaged")}), WISH, TagState.BROKEN),
        (sight(installed={EXPIRING.id: Installed(EXPIRING, PROFILE)}), WISH, TagState.PENDING_REMOVAL),
        (sight(), replace(WISH, stance=Stance.UNWANTED), TagState.PENDING_REMOVAL),
        (sight(), replace(WISH, stance=Stance.HELD), TagState.VERIFIED),
    ],
)
def test_the_state_follows_what_was_seen(observed: Observed, wish: object, state: TagState) -> None:
    life = look(observed, wish)
    assert life is not None
    assert (life.state, life.release) == (state, RELEASE.id)


def test_an_entry_ends_with_its_release_or_when_the_tree_nobody_wants_goes() -> None:
    unwanted = replace(WISH, stance=Stance.UNWANTED)
    assert (look(sight()) or Life(TagState.BROKEN)).expires_at == END.timestamp()
    draining = sight(draining={RELEASE.id: NOW})
    assert (look(draining, unwanted) or Life(TagState.BROKEN)).expires_at == NOW.timestamp() + DRAIN_S
    assert (look(draining) or Life(TagState.BROKEN)).expires_at == END.timestamp()


def test_without_a_tree_there_is_no_entry_and_one_set_by_hand_stays() -> None:
    old = Life(TagState.VERIFIED, RELEASE.id)
    assert look(sight(installed={}), known=old) is None
    by_hand = Life(TagState.VERIFIED, "", NOW.timestamp())
    assert look(sight(installed={}), known=by_hand) == by_hand


@pytest.mark.parametrize("unknown", [{"installed": Unknown("gone")}, {"tags": {(SC1, DTEAM): Unknown("gone")}}])
def test_what_could_not_be_looked_at_changes_nothing(unknown: dict[str, object]) -> None:
    old = Life(TagState.VERIFIED, RELEASE.id)
    assert look(sight(**unknown), known=old) == old
    assert look(sight(**({"installed": {}} | unknown)), known=old) == old


def test_one_list_that_cannot_be_read_holds_up_no_other() -> None:
    seen = sight(tags={(SC1, DTEAM): Unknown("gone")}, lives={(SC2, DTEAM): Unknown("damaged")})
    assert find_changes(make_desired(WISH), seen, NOW) == {}
    assert look(sight(tags={(SC2, DTEAM): Unknown("gone")})) == Life(TagState.VERIFIED, RELEASE.id, END.timestamp())


def test_what_a_person_decided_is_kept_until_the_probes_agree() -> None:
    away = Life(TagState.VERIFIED, RELEASE.id, END.timestamp(), UNLISTED)
    assert look(sight(), known=away) == away
    set_by_hand = Life(TagState.BROKEN, RELEASE.id, END.timestamp(), LISTED)
    assert look(sight(probes=FAILING), known=set_by_hand) == set_by_hand
    assert look(sight(), known=set_by_hand) == Life(TagState.VERIFIED, RELEASE.id, END.timestamp())


def test_where_releases_share_a_tag_the_best_of_them_speaks() -> None:
    other = make_release("xroot", "0.9", ("dteam",), tag_suffix=RELEASE.tag_suffix)
    both = {RELEASE.id: Installed(RELEASE, PROFILE), other.id: Installed(other, PROFILE, "damaged")}
    wishes = (make_wish(other), WISH)
    for order in (wishes, wishes[::-1]):
        life = look(sight(installed=both), *order)
        assert life is not None
        assert (life.state, life.release) == (TagState.VERIFIED, RELEASE.id)


def test_nothing_changes_twice() -> None:
    desired, observed = make_desired(WISH), sight()
    first = find_changes(desired, observed, NOW)
    known = {
        (sc, vo): {t: e for t, e in tags.items() if e} for vo, lists in first.items() for sc, tags in lists.items()
    }
    assert find_changes(desired, replace(observed, lives=known), NOW) == {}
