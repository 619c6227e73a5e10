import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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
