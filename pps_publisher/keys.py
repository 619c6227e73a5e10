"""Ed25519 keys: encrypted PKCS#8 files for people, python-tuf signers for the repository.

A private key ``NAME.pem`` is readable by its owner only and always encrypted; ``NAME.pub`` is what
others need. Passphrases come from a prompt or a file, never from arguments or the environment,
which every user of a machine can read. Key ids are those of securesystemslib.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from pps_publisher.errors import ConfigError, TrustError, UsageError
from pps_publisher.files import make_directory, save_bytes, sweep_temporaries
from pps_wire.request import FleetKey, FleetKeys

OWNER_FIELD: Final = "x-pps-owner"
"""Signed, free-text field of a TUF key that says whose it is."""
KEY_NAMES: Final = ("root-1", "root-2", "root-3", "targets", "release-manager", "sa3", "online", "fleet")
"""The keys of a repository; each belongs to one person or machine."""
_MIN_PASSPHRASE: Final = 8
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key of a keys directory: its name, its id, and whether the private half lies there too."""

    name: str
    keyid: str
    private: bool


def parse_key_name(text: str) -> str:
    """Read the name of a key's holder, e.g. ``sa3``. Raises: UsageError."""
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no name of a key; use small letters, digits and '-', e.g. {KEY_NAMES[-3]}")
    return text


def create_key(directory: Path, name: str, passphrase: bytes) -> CryptoSigner:
    """Make a new key pair ``name`` and give its signer; a pair whose making was cut short is completed.

    Raises: UsageError when the name is taken or the passphrase is too short; TrustError; OSError.
    """
    if len(passphrase) < _MIN_PASSPHRASE:
        raise UsageError(f"the passphrase has fewer than {_MIN_PASSPHRASE} characters; choose a longer one")
    private, public = private_path(directory, name), public_path(directory, name)
    if public.exists():
        taken = private if private.exists() else public
        raise UsageError(f"{taken}: exists; keys are never overwritten, choose another name or directory")
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(mode=0o700)
    sweep_temporaries(directory, f"{name}.")
    if not private.exists():
        new = Ed25519PrivateKey.generate()
        pem = new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
        save_bytes(private, pem, mode=0o600)
    key = _load_private(private, passphrase)
    save_bytes(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return signer_of(key, name)


def load_signer(path: Path, passphrase: bytes) -> CryptoSigner:
    """Read a private key. Raises: UsageError when there is none, TrustError when it does not open."""
    return signer_of(_load_private(path, passphrase), path.stem)


def load_public(path: Path) -> SSlibKey:
    """Read a public key that a TUF role may trust. Raises: ConfigError when it is none."""
    return _public(_load_public(path), path.stem)


def load_fleet_keys(paths: Iterable[Path]) -> FleetKeys:
    """Read the collectors' public request-signing keys. Raises: ConfigError naming every file at fault."""
    keys: list[FleetKey] = []
    faults: list[str] = []
    for path in paths:
        try:
            raw = _load_public(path).public_bytes(Encoding.Raw, PublicFormat.Raw)
        except ConfigError as exc:
            faults += exc.faults
            continue
        keys.append(FleetKey(public=raw, comment=path.stem))
    if faults:
        raise ConfigError(faults)
    return FleetKeys(keys=tuple(keys))


def gather_keys(directory: Path, names: Iterable[str], passphrase: bytes) -> tuple[dict[str, Key], list[CryptoSigner]]:
    """Give the public keys by name and the signers at hand; keys of which nothing exists are made.

    A ``.pub`` file without its ``.pem`` is a key that somebody else holds. Raises: as ``create_key``
    and ``load_signer``; ConfigError.
    """
    keys: dict[str, Key] = {}
    signers: list[CryptoSigner] = []
    for name in names:
        if not public_path(directory, name).exists():
            signers.append(create_key(directory, name, passphrase))
        elif private_path(directory, name).exists():
            signers.append(load_signer(private_path(directory, name), passphrase))
        else:
            keys[name] = load_public(public_path(directory, name))
            continue
        keys[name] = signers[-1].public_key
    return keys, signers


def list_keys(directory: Path) -> tuple[KeyFile, ...]:
    """Give the keys of a directory by name; no passphrase is needed. Raises: ConfigError, UsageError."""
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; 'pps-publish init' makes the keys")
    return tuple(
        KeyFile(path.stem, load_public(path).keyid, private_path(directory, path.stem).exists())
        for path in sorted(directory.glob("*.pub"))
    )


def signer_of(key: Ed25519PrivateKey, name: str) -> CryptoSigner:
    """Give the signer of a private key, its public half marked with its owner's name."""
    return CryptoSigner(key, _public(key.public_key(), name))


def owner_of(key: Key) -> str:
    """Give the name a key was made under, or the start of its id."""
    owner = key.unrecognized_fields.get(OWNER_FIELD)
    return owner if isinstance(owner, str) else key.keyid[:12]


def is_genuine(key: Key) -> bool:
    """Say whether a key's id is that of its bytes; an id alone, which TUF lets anybody choose, says nothing."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    except (KeyError, TypeError, ValueError):
        return False
    return (key.keytype, key.scheme) == ("ed25519", "ed25519") and SSlibKey.from_crypto(public).keyid == key.keyid


def private_path(directory: Path, name: str) -> Path:
    """Give the place of a private key."""
    return directory / f"{name}.pem"


def public_path(directory: Path, name: str) -> Path:
    """Give the place of a public key."""
    return directory / f"{name}.pub"


def _load_private(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    try:
        pem = path.read_bytes()
    except FileNotFoundError as exc:
        raise UsageError(f"{path}: no such key; see 'pps-publish keys list'") from exc
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in pem:
        raise TrustError(f"{path}: is not an encrypted PKCS#8 key; make one with 'pps-publish keys new'")
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise TrustError(f"{path}: the passphrase is wrong or the file is damaged; nothing was signed") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"{path}: is not an Ed25519 key; make one with 'pps-publish keys new'")
    return key


def _public(key: Ed25519PublicKey, name: str) -> SSlibKey:
    public = SSlibKey.from_crypto(key)
    public.unrecognized_fields[OWNER_FIELD] = name
    return public


def _load_public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror}; name a PEM public key file"]) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError([f"{path}: is not a PEM public key"]) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError([f"{path}: is not an Ed25519 public key"])
    return key
