import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pps_publisher.exchange import Exchange
from pps_publisher.keys import signer_of
from pps_publisher.metadata import MetadataStore
from pps_publisher.verify import Verdict, verify_repository
from pps_wire.release import Release
from tests.support.repository import SmallRepository

NOW = datetime.now(UTC)


@pytest.fixture
def small(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path)


@pytest.fixture
def release(small: SmallRepository) -> Release:
    return small.publish()


def verify(small: SmallRepository, now: datetime = NOW) -> Verdict:
    return verify_repository(small.repository.store, now)


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place if place >= 0 else len(content) // 2] ^= 0x01
    path.write_bytes(content)


def test_a_sound_repository_has_no_problem_and_all_its_bytes_are_counted(
    small: SmallRepository, release: Release
) -> None:
    small.withdraw(release.id)
    verdict = verify(small)
    assert (verdict.problems, verdict.warnings) == ((), ())
    assert (verdict.releases, verdict.withdrawn) == (1, 1)
    assert verdict.checked_bytes > release.artifact.length


def test_a_flipped_byte_in_an_artifact_is_found_with_the_file_it_belongs_to(
    small: SmallRepository, release: Release
) -> None:
    flip(small.served / release.artifact.path)
    problems = verify(small).problems
    assert any(problem.endswith("has other bytes than the release says") for problem in problems)


def test_a_flipped_byte_in_a_manifest_is_found(small: SmallRepository, release: Release) -> None:
    (manifest,) = (small.served / "targets" / "clients").rglob("*.manifest.zst")
    flip(manifest)
    assert any(str(manifest) in problem and "is damaged" in problem for problem in verify(small).problems)


@pytest.mark.parametrize(
    "name", ["2.clients.json", "1.targets.json", "2.snapshot.json", "timestamp.json", "1.fleet.json"]
)
def test_metadata_with_a_changed_byte_is_found(small: SmallRepository, release: Release, name: str) -> None:
    path = small.served / "metadata" / name
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"versiom":', 1))
    assert verify(small).problems


@pytest.mark.parametrize(
    "pattern", ["metadata/1.targets.json", "artifacts/*", "targets/fleet/*", "targets/clients/*/*/*"]
)
def test_a_missing_file_is_named(small: SmallRepository, release: Release, pattern: str) -> None:
    (path,) = small.served.glob(pattern)
    path.unlink()
    assert any(str(path) in problem or "no targets metadata" in problem for problem in verify(small).problems)


def test_a_version_with_too_few_signatures_is_found(small: SmallRepository, release: Release) -> None:
    waiting = small.repository.store.load_targets("clients")
    waiting.signed.version += 1
    small.repository.store.sign("clients", waiting, small.signers["sa3"])
    sa3 = small.signers["sa3"].public_key.keyid
    waiting.signatures = {sa3: waiting.signatures[sa3]}
    small.repository.store.serve("clients", waiting)
    assert "clients version 3 has 1 of 2 valid signatures" in verify(small).problems


def test_a_role_that_expires_soon_warns_and_an_expired_one_is_a_problem(
    small: SmallRepository, release: Release
) -> None:
    soon = verify(small, NOW + timedelta(days=2, hours=12))
    assert (soon.problems, [warning.split()[0] for warning in soon.warnings]) == ((), ["timestamp"])
    late = verify(small, NOW + timedelta(days=31))
    expired = {problem.split()[0] for problem in late.problems}
    assert expired == {"timestamp", "snapshot", "clients", "withdrawals", "fleet"}


def test_what_is_not_refreshed_not_signed_or_not_named_warns(small: SmallRepository, release: Release) -> None:
    small.publish(version="2.0.0", refresh=False)
    small.publish(version="3.0.0", refresh=False, signatures=1)
    (small.served / "artifacts" / "stray").write_bytes(b"")
    verdict = verify(small)
    assert verdict.problems == ()
    assert [warning.partition(" version")[0] for warning in verdict.warnings if "version" in warning] == ["clients"] * 2
    assert any("stray: no metadata names it" in warning for warning in verdict.warnings)


def test_a_gap_in_the_chain_of_roots_is_found(small: SmallRepository) -> None:
    shutil.copy(small.served / "metadata" / "1.root.json", small.served / "metadata" / "3.root.json")
    assert any("have a gap" in problem for problem in verify(small).problems)


def test_an_empty_directory_is_many_problems_and_no_crash(tmp_path: Path) -> None:
    small = SmallRepository(tmp_path / "one")
    shutil.rmtree(small.served)
    assert verify(small).problems


def rich(small: SmallRepository) -> None:
    """Every kind of file a served directory may hold: old versions, an exchanged key, a withdrawal."""
    first = small.publish()
    small.publish(version="2.0.0")
    small.withdraw(first.id)
    new = {name: signer_of(Ed25519PrivateKey.generate(), name) for name in ("online", "sa3", "fleet")}
    exchange = Exchange(small.repository, NOW)
    exchange.stage(lambda: exchange.rotate({name: signer.public_key for name, signer in new.items()}), None)
    for name in ("root-1", "root-2", "targets", "release-manager"):
        small.repository.sign(small.signers[name])
    for name in ("sa3", "fleet"):
        small.repository.sign(new[name])
    small.signers |= new
    small.refresh()
    assert small.repository.staging.pending() == ()


def test_one_flipped_byte_in_any_file_below_served_is_found(small: SmallRepository) -> None:
    rich(small)
    assert (verify(small).problems, verify(small).warnings) == ((), ())
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for path in sorted(path for path in small.served.rglob("*") if path.is_file()):
        content = path.read_bytes()
        changed = bytearray(content)
        place = dice.randrange(len(content))
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        assert verify(small).problems, f"{path.name} at {place}, seed {seed}"
        path.write_bytes(content)
    assert verify(small).problems == ()


def test_metadata_whose_hash_has_another_name_is_a_problem_and_no_crash(small: SmallRepository) -> None:
    rich(small)
    for path in sorted((small.served / "metadata").iterdir()):
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"sha256"', b'"shb256"'))
        assert path.read_bytes() == content or verify(small).problems, path.name
        path.write_bytes(content)


def test_metadata_that_only_looks_the_same_is_found(small: SmallRepository, release: Release) -> None:
    for path in sorted((small.served / "metadata").iterdir()):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert verify(small).problems, path.name
        path.write_bytes(content)


def test_a_file_that_nobody_names_is_told_wherever_it_lies(small: SmallRepository, release: Release) -> None:
    for name in ("stray", "metadata/1.clients.json.bak", "metadata/.hidden.tmp", "targets/clients/x"):
        (small.served / name).write_bytes(b"")
    named = [warning.partition(":")[0] for warning in verify(small).warnings]
    assert named == sorted(
        str(small.served / name)
        for name in ("stray", "metadata/1.clients.json.bak", "metadata/.hidden.tmp", "targets/clients/x")
    )


def test_a_copy_is_verified_without_its_repository_against_the_pinned_root(
    small: SmallRepository, release: Release, tmp_path: Path
) -> None:
    copy = MetadataStore.of_copy(shutil.copytree(small.served, tmp_path / "copy"))
    assert verify_repository(copy, NOW, root=small.root_bytes).problems == ()
    stranger = SmallRepository(tmp_path / "stranger")
    (problem,) = verify_repository(copy, NOW, root=stranger.root_bytes).problems
    assert problem.startswith("the pinned root is none of this repository")
    (damaged,) = verify_repository(copy, NOW, root=b"junk").problems
    assert damaged.startswith("the pinned root is damaged")


def test_a_half_copied_mirror_has_problems(small: SmallRepository, release: Release, tmp_path: Path) -> None:
    copy = shutil.copytree(small.served, tmp_path / "copy")
    (copy / release.artifact.path).unlink()
    assert verify_repository(MetadataStore.of_copy(copy), NOW).problems
