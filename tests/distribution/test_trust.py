"""Whom the agent believes: signatures, thresholds, rollback, expiry, and what is kept."""

import json
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.errors import FetchError, SiteError, TrustError
from pps_agent.metadata import FLEET, Bundle, parse_bundle, render_bundle, verify_bundle
from pps_agent.mirrors import Mirrors
from pps_agent.state import Unknown
from pps_agent.trust import Trust
from pps_wire.errors import WireError
from pps_wire.release import parse_release, render_custom
from tests.distribution.site import Site, picture
from tests.support.repository import SmallRepository
from tests.support.tuf_repository import new_signer

NOW = datetime.now(UTC)


def ids(offered):
    return [offer.release.id for offer in offered.offers]


def test_a_published_release_is_offered_as_its_publisher_described_it(site, repository):
    release = repository.publish()
    offered = site.refresh()
    assert (release,) == tuple(offer.release for offer in offered.offers)
    assert offered.problem == ""
    assert NOW + timedelta(days=2) < offered.expires_at < NOW + timedelta(days=4)


def test_what_was_refreshed_can_be_loaded_without_a_network(site, repository, server):
    repository.publish()
    offered = site.refresh()
    server.requests.clear()
    assert offered == site.load()
    assert server.paths() == []


def test_before_the_first_refresh_nothing_is_known(site):
    assert isinstance(site.trust.load(NOW), Unknown)


def test_an_empty_repository_offers_nothing(site):
    assert site.refresh().offers == ()


def test_a_refresh_that_finds_nothing_new_asks_twice_and_writes_nothing(site, repository, server):
    repository.publish()
    site.refresh()
    server.requests.clear()
    times = {path: path.stat().st_mtime_ns for path in (site.base / "state").rglob("*") if path.is_file()}
    site.refresh()
    assert server.paths() == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert times == {path: path.stat().st_mtime_ns for path in (site.base / "state").rglob("*") if path.is_file()}


def test_one_signature_is_not_enough_for_a_release(site, repository):
    first = repository.publish()
    repository.publish(version="1.0.1", signatures=1)
    assert [first.id] == ids(site.refresh())


def test_metadata_with_one_signature_where_two_are_needed_is_refused(site, repository):
    repository.publish()
    before = site.refresh()
    repository.publish(version="1.0.1")
    forge(repository, "clients", lambda document: document["signatures"].pop())
    with pytest.raises(TrustError, match="clients was signed by 1/2 keys") as caught:
        site.refresh()
    assert caught.value.exit_code == 4
    assert before == site.load()


def test_a_changed_byte_in_signed_metadata_is_refused(site, repository):
    repository.publish()
    before = site.refresh()
    repository.publish(version="1.0.1")
    forge(repository, "clients", lambda document: document["signed"].update(version=2, expires="2099-01-01T00:00:00Z"))
    with pytest.raises(TrustError):
        site.refresh()
    assert before == site.load()


def test_a_wrong_root_key_is_refused(tmp_path, repository, server):
    repository.publish()
    stranger = SmallRepository(tmp_path / "stranger")
    site = Site(tmp_path / "site", stranger.root_bytes, server.url)
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys") as caught:
        site.refresh()
    site.close()
    assert caught.value.exit_code == 4
    assert isinstance(site.trust.load(NOW), Unknown)


@pytest.mark.parametrize("root", [b"", b"{}", b"not json", b'{"signed": {}, "signatures": []}', b"[" * 100_000])
def test_a_pinned_root_that_is_no_root_is_refused(tmp_path, server, site, root):
    trust = Trust(tmp_path / "tuf", root, site.mirrors)
    with pytest.raises(TrustError):
        trust.refresh(NOW)
    site.refresh()
    shutil.copytree(site.base / "state", tmp_path / "other")
    assert isinstance(Trust(tmp_path / "other" / "tuf", root, site.mirrors).load(NOW), Unknown)


def test_expired_metadata_is_refused_but_still_loaded(tmp_path, repository, server):
    repository.publish()
    site = Site(tmp_path / "site", repository.root_bytes, server.url)
    site.refresh()
    repository.refresh(now=NOW - timedelta(days=30))
    with pytest.raises(TrustError, match=r"is expired.*check this machine's clock") as caught:
        site.refresh()
    site.close()
    assert caught.value.exit_code == 4
    assert len(site.load().offers) == 1


def test_expiry_is_judged_by_the_time_given_too_and_told_by_load(site, repository):
    repository.publish()
    offered = site.refresh()
    with pytest.raises(TrustError, match="expired at"):
        site.refresh(NOW + timedelta(days=10))
    loaded = site.trust.load(NOW + timedelta(days=10))
    assert not isinstance(loaded, Unknown)
    assert (offered.offers, offered.expires_at) == (loaded.offers, loaded.expires_at)
    assert "expired at" in loaded.problem


def test_a_rolled_back_repository_is_refused_also_by_a_new_process(site, repository, tmp_path):
    repository.publish()
    site.refresh()
    old = tmp_path / "old"
    shutil.copytree(repository.served, old)
    second = repository.publish(version="1.0.1")
    newest = site.refresh()
    assert second.id in ids(newest)
    shutil.rmtree(repository.served)
    shutil.copytree(old, repository.served)
    fresh = Trust(site.base / "state" / "tuf", site.root, site.mirrors)
    with pytest.raises(TrustError, match="timestamp version") as caught:
        fresh.refresh(NOW)
    assert caught.value.exit_code == 4
    assert newest == fresh.load(NOW)


def test_a_rolled_back_snapshot_is_refused(site, repository):
    repository.publish()
    site.refresh()
    old = (repository.served / "metadata" / "2.snapshot.json").read_bytes()
    repository.publish(version="1.0.1")
    before = site.load()
    (repository.served / "metadata" / "3.snapshot.json").write_bytes(old)
    with pytest.raises(TrustError):
        site.refresh()
    assert before == site.load()


def test_a_timestamp_seen_once_is_the_floor_even_when_the_rest_could_not_be_fetched(site, repository, server):
    repository.publish()
    site.refresh()
    old = (repository.served / "metadata" / "timestamp.json").read_bytes()
    repository.publish(version="1.0.1")
    server.plant("metadata/3.snapshot.json", status=503)
    with pytest.raises(FetchError):
        site.refresh()
    assert len(site.load().offers) == 1
    server.heal()
    (repository.served / "metadata" / "timestamp.json").write_bytes(old)
    with pytest.raises(TrustError, match="timestamp version"):
        site.refresh()


def test_a_repository_that_is_down_is_a_temporary_error_and_nothing_is_lost(site, repository, tmp_path):
    repository.publish()
    before = site.refresh()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    down = Trust(site.base / "state" / "tuf", site.root, Mirrors(site.fetcher, [f"http://127.0.0.1:{port}"]))
    with pytest.raises(FetchError) as caught:
        down.refresh(NOW)
    assert caught.value.exit_code == 75
    assert before == down.load(NOW)


def test_an_address_without_a_repository_is_a_permanent_error(tmp_path, site, server):
    elsewhere = Trust(tmp_path / "tuf", site.root, Mirrors(site.fetcher, [f"{server.url}/nothing"]))
    with pytest.raises(FetchError) as caught:
        elsewhere.refresh(NOW)
    assert caught.value.exit_code == 69


def test_endless_metadata_is_cut_off(site, repository, server):
    (repository.served / "metadata" / "timestamp.json").write_bytes(b" " * 20_000)
    with pytest.raises(FetchError, match="metadata"):
        site.refresh()
    (repository.served / "metadata" / "timestamp.json").write_bytes(b" " * 6_000_000)
    with pytest.raises(FetchError, match="longer than"):
        site.refresh()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 16_000, b'{"signed":1,"signatures":[]}', b"\xff\xfe"])
def test_metadata_that_is_rubbish_is_refused(site, repository, content):
    (repository.served / "metadata" / "timestamp.json").write_bytes(content)
    with pytest.raises(TrustError):
        site.refresh()


def test_a_withdrawn_release_says_why_online_and_offline(site, repository, server):
    release = repository.publish()
    repository.withdraw(release.id, "loses files")
    withdrawn = site.refresh().offers[0].withdrawn
    assert withdrawn is not None
    assert (release.id, "loses files") == (withdrawn.release, withdrawn.reason)
    assert withdrawn == site.load().offers[0].withdrawn
    server.requests.clear()
    assert withdrawn == site.refresh().offers[0].withdrawn
    assert not [path for path in server.paths() if path.startswith("targets/")]


@pytest.mark.parametrize("fault", [{"status": 503}, {"flip_at": 5}, {"truncate_to": 3}])
def test_a_withdrawal_counts_even_when_its_text_cannot_be_had(site, repository, server, fault):
    release = repository.publish()
    repository.withdraw(release.id, "loses files")
    path = next((repository.served / "targets" / "withdrawals").rglob("*.json")).relative_to(repository.served)
    server.plant(str(path), **fault)
    withdrawn = site.refresh().offers[0].withdrawn
    assert withdrawn is not None
    assert "cannot be read" in withdrawn.reason
    server.heal()
    healed = site.refresh().offers[0].withdrawn
    assert healed is not None
    assert healed.reason == "loses files"


def test_a_release_that_cannot_be_read_hides_no_other(site, repository):
    good = repository.publish()
    repository.publish(version="1.0.1")
    repository.publish(version="1.0.2")
    spoil_custom(repository, "1.0.1", {"v": 99})
    spoil_custom(repository, "1.0.2", lambda custom: custom | {"version": "7.7.7"})
    offered = site.refresh()
    assert [good.id] == ids(offered)
    assert "1.0.1/x86_64-glibc2.36.manifest.zst is left out" in offered.problem
    assert "belongs at clients/grid-clients/7.7.7/" in offered.problem
    assert offered.offers == site.load().offers


def test_a_rotated_root_is_followed_and_loads_offline(site, repository):
    repository.publish()
    site.refresh()
    rotate_root(repository)
    repository.publish(version="1.0.1")
    offered = site.refresh()
    assert len(offered.offers) == 2
    assert offered == site.load()
    bundle = parse_bundle((site.base / "state" / "tuf" / "last-good.json").read_bytes())
    assert len(bundle.roots) == 1


def test_a_new_root_signed_by_strangers_is_refused(site, repository, tmp_path):
    repository.publish()
    before = site.refresh()
    stranger = SmallRepository(tmp_path / "stranger")
    document = json.loads(stranger.root_bytes)
    document["signed"]["version"] = 2
    (repository.served / "metadata" / "2.root.json").write_bytes(json.dumps(document).encode())
    with pytest.raises(TrustError):
        site.refresh()
    assert before == site.load()


def test_a_second_agent_refreshing_at_once_is_told_so(site, repository):
    import fcntl

    repository.publish()
    site.refresh()
    with (site.base / "state" / "tuf" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SiteError, match="another agent is refreshing"):
            site.refresh()


def test_a_state_directory_that_cannot_be_written_is_a_site_error(tmp_path, server, site):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SiteError) as caught:
        Trust(tmp_path / "file" / "tuf", site.root, site.mirrors).refresh(NOW)
    assert caught.value.exit_code == 6


def test_what_a_killed_refresh_left_behind_is_swept(site, repository):
    repository.publish()
    leftover = site.base / "state" / "tuf" / "work.dead"
    (leftover / "root_history").mkdir(parents=True)
    site.refresh()
    assert not leftover.exists()


def test_kept_metadata_that_was_tampered_with_does_not_load(site, repository):
    repository.publish()
    site.refresh()
    path = site.base / "state" / "tuf" / "last-good.json"
    bundle = parse_bundle(path.read_bytes())
    for role in bundle.roles:
        forged = json.loads(bundle.roles[role])
        forged["signed"]["version"] += 1
        roles = bundle.roles | {role: json.dumps(forged)}
        path.write_bytes(render_bundle(Bundle(roots=bundle.roots, roles=roles)))
        if role == FLEET:  # no release rests on it
            assert len(site.load().offers) == 1
            with pytest.raises(TrustError):
                site.trust.load_fleet_keys(NOW)
            continue
        assert isinstance(site.trust.load(NOW), Unknown), role
        less = {name: text for name, text in bundle.roles.items() if name != role}
        with pytest.raises(TrustError):
            verify_bundle(Bundle(roots=(), roles=less), site.root)
    site.refresh()
    assert len(site.load().offers) == 1


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"roots": 1, "roles": {}}', b"\xff", b"[" * 100_000])
def test_a_damaged_bundle_is_unknown_and_the_next_refresh_mends_it(site, repository, raw):
    repository.publish()
    offered = site.refresh()
    (site.base / "state" / "tuf" / "last-good.json").write_bytes(raw)
    assert isinstance(site.trust.load(NOW), Unknown)
    assert offered == site.refresh() == site.load()


def test_a_tampered_manifest_is_refused(site, repository, server):
    release = repository.publish()
    offer = site.offer(release.id)
    path = next((repository.served / "targets" / "clients").rglob("*.zst")).relative_to(repository.served)
    server.plant(str(path), flip_at=30)
    with pytest.raises(TrustError, match="differs from the signed"):
        site.trust.fetch_manifest(offer)
    server.heal()
    server.plant(str(path), truncate_to=20)
    with pytest.raises(FetchError):
        site.trust.fetch_manifest(offer)
    server.heal()
    assert release.id == site.trust.fetch_manifest(offer).head.release


def test_a_manifest_of_another_release_is_refused(site, repository):
    from dataclasses import replace

    first = repository.publish()
    second = repository.publish(version="1.0.1")
    mixed = replace(site.offer(first.id), manifest=site.offer(second.id).manifest)
    with pytest.raises(WireError, match=f"is the manifest of {second.id}"):
        site.trust.fetch_manifest(mixed)
    large = replace(mixed, manifest=replace(mixed.manifest, length=10**9))
    with pytest.raises(WireError, match="at most"):
        site.trust.fetch_manifest(large)


def test_a_refresh_leaves_the_store_alone(site, repository):
    before = picture(site.store.root)
    repository.publish()
    site.refresh()
    assert before == picture(site.store.root)


def newest(repository: SmallRepository, role: str) -> Path:
    found = (repository.served / "metadata").glob(f"*.{role}.json")
    return max(found, key=lambda path: int(path.name.split(".")[0]))


def forge(repository: SmallRepository, role: str, change) -> None:
    """Change a served role as somebody without offline keys could, and have the online key vouch for it."""
    path = newest(repository, role)
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(json.dumps(document).encode())
    vouch(repository)


def vouch(repository: SmallRepository) -> None:
    """Sign snapshot and timestamp over whatever is served, as an attacker with the online key would."""
    from tuf.api.metadata import Metadata, MetaFile

    signer = repository.signers["online"]
    snapshot = Metadata.from_file(str(newest(repository, "snapshot")))
    snapshot.signed.version += 1
    for name in list(snapshot.signed.meta):
        path = newest(repository, name.removesuffix(".json"))
        version = int(path.name.split(".")[0])
        snapshot.signed.meta[name] = MetaFile.from_data(version, path.read_bytes(), ["sha256"])
    snapshot.sign(signer)
    raw = snapshot.to_bytes()
    (repository.served / "metadata" / f"{snapshot.signed.version}.snapshot.json").write_bytes(raw)
    timestamp = Metadata.from_file(str(repository.served / "metadata" / "timestamp.json"))
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile.from_data(snapshot.signed.version, raw, ["sha256"])
    timestamp.sign(signer)
    (repository.served / "metadata" / "timestamp.json").write_bytes(timestamp.to_bytes())


def spoil_custom(repository: SmallRepository, version: str, change) -> None:
    """Let both signers of ``clients`` sign a release that agents cannot read."""
    from tuf.api.metadata import Metadata

    path = newest(repository, "clients")
    clients = Metadata.from_file(str(path))
    name = next(name for name in clients.signed.targets if f"/{version}/" in name)
    fields = clients.signed.targets[name].unrecognized_fields
    before = render_custom(parse_release(fields["custom"]))
    fields["custom"] = change(before) if callable(change) else change
    clients.sign(repository.signers["release-manager"])
    clients.sign(repository.signers["sa3"], append=True)
    path.write_bytes(clients.to_bytes())
    vouch(repository)


def rotate_root(repository: SmallRepository) -> None:
    """Serve root 2, signed by the old keys."""
    from tuf.api.metadata import Metadata

    root = Metadata.from_bytes(repository.root_bytes)
    root.signed.version = 2
    root.signatures.clear()
    for name in ("root-1", "root-2"):
        root.sign(repository.signers[name], append=True)
    (repository.served / "metadata" / "2.root.json").write_bytes(root.to_bytes())


def rotate_online_key(repository: SmallRepository) -> None:
    """Serve root 2 with another key for snapshot and timestamp, and both signed by it."""
    from tuf.api.metadata import Metadata

    root = Metadata.from_bytes(repository.root_bytes)
    signer = new_signer()
    for role in ("snapshot", "timestamp"):
        root.signed.roles[role].keyids.clear()
        root.signed.add_key(signer.public_key, role)
    root.signed.version = 2
    root.signatures.clear()
    for name in ("root-1", "root-2"):
        root.sign(repository.signers[name], append=True)
    (repository.served / "metadata" / "2.root.json").write_bytes(root.to_bytes())
    repository.signers["online"] = signer
    vouch(repository)
