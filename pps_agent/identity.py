"""The site's identity towards the collector: a key made here, a certificate given at enrolment.

Files in ``<state>/identity``: ``key.pem`` (0600, never leaves this machine), ``certificate.pem``,
``ca.pem``, ``agent.json``, which is written last: its presence *is* "enrolled".
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pps_agent.errors import ConfigError, SiteError
from pps_agent.settings import Settings
from pps_wire.names import Site


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled agent: its id (32 hex digits), its site, and where key, certificate and CA lie."""

    agent: str
    site: Site
    key: Path
    certificate: Path
    ca: Path


def load_identity(settings: Settings) -> Identity | None:
    """Give this agent's identity, or None when it is not enrolled yet.

    Raises: SiteError when the files are damaged; ConfigError when it was enrolled for another site.
    """
    home = settings.paths.state / "identity"
    try:
        known = json.loads((home / "agent.json").read_bytes())
        identity = Identity(
            agent=str(known["agent"]),
            site=Site(str(known["site"])),
            key=home / "key.pem",
            certificate=home / "certificate.pem",
            ca=home / "ca.pem",
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SiteError(f"{home}/agent.json: {exc}; enrol again: pps-agent enrol --token-file FILE") from exc
    if identity.site != settings.site.name:
        fault = f"site.name is {settings.site.name}, but {home} was enrolled for {identity.site}"
        raise ConfigError([f"{fault}; mend site.name, or remove that directory and enrol again"])
    return identity
