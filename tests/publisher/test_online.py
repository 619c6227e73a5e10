"""The online signer: signs what is due, nothing else, with nothing but the served directory and its key."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_publisher.cli.program import run
from pps_publisher.errors import EXIT_PEOPLE, PublishError, TrustError
from pps_publisher.files import locked
from pps_publisher.online import plan_refresh, refresh
from pps_publisher.repository import Repository
from pps_publisher.verify import verify_repository
from tests.support.repository import SmallRepository

NOW = datetime.now(UTC)


@pytest.fixture
def small(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "small")


def test_nothing_is_signed_while_all_is_fresh_unless_it_is_asked_for(small: SmallRepository) -> None:
    before = sorted(small.served.rglob("*"))
    assert refresh(small.repository, small.signers["online"], NOW).reason == ""
    assert sorted(small.served.rglob("*")) == before
    forced = refresh(small.repository, small.signers["online"], NOW, force=True)
    assert (forced.versions["snapshot"], forced.versions["timestamp"]) == (2, 2)


def test_after_half_its_life_the_timestamp_is_signed_again_and_the_snapshot_stays(small: SmallRepository) -> None:
    assert plan_refresh(small.repository, NOW + timedelta(days=1, hours=11)).reason == ""
    done = refresh(small.repository, small.signers["online"], NOW + timedelta(days=1, hours=13))
    assert done.reason == "less than half of the life of timestamp is left"
    assert (done.versions["snapshot"], done.versions["timestamp"]) == (1, 2)
    assert small.repository.store.versions("snapshot") == [1]
    later = refresh(small.repository, small.signers["online"], NOW + timedelta(days=4))
    assert (later.versions["snapshot"], later.versions["timestamp"]) == (2, 3)
    assert verify_repository(small.repository.store, NOW + timedelta(days=4)).problems == ()


def test_what_is_new_is_shown_at_once(small: SmallRepository) -> None:
    release = small.publish(refresh=False)
    assert refresh(small.repository, small.signers["online"], NOW).reason == "new: clients 2"
    small.withdraw(release.id, refresh=False)
    assert refresh(small.repository, small.signers["online"], NOW).reason == "new: withdrawals 2"


def test_the_signer_needs_the_served_directory_alone(small: SmallRepository, tmp_path: Path) -> None:
    release = small.publish(refresh=False)
    host = Repository(tmp_path / "host")
    shutil.copytree(small.served, host.served)
    refresh(host, small.signers["online"], NOW)
    assert host.store.seen_versions()["clients"] == 2
    assert host.releases() == {release.id: release}
    assert verify_repository(host.store, NOW).problems == ()


def test_damage_to_what_is_staged_does_not_let_the_timestamp_expire(small: SmallRepository) -> None:
    small.publish(signatures=1)
    for path in (small.repository.store.staged_path("clients"), small.repository.store.staged_path("root", 2)):
        path.write_bytes(b"damaged")
    done = refresh(small.repository, small.signers["online"], NOW + timedelta(days=2))
    assert done.versions["timestamp"] == 3
    assert "what is staged is left alone" in done.warnings[0]


def test_two_timers_at_once_are_kept_apart(small: SmallRepository) -> None:
    with locked(small.repository.base / "lock"), pytest.raises(PublishError, match="another pps-publish works"):
        small.refresh()


def test_a_snapshot_left_by_a_crash_before_its_timestamp_is_passed_over(small: SmallRepository) -> None:
    store = small.repository.store
    timestamp = store.served_path("timestamp", 0).read_bytes()
    small.publish()
    store.served_path("timestamp", 0).write_bytes(timestamp)
    assert refresh(small.repository, small.signers["online"], NOW).versions["snapshot"] == 3
    assert store.seen_versions()["clients"] == 2
    assert verify_repository(store, NOW).problems == ()


def test_served_metadata_older_than_what_sites_have_seen_is_not_shown(small: SmallRepository) -> None:
    small.publish()
    (small.served / "metadata" / "2.clients.json").unlink()
    with pytest.raises(TrustError, match="sites have seen newer versions than are served"):
        small.refresh()


def options(small: SmallRepository, tmp_path: Path) -> list[str]:
    return ["refresh", "--repo", str(small.repository.base), "--output", "json", "--key", str(tmp_path / "no.pem")]


def test_a_fresh_repository_asks_for_no_key_and_ends_well(
    small: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(small, tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == ""
    assert run([*options(small, tmp_path), "--force"]) == 2


def test_a_role_that_people_must_sign_soon_is_an_alarm_before_it_expires(
    small: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*options(small, tmp_path), "--warn-days", "29"]) == 0
    assert run([*options(small, tmp_path), "--warn-days", "31"]) == EXIT_PEOPLE
    assert "clients, withdrawals, fleet: expired or expiring within 31 days" in capsys.readouterr().err
    repository = str(small.repository.base)
    assert run(["verify", "--repo", repository, "--expiry-within", "2"]) == 0
    assert run(["verify", "--repo", repository, "--expiry-within", "4"]) == EXIT_PEOPLE
    assert "timestamp: expires within 4 days" in capsys.readouterr().err


def test_verify_speaks_as_a_monitoring_plugin(small: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "--repo", str(small.repository.base), "--plugin"]
    assert run(command) == 0
    assert capsys.readouterr().out.startswith("REPOSITORY OK - 0 releases, 0 withdrawn | root=36")
    assert run([*command, "--expiry-within", "4"]) == 1
    assert capsys.readouterr().out.startswith("REPOSITORY WARNING - timestamp to be signed again soon | ")
    small.refresh(now=NOW - timedelta(days=5))
    assert run(command) == 2
    assert capsys.readouterr().out.startswith("REPOSITORY CRITICAL - timestamp has expired")
    assert run(["verify", "--repo", "/proc/1/none", "--plugin"]) == 2
