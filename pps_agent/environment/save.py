"""Keep a composed environment beside the release's tree."""

import json
from pathlib import Path
from typing import Final

from pps_agent.environment.compose import process_environment
from pps_agent.environment.render import render_csh, render_modulefile, render_sh
from pps_agent.environment.values import Composed
from pps_agent.errors import SiteError
from pps_agent.files import save_bytes

RECORD_NAME: Final = "environment.json"


def write_environment(release_dir: Path, composed: Composed, fingerprint: str) -> None:
    """Write env.sh, env.csh, modulefile and last ``environment.json``, each durably.

    The record, ``{"profile": fingerprint, "variables": {...}}``, says that the others are whole: the
    store reads which site settings they were made from, the probe runner reads the variables.
    Raises: SiteError.
    """
    record = {"profile": fingerprint, "variables": process_environment(composed)}
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
    path = release_dir / RECORD_NAME
    try:
        variables = json.loads(path.read_bytes())["variables"]
        return {str(name): str(value) for name, value in variables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise SiteError(f"{path}: {exc}; remove it, and the next round writes it anew") from exc
