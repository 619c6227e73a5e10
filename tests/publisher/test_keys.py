import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pps_publisher.errors import ConfigError, TrustError, UsageError
from pps_publisher.keys import create_key, gather_keys, list_keys, load_fleet_keys, load_public, load_signer, owner_of

PASSPHRASE = b"correct horse battery"


def test_a_key_file_is_encrypted_readable_by_its_owner_only_and_opens_with_its_passphrase(tmp_path: Path) -> None:
    made = create_key(tmp_path, "sa3", PASSPHRASE)
    path = tmp_path / "sa3.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    loaded = load_signer(path, PASSPHRASE)
    assert loaded.public_key == made.public_key == load_public(tmp_path / "sa3.pub")
    assert owner_of(loaded.public_key) == "sa3"


def test_a_wrong_passphrase_is_a_clear_error(tmp_path: Path) -> None:
    create_key(tmp_path, "sa3", PASSPHRASE)
    with pytest.raises(
        TrustError, match=r"sa3.pem: the passphrase is wrong or the file is damaged; nothing was signed"
    ):
        load_signer(tmp_path / "sa3.pem", b"wrong passphrase")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    create_key(tmp_path, "sa3", PASSPHRASE)
    with pytest.raises(UsageError, match="keys are never overwritten"):
        create_key(tmp_path, "sa3", PASSPHRASE)


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer than 8 characters"):
        create_key(tmp_path, "sa3", b"short")
    assert list(tmp_path.iterdir()) == []


def test_an_unencrypted_private_key_is_refused(tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "sa3.pem").write_bytes(pem)
    with pytest.raises(TrustError, match="is not an encrypted PKCS#8 key"):
        load_signer(tmp_path / "sa3.pem", PASSPHRASE)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sa3.pem: no such key"):
        load_signer(tmp_path / "sa3.pem", PASSPHRASE)


def test_a_public_key_without_its_private_half_is_somebody_elses(tmp_path: Path) -> None:
    elsewhere = create_key(tmp_path / "sa3s-machine", "sa3", PASSPHRASE)
    here = tmp_path / "here"
    here.mkdir()
    (here / "sa3.pub").write_bytes((tmp_path / "sa3s-machine" / "sa3.pub").read_bytes())
    keys, signers = gather_keys(here, ("release-manager", "sa3"), PASSPHRASE)
    assert keys["sa3"] == elsewhere.public_key
    assert [owner_of(signer.public_key) for signer in signers] == ["release-manager"]
    assert [(key.name, key.private) for key in list_keys(here)] == [("release-manager", True), ("sa3", False)]


def test_all_unreadable_fleet_keys_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "junk.pub").write_bytes(b"junk")
    rsa = generate_private_key(65537, 2048).public_key()
    (tmp_path / "rsa.pub").write_bytes(rsa.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    create_key(tmp_path, "collector", PASSPHRASE)
    names = ("junk.pub", "rsa.pub", "missing.pub", "collector.pub")
    with pytest.raises(ConfigError) as caught:
        load_fleet_keys([tmp_path / name for name in names])
    assert len(caught.value.faults) == 3
    assert [key.comment for key in load_fleet_keys([tmp_path / "collector.pub"]).keys] == ["collector"]
