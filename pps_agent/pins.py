"""Releases a person wants kept: ``<store>/pins/<id>``, one small file each.

That the file is there is the pin, whoever made it and whatever it holds; the agent writes why, who and when::

    {"reason":"the reference of our users","by":"root","at":"2026-11-22T12:00:00Z"}
"""

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.files import save_bytes, sync_directory
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId, parse_release_id

_MAX_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a release is kept, as far as its pin tells; ``by`` is an account, ``at`` an ISO time."""

    reason: str = ""
    by: str = ""
    at: str = ""


def load_pins(directory: Path) -> dict[ReleaseId, Pin]:
    """Give every pin; one whose content cannot be read is a pin all the same. Raises: OSError."""
    pins: dict[ReleaseId, Pin] = {}
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return pins
    for entry in entries:
        with contextlib.suppress(WireError):  # a temporary file, or somebody else's
            pins[parse_release_id(entry.name)] = _read_pin(entry)
    return pins


def save_pin(directory: Path, release: ReleaseId, reason: str, by: str, at: datetime) -> None:
    """Pin a release; a pin that is there is written anew. Raises: OSError."""
    directory.mkdir(mode=0o755, exist_ok=True)
    sync_directory(directory.parent)
    pin = {"reason": reason, "by": by, "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    save_bytes(directory / release, json.dumps(pin).encode() + b"\n")


def delete_pin(directory: Path, release: ReleaseId) -> bool:
    """Take a pin away; False when there was none. Raises: OSError."""
    try:
        (directory / release).unlink()
    except FileNotFoundError:
        return False
    sync_directory(directory)
    return True


def _read_pin(path: Path) -> Pin:
    try:
        with path.open("rb") as stream:
            return msgspec.json.decode(stream.read(_MAX_BYTES), type=Pin)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Pin()
