import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.exceptions import ExpiredMetadataError, RepositoryError
from tuf.ngclient import Updater

from pps_publisher.bundle import load_bundle, unpack_manifest
from pps_publisher.errors import PublishError, TrustError, UsageError
from pps_publisher.files import locked
from pps_publisher.keys import create_key, signer_of
from pps_publisher.online import refresh
from pps_publisher.repository import Repository
from pps_publisher.roles import LIFETIMES, authorities_of
from pps_wire.names import ReleaseId, parse_vo
from pps_wire.release import Changes, Release, parse_release, parse_withdrawal, target_path, withdrawal_path
from pps_wire.request import FLEET_KEYS_PATH, FleetKeys
from tests.support.repository import Program, SmallRepository, serve

NOW = datetime.now(UTC)


@pytest.fixture
def small(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "small")


def updater(small: SmallRepository, url: str) -> Updater:
    """python-tuf's own client, started from the pinned root."""
    state = small.base / "client"
    shutil.rmtree(state, ignore_errors=True)
    (state / "metadata").mkdir(parents=True)
    (state / "targets").mkdir()
    return Updater(
        str(state / "metadata"),
        f"{url}/metadata/",
        str(state / "targets"),
        f"{url}/targets/",
        bootstrap=small.root_bytes,
    )


def seen(small: SmallRepository, path: str) -> Any:
    with serve(small.served) as server:
        return updater(small, server.url).get_targetinfo(path)


def test_a_real_tuf_client_gets_the_manifest_and_the_release_of_a_published_version(small: SmallRepository) -> None:
    release = small.publish()
    with serve(small.served) as server:
        client = updater(small, server.url)
        target = client.get_targetinfo(target_path(release))
        assert target is not None
        assert parse_release(target.custom) == release
        manifest = unpack_manifest(Path(client.download_target(target)).read_bytes())
        assert manifest.head.release == release.id
        keys = client.get_targetinfo(FLEET_KEYS_PATH)
        assert keys is not None
        assert b"test collector" in Path(client.download_target(keys)).read_bytes()
    assert (small.served / release.artifact.path).stat().st_size == release.artifact.length


def test_one_signature_of_two_serves_nothing_and_no_client_sees_the_release(small: SmallRepository) -> None:
    bundle = small.build()
    progress = small.repository.publish([bundle], small.signers["sa3"], NOW)
    assert (progress.served, progress.signatures.signed) == (False, ("sa3",))
    small.refresh()
    assert seen(small, target_path(bundle.release)) is None
    assert not (small.served / bundle.release.artifact.path).exists()


def test_a_client_refuses_clients_metadata_with_one_signature_though_it_was_forced_into_the_served_directory(
    small: SmallRepository,
) -> None:
    release = small.publish()
    path = small.served / "metadata" / "2.clients.json"
    metadata = json.loads(path.read_bytes())
    del metadata["signatures"][1]
    path.write_bytes(json.dumps(metadata).encode())
    with pytest.raises(TrustError, match="served clients has 1 of 2 signatures"):
        small.refresh()
    with serve(small.served) as server, pytest.raises(RepositoryError):
        updater(small, server.url).get_targetinfo(target_path(release))


def test_nothing_is_seen_before_the_online_key_has_refreshed(small: SmallRepository) -> None:
    release = small.publish(refresh=False)
    assert seen(small, target_path(release)) is None
    small.refresh()
    assert seen(small, target_path(release)) is not None


def test_the_same_person_signing_twice_is_still_one_signature(small: SmallRepository) -> None:
    small.repository.publish([small.build()], small.signers["sa3"], NOW)
    (progress,) = small.repository.sign(small.signers["sa3"])
    assert (progress.served, progress.signatures.signed, progress.signatures.waiting) == (
        False,
        ("sa3",),
        ("release-manager",),
    )


@pytest.mark.parametrize("name", ["targets", "online", "root-1", "fleet"])
def test_a_key_of_another_role_may_not_publish(small: SmallRepository, name: str) -> None:
    with pytest.raises(TrustError, match=f"the key of {name} may not sign clients; use one of: release-manager, sa3"):
        small.repository.publish([small.build()], small.signers[name], NOW)
    assert small.repository.staging.pending() == ()


def test_a_strangers_key_may_sign_nothing(small: SmallRepository) -> None:
    stranger = signer_of(Ed25519PrivateKey.generate(), "sa3")
    bundle = small.build()
    small.repository.publish([bundle], small.signers["release-manager"], NOW)
    with pytest.raises(UsageError, match="nothing waits for the key of sa3"):
        small.repository.sign(stranger)
    with pytest.raises(TrustError, match="may not sign snapshot"):
        refresh(small.repository, stranger, NOW, force=True)


def test_one_signature_withdraws_and_the_release_stays_listed(small: SmallRepository) -> None:
    release = small.publish()
    progress = small.withdraw(release.id, "xrdcp loses data")
    assert progress.served
    with serve(small.served) as server:
        client = updater(small, server.url)
        target = client.get_targetinfo(withdrawal_path(release))
        assert target is not None
        document = parse_withdrawal(Path(client.download_target(target)).read_bytes())
        assert (document.release, document.reason) == (release.id, "xrdcp loses data")
        assert client.get_targetinfo(target_path(release)) is not None
    assert small.repository.withdrawn() == {release.id}


def test_withdrawing_an_unknown_a_staged_or_a_withdrawn_release_is_refused(small: SmallRepository) -> None:
    first = small.publish()
    staged = small.publish(version="2.0.0", signatures=1)
    with pytest.raises(UsageError, match=f"is not published here; published are: {first.id}"):
        small.withdraw(ReleaseId("grid-clients-9-x86_64-glibc2.36"))
    with pytest.raises(UsageError, match="is only staged"):
        small.withdraw(staged.id)
    small.withdraw(first.id)
    with pytest.raises(UsageError, match="is withdrawn already"):
        small.withdraw(first.id)
    with pytest.raises(UsageError, match="needs a reason"):
        small.withdraw(first.id, "  ")


def test_a_withdrawn_release_is_not_published_again(small: SmallRepository) -> None:
    release = small.publish()
    small.withdraw(release.id)
    with pytest.raises(PublishError, match="has been withdrawn"):
        small.publish(vos=(parse_vo("atlas"),))


def test_a_published_version_never_changes_its_bytes(small: SmallRepository) -> None:
    release = small.publish()
    before = (small.served / release.artifact.path).read_bytes()
    with pytest.raises(PublishError, match="a version never changes: build it as another version"):
        small.publish({"bin/hello": Program(b"#!/bin/sh\necho other\n")})
    assert (small.served / release.artifact.path).read_bytes() == before


def test_the_same_build_again_is_nothing_to_do_and_another_vo_is_a_change_of_description(
    small: SmallRepository,
) -> None:
    small.publish()
    with pytest.raises(UsageError, match="published already, with the same bytes"):
        small.publish()
    wider = small.publish(vos=(parse_vo("dteam"), parse_vo("atlas")))
    assert small.repository.releases() == {wider.id: wider}


def test_a_build_that_was_changed_after_it_was_made_is_refused(small: SmallRepository) -> None:
    bundle = small.build()
    content = bytearray(bundle.artifact.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.artifact.write_bytes(content)
    with pytest.raises(TrustError, match="has other bytes than the release says"):
        small.repository.publish([bundle], small.signers["sa3"], NOW)


def test_a_staged_artifact_that_was_changed_is_not_signed_by_the_second(small: SmallRepository) -> None:
    release = small.publish(signatures=1)
    staged = small.repository.store.staged / release.artifact.path
    staged.write_bytes(staged.read_bytes() + b"!")
    with pytest.raises(TrustError, match="was changed since it was staged; nothing was signed or served"):
        small.repository.sign(small.signers["sa3"])
    small.refresh()
    assert seen(small, target_path(release)) is None


def test_what_waits_is_finished_or_dropped_before_the_next(small: SmallRepository) -> None:
    first, second = small.build(), small.build(version="2.0.0")
    small.repository.publish([first], small.signers["sa3"], NOW)
    with pytest.raises(PublishError, match="waits for signatures"):
        small.repository.publish([second], small.signers["sa3"], NOW)
    small.repository.publish([second], small.signers["sa3"], NOW, replace_staged=True)
    small.repository.sign(small.signers["release-manager"])
    assert list(small.repository.releases()) == [second.release.id]
    assert not (small.served / first.release.artifact.path).exists()


def test_several_platforms_are_signed_as_one_change(small: SmallRepository) -> None:
    builds = [small.build(platform=platform) for platform in ("x86_64-glibc2.34", "x86_64-glibc2.36")]
    progress = small.repository.publish(builds, small.signers["sa3"], NOW)
    assert [line.partition(":")[0] for line in progress.lines] == [f"adds {bundle.release.id}" for bundle in builds]


def test_a_crash_before_a_complete_version_is_served_is_mended_by_signing_again(small: SmallRepository) -> None:
    bundle = small.build()
    small.repository.publish([bundle], small.signers["release-manager"], NOW)
    # as if the machine had died between the second signature and the move
    waiting = small.repository.store.load_staged("clients")
    assert waiting is not None
    small.repository.store.sign("clients", waiting, small.signers["sa3"])
    small.repository.store.save_staged("clients", waiting)
    # and between the artifact's move and the manifest's
    served = small.served / bundle.release.artifact.path
    served.parent.mkdir(exist_ok=True)
    (small.repository.store.staged / bundle.release.artifact.path).replace(served)
    (progress,) = small.repository.sign(small.signers["sa3"])
    assert progress.served
    small.refresh()
    assert seen(small, target_path(bundle.release)) is not None


def test_a_version_already_served_does_not_wait_any_more(small: SmallRepository) -> None:
    small.publish()
    small.repository.store.staged_path("clients").write_bytes(
        (small.served / "metadata" / "2.clients.json").read_bytes()
    )
    assert small.repository.staging.pending() == ()


def test_an_expired_timestamp_is_refused_by_the_client_and_mended_by_a_refresh(small: SmallRepository) -> None:
    small.publish()
    small.refresh(now=NOW - timedelta(days=4))
    with serve(small.served) as server, pytest.raises(ExpiredMetadataError):
        updater(small, server.url).refresh()
    small.refresh()
    assert seen(small, FLEET_KEYS_PATH) is not None


def test_a_role_that_is_renewed_keeps_its_content_and_gets_its_whole_life_again(small: SmallRepository) -> None:
    release = small.publish()
    later = NOW + timedelta(days=20)
    progress = small.repository.renew("clients", small.signers["sa3"], later)
    assert (progress.served, progress.lines) == (False, ("only moves the expiry date",))
    small.repository.sign(small.signers["release-manager"])
    renewed = small.repository.store.load_targets("clients").signed
    assert renewed.expires == later.replace(microsecond=0) + LIFETIMES["clients"]
    assert list(small.repository.releases()) == [release.id]


def test_a_renewed_root_needs_two_of_three_and_is_followed_by_clients(small: SmallRepository) -> None:
    assert not small.repository.renew("root", small.signers["root-3"], NOW).served
    (progress,) = small.repository.sign(small.signers["root-1"])
    assert (progress.version, progress.served) == (2, True)
    small.refresh()
    with serve(small.served) as server:
        client = updater(small, server.url)
        client.refresh()
        assert "metadata/2.root.json" in server.paths()


def test_refresh_warns_of_roles_that_expire_soon_and_goes_on(small: SmallRepository) -> None:
    warnings = small.refresh(now=NOW + timedelta(days=25)).warnings
    assert [warning.split()[0] for warning in warnings] == ["clients", "withdrawals", "fleet"]


def test_a_role_of_another_person_waits_until_that_person_has_signed(tmp_path: Path) -> None:
    template = SmallRepository(tmp_path / "template")
    repository = Repository(tmp_path / "other")
    keys = {name: signer.public_key for name, signer in template.signers.items()}
    present = [signer for name, signer in template.signers.items() if name != "sa3"]
    made = repository.create(authorities_of(keys), present, FleetKeys(), NOW)
    assert {progress.role: progress.served for progress in made} == {
        "root": True,
        "targets": True,
        "clients": False,
        "withdrawals": True,
        "fleet": True,
    }
    with pytest.raises(UsageError, match="has no clients metadata"):
        refresh(repository, template.signers["online"], NOW)
    assert [progress.role for progress in repository.sign(template.signers["sa3"])] == ["clients"]
    refresh(repository, template.signers["online"], NOW)


def test_a_directory_that_is_a_repository_is_not_made_one_again(small: SmallRepository) -> None:
    keys = {name: signer.public_key for name, signer in small.signers.items()}
    with pytest.raises(UsageError, match="is a repository already"):
        small.repository.create(authorities_of(keys), (), FleetKeys(), NOW)


def test_two_people_with_one_key_are_refused(tmp_path: Path) -> None:
    keys = {name: signer.public_key for name, signer in SmallRepository(tmp_path / "template").signers.items()}
    with pytest.raises(PublishError, match="release-manager and release-manager are the same key"):
        Repository(tmp_path / "other").create(
            authorities_of(keys | {"sa3": keys["release-manager"]}), (), FleetKeys(), NOW
        )


def test_effort_is_signed_in_person_hours_because_signed_json_has_no_fractions(small: SmallRepository) -> None:
    release = small.publish(changes=Changes(effort_ph=20))
    assert small.repository.releases()[release.id].changes.effort_ph == 20


def test_a_repository_in_use_by_another_process_is_left_alone(small: SmallRepository) -> None:
    with locked(small.repository.base / "lock"), pytest.raises(PublishError, match="another pps-publish works"):
        small.refresh()


def test_a_strict_umask_hides_nothing_from_the_web_server_and_a_lax_one_no_key(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        small = SmallRepository(tmp_path / "a" / "b")
        small.publish()
        os.umask(0)
        create_key(tmp_path / "a" / "keys", "sa3", b"correct horse")
    finally:
        os.umask(old)
    for path in (small.served, *small.served.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    keys = tmp_path / "a" / "keys"
    assert {path.name: path.stat().st_mode & 0o777 for path in (keys, *keys.iterdir())} == {
        "keys": 0o700,
        "sa3.pem": 0o600,
        "sa3.pub": 0o644,
    }


def test_a_build_is_found_by_its_directory_or_its_description(small: SmallRepository) -> None:
    release: Release = small.build().release
    by_directory = load_bundle(small.builds)
    assert by_directory == load_bundle(small.builds / f"{release.id}.release.json")
    small.build(version="2.0.0")
    with pytest.raises(UsageError, match="should hold one"):
        load_bundle(small.builds)


def test_nobody_can_sign_what_was_changed_after_the_first_signature(small: SmallRepository) -> None:
    small.publish(signatures=1)
    path = small.repository.base / "staged" / "metadata" / "clients.json"
    path.write_bytes(path.read_bytes().replace(b"pps-1.0.0", b"pps-6.6.6"))
    with pytest.raises(TrustError, match="was changed after release-manager signed it"):
        small.repository.sign(small.signers["sa3"])
