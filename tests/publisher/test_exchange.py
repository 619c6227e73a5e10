"""Keys are exchanged by several people, and no agent ever meets metadata that it must refuse."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from pps_agent.errors import TrustError as AgentTrustError
from pps_publisher.errors import ConfigError, PublishError, TrustError, UsageError
from pps_publisher.exchange import Exchange
from pps_publisher.keys import signer_of
from pps_publisher.online import plan_refresh, refresh
from pps_publisher.staging import Progress
from pps_publisher.verify import verify_repository
from tests.distribution.site import Site
from tests.support.repository import FaultyServer, SmallRepository, serve

NOW = datetime.now(UTC)
EVERYBODY = ("root-1", "root-2", "root-3", "targets", "release-manager", "sa3", "fleet")


class Office:
    """The people of a small repository, and two sites: one looks at every step, the other seldom."""

    def __init__(self, base: Path, small: SmallRepository, url: str) -> None:
        self.small = small
        self.repository = small.repository
        self._base = base
        self._url = url
        self._numbers = count()
        self.watcher = self.new_site()

    def new_site(self) -> Site:
        return Site(self._base / f"site-{next(self._numbers)}", self.small.root_bytes, self._url)

    def new_keys(self, *names: str) -> dict[str, CryptoSigner]:
        return {name: signer_of(Ed25519PrivateKey.generate(), name) for name in names}

    def stage(self, new: dict[str, CryptoSigner], *, replace: bool = False) -> tuple[Progress, ...]:
        exchange = Exchange(self.repository, NOW, replace_staged=replace)
        keys = {name: signer.public_key for name, signer in new.items()}
        return exchange.stage(lambda: exchange.rotate(keys), None)

    def sign(self, *signers: CryptoSigner) -> list[Progress]:
        """Let people sign one by one; the watching site looks after each of them."""
        done: list[Progress] = []
        for signer in signers:
            with contextlib.suppress(UsageError):  # nothing waits for this one
                done = list(self.repository.sign(signer))
            self.look()
        return done

    def refresh(self, signer: CryptoSigner | None = None) -> None:
        refresh(self.repository, signer or self.small.signers["online"], NOW)
        self.look()
        assert verify_repository(self.repository.store, NOW).problems == ()

    def look(self) -> None:
        """A known and a new site accept what is served now."""
        fresh = self.new_site()
        assert self.watcher.refresh().offers == fresh.refresh().offers
        fresh.close()

    def rotate(self, *names: str) -> None:
        """Exchange keys from the first step to the last with everybody's help."""
        new = self.new_keys(*names)
        self.stage(new)
        self.look()
        self.sign(*(signer for name, signer in new.items() if name != "online"))
        self.sign(*(self.small.signers[name] for name in ("root-1", "root-2", "targets", "release-manager", "sa3")))
        self.small.signers |= new
        self.refresh()
        self.refresh()
        assert self.repository.staging.pending() == ()

    def ids(self) -> list[str]:
        return [offer.release.id for offer in self.watcher.refresh().offers]


@pytest.fixture
def small(tmp_path: Path) -> SmallRepository:
    small = SmallRepository(tmp_path / "publisher")
    small.publish()
    return small


@pytest.fixture
def server(small: SmallRepository) -> Iterator[FaultyServer]:
    with serve(small.served) as running:
        yield running


@pytest.fixture
def office(tmp_path: Path, small: SmallRepository, server: FaultyServer) -> Iterator[Office]:
    office = Office(tmp_path / "sites", small, server.url)
    office.look()
    yield office
    office.watcher.close()


@pytest.mark.parametrize(
    "names", [("root-1",), ("targets",), ("online",), ("sa3",), ("release-manager", "sa3"), ("fleet",), EVERYBODY]
)
def test_at_every_step_of_an_exchange_known_and_new_sites_accept_what_is_served(
    office: Office, names: tuple[str, ...]
) -> None:
    office.rotate(*names)
    root, targets = office.repository.store.load_root().signed, office.repository.store.load_targets().signed
    assert targets.delegations is not None
    held = root.keys.keys() | targets.delegations.keys.keys()
    assert {office.small.signers[name].public_key.keyid for name in names} <= held
    assert len(held) == 8
    release = office.small.publish(version="2.0.0")
    assert release.id in office.ids()


def test_a_site_that_was_off_for_three_exchanges_of_all_root_keys_follows_the_chain(office: Office) -> None:
    sleeper = office.new_site()
    sleeper.refresh()
    for _ in range(3):
        office.rotate("root-1", "root-2", "root-3", "online")
    release = office.small.publish(version="2.0.0")
    assert office.repository.store.versions("root") == [1, 2, 3, 4, 5, 6, 7]
    assert release.id in [offer.release.id for offer in sleeper.refresh().offers]
    assert sleeper.load().offers == sleeper.refresh().offers
    sleeper.close()


def test_a_root_key_needs_two_old_and_two_new_root_keys(office: Office) -> None:
    new = office.new_keys("root-1", "root-2")
    office.stage(new)
    (progress,) = office.sign(office.small.signers["root-1"], office.small.signers["root-2"])
    assert (progress.served, progress.signatures.signed) == (False, ())
    (progress,) = office.sign(new["root-1"])
    assert (progress.served, progress.signatures.signed) == (False, ("root-1",))
    (progress,) = office.sign(new["root-2"])
    assert progress.served


@pytest.mark.parametrize("lost", ["root-2", "targets", "online", "sa3", "release-manager", "fleet"])
def test_a_lost_key_is_replaced_without_it(office: Office, lost: str) -> None:
    del office.small.signers[lost]
    new = office.new_keys(lost)
    office.stage(new)
    office.sign(*(office.small.signers[name] for name in EVERYBODY if name in office.small.signers))
    if lost != "online":
        office.sign(*new.values())
    office.small.signers |= new
    office.refresh()
    office.refresh()
    assert office.repository.staging.pending() == ()
    assert office.small.publish(version="2.0.0").id in office.ids()


def test_with_two_root_keys_lost_no_root_is_ever_served(office: Office) -> None:
    new = office.new_keys("root-1", "root-2")
    office.stage(new)
    (progress,) = office.sign(office.small.signers["root-3"], *new.values())
    assert not progress.served
    assert office.repository.store.versions("root") == [1]


def test_the_root_without_the_old_online_key_waits_for_a_refresh_with_the_new_one(office: Office) -> None:
    new = office.new_keys("online")["online"]
    office.stage({"online": new})
    done = office.sign(office.small.signers["root-1"], office.small.signers["root-3"])
    assert [(progress.version, progress.served) for progress in done] == [(2, True), (3, False)]
    office.refresh()
    assert office.repository.store.versions("root") == [1, 2]
    office.refresh(new)
    assert office.repository.store.versions("root") == [1, 2, 3]
    with pytest.raises(TrustError, match="the key of online may not sign"):
        refresh(office.repository, office.small.signers["online"], NOW, force=True)


def test_a_refresh_tells_the_root_that_it_served_and_of_none_that_waits(office: Office) -> None:
    new = office.new_keys("online")
    office.stage(new)
    office.sign(office.small.signers["root-1"], office.small.signers["root-2"])
    old = refresh(office.repository, office.small.signers["online"], NOW)
    assert (old.versions["root"], [line for line in old.warnings if "root waits" in line] != []) == (2, True)
    done = refresh(office.repository, new["online"], NOW)
    assert (done.versions["root"], done.warnings) == (office.repository.store.load_root().signed.version, ())
    assert done.versions["root"] == 3


def test_a_thief_of_the_online_key_who_raised_all_versions_is_forgotten_after_the_exchange(office: Office) -> None:
    thief = office.small.signers["online"]
    store = office.repository.store
    good = shutil.copytree(office.small.served, office.small.base / "good")
    snapshot: Metadata[Snapshot] = store.load_snapshot()
    snapshot.signed.version = 2_000_000
    snapshot.sign(thief)
    (office.small.served / "metadata" / "2000000.snapshot.json").write_bytes(snapshot.to_bytes())
    timestamp: Metadata[Timestamp] = store.load_timestamp()
    timestamp.signed.version = 2_000_000
    timestamp.signed.snapshot_meta = MetaFile.from_data(2_000_000, snapshot.to_bytes(), ["sha256"])
    timestamp.sign(thief)
    (office.small.served / "metadata" / "timestamp.json").write_bytes(timestamp.to_bytes())
    office.watcher.refresh()
    shutil.rmtree(office.small.served)
    shutil.copytree(good, office.small.served)
    office.small.refresh()
    with pytest.raises(AgentTrustError):
        office.watcher.refresh()
    new = office.new_keys("online")["online"]
    office.stage({"online": new})
    for name in ("root-1", "root-2"):
        office.repository.sign(office.small.signers[name])
    refresh(office.repository, new, NOW)
    office.look()


def test_the_old_keys_publish_nothing_once_the_new_ones_are_served(office: Office) -> None:
    old = dict(office.small.signers)
    office.rotate("sa3", "release-manager")
    bundle = office.small.build(version="2.0.0")
    with pytest.raises(TrustError, match="may not sign clients"):
        office.repository.publish([bundle], old["sa3"], NOW)


def test_a_release_that_waits_keeps_an_exchange_from_starting_unless_it_is_dropped(office: Office) -> None:
    office.small.publish(version="2.0.0", signatures=1)
    new = office.new_keys("sa3")
    with pytest.raises(PublishError, match="clients version 3 waits for signatures"):
        office.stage(new)
    assert [change.role for change in office.repository.staging.pending()] == ["clients"]
    office.stage(new, replace=True)
    office.sign(office.small.signers["targets"], office.small.signers["release-manager"], new["sa3"])
    office.refresh()
    assert office.repository.staging.pending() == ()


def test_a_withdrawal_gets_through_while_keys_are_exchanged_and_is_still_there_afterwards(office: Office) -> None:
    (withdrawn,) = office.repository.releases()
    office.repository.renew("withdrawals", office.small.signers["sa3"], NOW)
    new = office.new_keys("sa3")
    staged = office.stage(new)
    assert [progress.role for progress in staged] == ["targets", "clients", "withdrawals"]
    progress = office.repository.withdraw(withdrawn, "crashes", office.small.signers["sa3"], NOW)
    assert progress.served
    assert "withdrawals" in [change.role for change in office.repository.staging.pending()]
    office.refresh()
    assert [offer.withdrawn is not None for offer in office.watcher.refresh().offers] == [True]
    office.sign(office.small.signers["targets"], office.small.signers["release-manager"], new["sa3"])
    assert office.repository.staging.pending() == ()
    office.refresh()
    assert office.repository.withdrawn() == {withdrawn}
    assert [offer.withdrawn is not None for offer in office.watcher.refresh().offers] == [True]


def test_a_release_may_be_published_while_keys_are_exchanged_and_goes_with_them(office: Office) -> None:
    new = office.new_keys("sa3")
    office.stage(new)
    bundle = office.small.build(version="2.0.0")
    office.repository.publish([bundle], office.small.signers["release-manager"], NOW)
    office.sign(new["sa3"])
    assert bundle.release.id not in office.ids()
    office.sign(office.small.signers["targets"])
    office.refresh()
    assert bundle.release.id in office.ids()


def test_targets_waits_for_the_roles_that_it_would_not_accept(office: Office) -> None:
    new = office.new_keys("sa3")
    office.stage(new)
    office.sign(office.small.signers["targets"])
    assert office.repository.store.versions("targets") == [1]
    office.sign(office.small.signers["release-manager"], new["sa3"])
    assert office.repository.store.versions("targets") == [1, 2]


def test_the_same_exchange_again_keeps_the_signatures_and_another_one_is_refused(office: Office) -> None:
    new = office.new_keys("root-1")
    office.stage(new)
    office.sign(office.small.signers["root-2"])
    (progress,) = office.stage(new)
    assert progress.signatures.signed == ("root-2",)
    with pytest.raises(PublishError, match="root version 2 waits for signatures"):
        office.stage(office.new_keys("root-2"))
    office.sign(office.small.signers["root-3"])
    assert office.stage(new) == ()


def test_what_a_signature_changes_about_keys_is_told_before_it_is_made(office: Office) -> None:
    new = office.new_keys("sa3", "online")
    office.stage(new)
    told = [line for change in office.repository.staging.pending() for line in change.lines]
    sa3 = (office.small.signers["sa3"].public_key.keyid[:16], new["sa3"].public_key.keyid[:16])
    assert f"clients: adds the key {sa3[1]} of sa3" in told
    assert f"clients: removes the key {sa3[0]} of sa3" in told
    online = (office.small.signers["online"].public_key.keyid[:16], new["online"].public_key.keyid[:16])
    assert f"timestamp: adds the key {online[1]} of online" in told
    assert f"timestamp: removes the key {online[0]} of online" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda roles, keys: roles[0].update(threshold=1), "clients needs 1 signatures, not 2"),
        (lambda roles, keys: roles[0].update(paths=["clients/*/*"]), "clients speaks for clients/*/*"),
        (lambda roles, keys: roles.pop(1), "no longer delegates withdrawals"),
        (
            lambda roles, keys: keys[roles[0]["keyids"][0]]["keyval"].update(public="ab" * 32),
            "changes the key behind the id",
        ),
    ],
)
def test_a_change_of_rights_slipped_into_staged_targets_is_told_to_the_signer(office, change, told) -> None:
    office.stage(office.new_keys("sa3"))
    path = office.repository.store.staged_path("targets")
    document = json.loads(path.read_bytes())
    change(document["signed"]["delegations"]["roles"], document["signed"]["delegations"]["keys"])
    path.write_text(json.dumps(document))
    lines = next(one.lines for one in office.repository.staging.pending() if one.role == "targets")
    assert any(told in line for line in lines)


def test_a_third_holder_is_added_publishes_with_another_and_is_removed(office: Office) -> None:
    third = office.new_keys("sa3-deputy")["sa3-deputy"]
    exchange = Exchange(office.repository, NOW)
    exchange.stage(lambda: exchange.add("sa3-deputy", third.public_key), office.small.signers["targets"])
    office.refresh()
    bundle = office.small.build(version="2.0.0")
    office.repository.publish([bundle], office.small.signers["release-manager"], NOW)
    office.sign(third)
    office.refresh()
    assert bundle.release.id in office.ids()
    exchange.stage(lambda: exchange.remove("sa3-deputy"), office.small.signers["targets"])
    office.sign(office.small.signers["release-manager"], office.small.signers["sa3"])
    office.refresh()
    assert office.repository.staging.pending() == ()
    with pytest.raises(UsageError, match="nobody could publish"):
        exchange.remove("sa3")


def test_a_key_that_was_exchanged_is_told_apart_from_the_one_its_holder_has_now(office: Office) -> None:
    old = office.small.signers["sa3"]
    office.rotate("sa3")
    bundle = office.small.build(version="2.0.0")
    with pytest.raises(TrustError, match="sa3 holds another key by now"):
        office.repository.publish([bundle], old, NOW)


@pytest.mark.parametrize("name", ["online", "root-1", "targets", "fleet"])
def test_a_name_that_has_another_office_gets_no_key_for_releases(office: Office, name: str) -> None:
    key = office.new_keys(name)[name].public_key
    with pytest.raises(UsageError, match=f"{name} holds a key of another role"):
        Exchange(office.repository, NOW).add(name, key)
    assert office.repository.staging.pending() == ()


def test_a_key_of_another_person_and_a_name_that_holds_nothing_are_refused(office: Office) -> None:
    exchange = Exchange(office.repository, NOW)
    with pytest.raises(ConfigError, match="sa3 and fleet would share a key"):
        exchange.rotate({"sa3": office.small.signers["fleet"].public_key})
    with pytest.raises(UsageError, match="nobody holds no key of this repository; holders are: fleet,"):
        exchange.rotate({"nobody": office.new_keys("nobody")["nobody"].public_key})
    with pytest.raises(TrustError, match="may sign none of these versions"):
        exchange.stage(
            lambda: exchange.rotate({"sa3": office.new_keys("sa3")["sa3"].public_key}), office.small.signers["online"]
        )
    assert office.repository.staging.pending() == ()


def test_a_version_that_is_not_accepted_yet_is_held_back_and_the_rest_is_refreshed(office: Office) -> None:
    new = office.new_keys("sa3")
    office.stage(new)
    store = office.repository.store
    for signer in (office.small.signers["release-manager"], new["sa3"]):
        office.repository.sign(signer)
    # as if a crash had come between serving the role and serving the targets that accept it
    waiting = store.load_staged("clients")
    assert waiting is not None
    store.serve("clients", waiting)
    planned = plan_refresh(office.repository, NOW + timedelta(days=2))
    assert (planned.versions["clients"], planned.versions["targets"]) == (2, 1)
    assert any(line.startswith("clients version 3 is held back") for line in planned.warnings)
    office.refresh()
    office.repository.sign(office.small.signers["targets"])
    office.refresh()
    assert store.seen_versions()["clients"] == 3
