"""Mirrors: a pilot's frozen copy with its own keys, and plain copies that sites may use while they are made."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pps_agent.errors import FetchError
from pps_publisher.cli.program import run
from pps_publisher.errors import EXIT_PEOPLE, TrustError, UsageError
from pps_publisher.keys import load_signer
from pps_publisher.metadata import MetadataStore
from pps_publisher.mirror import Comparison, Drift, Upstream, compare, keep_origin
from pps_publisher.verify import verify_repository
from pps_wire.names import ReleaseId
from pps_wire.release import Release
from tests.distribution.site import Site
from tests.support.repository import FaultyServer, SmallRepository, serve
from tests.support.services import need

NOW = datetime.now(UTC)


@pytest.fixture
def source(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "source")


@pytest.fixture
def pilot(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "pilot")


def mirror(source: SmallRepository, pilot: SmallRepository, *chosen: ReleaseId) -> None:
    upstream = Upstream(source.served, source.root_bytes, NOW)
    bundles = keep_origin(upstream.bundles(chosen), pilot.repository.known_releases())
    pilot.repository.publish(bundles, pilot.signers["release-manager"], NOW)
    pilot.repository.sign(pilot.signers["sa3"])
    pilot.refresh()


def drift(source: SmallRepository, pilot: SmallRepository) -> dict[str, Drift]:
    compared = compare(pilot.repository, Upstream(source.served, source.root_bytes, NOW))
    return {one.release: one.drift for one in compared}


def served_bytes(small: SmallRepository, release: Release) -> list[bytes]:
    (manifest,) = small.served.glob(f"targets/clients/{release.component}/{release.version}/*.manifest.zst")
    return [manifest.read_bytes(), (small.served / release.artifact.path).read_bytes()]


def test_a_site_of_the_pilot_installs_the_same_bytes_whatever_becomes_of_upstream(
    source: SmallRepository, pilot: SmallRepository, tmp_path: Path
) -> None:
    release = source.publish()
    source.publish(version="2.0.0")
    mirror(source, pilot, release.id)
    assert served_bytes(source, release) == served_bytes(pilot, release)
    for path in [path for path in source.served.rglob("*") if path.is_file()]:
        with path.open("r+b") as stream:  # in place: what shares an inode would change too
            stream.write(b"changed")
    assert verify_repository(pilot.repository.store, NOW).problems == ()
    with serve(pilot.served) as server:
        site = Site(tmp_path / "site", pilot.root_bytes, server.url)
        (offer,) = site.refresh().offers
        site.install(offer.release)
        assert site.store.installed()[release.id].fault == ""
        site.close()


def test_a_mirrored_release_says_in_signed_words_where_it_came_from(
    source: SmallRepository, pilot: SmallRepository
) -> None:
    release = source.publish()
    mirror(source, pilot, release.id)
    (mirrored,) = pilot.repository.releases().values()
    assert mirrored.mirrored_from is not None
    assert mirrored.mirrored_from.clients_version == 2
    assert mirrored.artifact == release.artifact


def test_mirroring_the_same_again_is_nothing_to_do_though_upstream_went_on(
    source: SmallRepository, pilot: SmallRepository
) -> None:
    release = source.publish()
    mirror(source, pilot, release.id)
    source.publish(version="2.0.0")
    with pytest.raises(UsageError, match="published already, with the same bytes"):
        mirror(source, pilot, release.id)


def test_a_release_withdrawn_upstream_or_here_or_unknown_is_not_mirrored(
    source: SmallRepository, pilot: SmallRepository
) -> None:
    release = source.publish()
    mirror(source, pilot, release.id)
    pilot.withdraw(release.id)
    with pytest.raises(Exception, match="has been withdrawn"):
        mirror(source, pilot, release.id)
    source.withdraw(release.id, "loses data")
    with pytest.raises(UsageError, match=r"was withdrawn upstream \(loses data\)"):
        mirror(source, pilot, release.id)
    with pytest.raises(UsageError, match="is not published upstream"):
        mirror(source, pilot, ReleaseId("grid-clients-9-x86_64-glibc2.36"))


def test_an_upstream_that_was_changed_expired_or_is_another_one_is_refused(
    source: SmallRepository, tmp_path: Path
) -> None:
    source.publish()
    late = NOW + timedelta(days=40)
    with pytest.raises(TrustError, match="--allow-expired takes a copy that has only expired"):
        Upstream(source.served, source.root_bytes, late)
    assert Upstream(source.served, source.root_bytes, late, allow_expired=True).releases
    with pytest.raises(TrustError, match="none of this repository"):
        Upstream(source.served, SmallRepository(tmp_path / "stranger").root_bytes, NOW)
    (artifact,) = (source.served / "artifacts").iterdir()
    artifact.write_bytes(artifact.read_bytes()[:-5] + b"wrong")
    with pytest.raises(TrustError, match="has other bytes than the release says"):
        Upstream(source.served, source.root_bytes, late, allow_expired=True)


def test_what_upstream_did_meanwhile_is_told_and_changes_nothing(
    source: SmallRepository, pilot: SmallRepository
) -> None:
    kept, withdrawn, replaced = (source.publish(component=name) for name in ("kept", "withdrawn", "replaced"))
    mirror(source, pilot, kept.id, withdrawn.id, replaced.id)
    assert set(drift(source, pilot).values()) == {Drift.SAME}
    source.withdraw(withdrawn.id)
    source.publish(component="replaced", version="1.0.1")
    before = {path: path.read_bytes() for path in pilot.repository.base.rglob("*") if path.is_file()}
    assert drift(source, pilot) == {
        kept.id: Drift.SAME,
        withdrawn.id: Drift.WITHDRAWN,
        replaced.id: Drift.SUPERSEDED,
    }
    assert before == {path: path.read_bytes() for path in pilot.repository.base.rglob("*") if path.is_file()}
    pilot.withdraw(withdrawn.id)
    upstream = Upstream(source.served, source.root_bytes, NOW)
    assert Comparison(withdrawn.id, Drift.WITHDRAWN, "crashes", True) in compare(pilot.repository, upstream)


def test_the_command_mirrors_and_compares(
    source: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = source.publish()
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    passphrase.chmod(0o600)
    root = tmp_path / "root.json"
    root.write_bytes(source.root_bytes)
    repo = tmp_path / "repo"
    assert run(["init", "--repo", str(repo), "--passphrase-file", str(passphrase)]) == 0
    upstream = ["mirror", "--from", str(source.served), "--root", str(root), "--repo", str(repo)]
    signing = ["--passphrase-file", str(passphrase), "--key", str(repo / "keys" / "sa3.pem")]
    assert run([*upstream, "--release", release.id, "--dry-run"]) == 0
    assert f"adds {release.id}" in capsys.readouterr().out
    assert run([*upstream, "--release", release.id, *signing]) == 0
    signing[-1] = str(repo / "keys" / "release-manager.pem")
    assert load_signer(Path(signing[-1]), b"correct horse").public_key
    assert run(["sign", "--repo", str(repo), *signing]) == 0
    assert run([*upstream, "--check"]) == 0
    source.withdraw(release.id, "loses data")
    capsys.readouterr()
    assert run([*upstream, "--check", "--output", "json"]) == EXIT_PEOPLE
    (told,) = json.loads(capsys.readouterr().out)["releases"]
    assert (told["upstream"], told["detail"], told["withdrawn_here"]) == ("withdrawn", "loses data", False)
    assert run([*upstream]) == run([*upstream, "--check", "--release", release.id]) == 2


STEPS: tuple[tuple[str, ...], ...] = (
    ("artifacts/",),
    ("targets/",),
    ("metadata/", "--exclude=*.root.json", "--exclude=timestamp.json"),
    ("metadata/", "--exclude=timestamp.json"),
    ("metadata/",),
)
"""The order of docs/howto/run-a-mirror.md."""


def copy_step(source: Path, target: Path, step: tuple[str, ...]) -> None:
    place, *filters = step
    (target / place).mkdir(parents=True, exist_ok=True)
    options = ["-a", "--modify-window=-1", "--delay-updates", *filters]
    command = ["rsync", *options, f"{source}/{place}", f"{target}/{place}"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def copied(tmp_path: Path, source: SmallRepository) -> Iterator[tuple[Path, FaultyServer]]:
    need("" if shutil.which("rsync") else "rsync is missing: apt-get install rsync")
    target = tmp_path / "copy"
    source.publish()
    for step in STEPS:
        copy_step(source.served, target, step)
    with serve(target) as server:
        yield target, server


def test_a_site_may_use_a_mirror_between_any_two_steps_of_copying_it(
    source: SmallRepository, copied: tuple[Path, FaultyServer], tmp_path: Path
) -> None:
    target, server = copied
    site = Site(tmp_path / "site", source.root_bytes, server.url)
    before = site.refresh()
    second = source.publish(version="2.0.0")
    source.withdraw(before.offers[0].release.id)
    for step in STEPS[:-1]:
        copy_step(source.served, target, step)
        assert site.refresh() == before
        fresh = Site(tmp_path / f"fresh-{STEPS.index(step)}", source.root_bytes, server.url)
        assert fresh.refresh().offers == before.offers
        fresh.close()
    copy_step(source.served, target, STEPS[-1])
    after = site.refresh()
    assert [(offer.release.version, offer.withdrawn is None) for offer in after.offers] == [
        (before.offers[0].release.version, False),
        (second.version, True),
    ]
    site.install(second)
    assert verify_repository(MetadataStore.of_copy(target), NOW, root=source.root_bytes).problems == ()
    site.close()


def test_copied_in_the_wrong_order_a_mirror_fails_sites_so_the_order_matters(
    source: SmallRepository, copied: tuple[Path, FaultyServer], tmp_path: Path
) -> None:
    target, server = copied
    site = Site(tmp_path / "site", source.root_bytes, server.url)
    before = site.refresh()
    source.publish(version="2.0.0")
    shutil.copy(source.served / "metadata" / "timestamp.json", target / "metadata")
    with pytest.raises(FetchError):
        site.refresh()
    assert site.load() == before
    site.close()
