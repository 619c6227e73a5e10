"""Keep a composed environment beside the release's tree."""

import json
from pathlib import Path
from typing import Final

import msgspec

from pps_agent.environment.compose import process_environment
from pps_agent.environment.render import render_csh, render_modulefile, render_sh
from pps_agent.environment.values import Composed
from pps_agent.errors import SiteError
from pps_agent.files import save_bytes

RECORD_NAME: Final = "environment.json"


def write_environment(release_dir: Path, composed: Composed, fingerprint: str) -> None:
    """Write env.sh, env.csh, modulefile and last ``environment.json``, each durably.

    The record says that the others are whole: the store reads which site settings (``profile``) they
    were made from, the probe runner reads ``variables``, and ``release env`` renders ``assign`` and
    ``prepend`` for whoever asks. Raises: SiteError.
    """
    record = {
        "profile": fingerprint,
        "variables": process_environment(composed),
        "assign": dict(composed.assign),
        "prepend": {name: list(entries) for name, entries in composed.prepend.items()},
    }
    texts = {
        "env.sh": render_sh(composed),
        "env.csh": render_csh(composed),
        "modulefile": render_modulefile(composed),
        RECORD_NAME: json.dumps(record, indent=1, sort_keys=True) + "\n",
    }
    for name, text in texts.items():
        try:
            save_bytes(release_dir / name, text.encode())
        except OSError as exc:
            raise SiteError(f"cannot write {release_dir / name}: {exc.strerror}; check space and permissions") from exc


def load_variables(release_dir: Path) -> dict[str, str]:
    """Give the environment that ``write_environment`` kept for probes. Raises: SiteError."""
    return _load_record(release_dir).variables


def load_composed(release_dir: Path) -> Composed:
    """Give a release's environment as it was composed. Raises: SiteError, also when there is none yet."""
    record = _load_record(release_dir)
    return Composed(release_dir.name, release_dir / "tree", record.assign, record.prepend)


class _Record(msgspec.Struct, frozen=True):
    """``environment.json``."""

    variables: dict[str, str]
    assign: dict[str, str]
    prepend: dict[str, tuple[str, ...]]


def _load_record(release_dir: Path) -> _Record:
    path = release_dir / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except FileNotFoundError as exc:
        raise SiteError(f"{release_dir.name} has no environment yet; pps-agent once composes it") from exc
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise SiteError(f"{path}: {exc}; remove it, and the next round writes it anew") from exc
