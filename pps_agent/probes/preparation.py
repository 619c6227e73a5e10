"""What one run gets beside the common environment (VO, proxy, secrets), and what it lacks here.

What is missing is found before anything is started: a verdict of UNKNOWN that says what to do costs no process.
"""

import errno
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pps_agent.probes.definition import ProbeDefinition, SecretForm
from pps_agent.probes.protocol import STDOUT_HEAD_BYTES, RunResponse
from pps_agent.probes.redact import MIN_SECRET_CHARACTERS, Redactor
from pps_agent.settings import Settings
from pps_agent.state import ProbeResult
from pps_wire.names import Vo

MAX_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Provision:
    """What the site has for probes: its VOs, a proxy, and files that hold secrets, by variable."""

    vos: tuple[Vo, ...] = ()
    proxy: Path | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)


NOTHING: Final = Provision()
"""A site that has nothing for probes beside their environment."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """One run's own part: variables over the environment, secrets as files, what is missing, what must not show."""

    more: Mapping[str, str]
    secret_files: Mapping[str, bytes]
    missing: tuple[str, ...]
    redactor: Redactor

    @property
    def reason(self) -> str:
        """Why the run is not asked for; empty when nothing is missing."""
        return f"missing requirement: {'; '.join(self.missing)}" if self.missing else ""


def shared_environment(
    settings: Settings, variables: Mapping[str, str], version: str = "", production: str = ""
) -> dict[str, str]:
    """Give the environment that all runs on one release share: ``variables`` (composed or captured) and the site's.

    ``version`` is the release's; empty for the production client, of which ``production`` says what is known.
    """
    versions = {"PPS_RELEASE_VERSION": version, "PPS_PRODUCTION_VERSION": production}
    own = {
        "PPS_SITE": settings.site.name,
        "PPS_VO": settings.site.vos[0],
        "PPS_WN_ENV_PROFILES": ":".join(settings.environment.profile),
    }
    return {**variables, **own, **{name: text for name, text in versions.items() if text}, **settings.probes.env}


def tested_version(env: Mapping[str, str]) -> str:
    """Give the version of the client that runs in this environment test; empty where nobody told it.

    The production client's are those of the components that the site names: ``voms-client 2.1, xrootd-client 5.5.3``.
    """
    return env.get("PPS_RELEASE_VERSION") or env.get("PPS_PRODUCTION_VERSION", "")


def is_plain(definition: ProbeDefinition) -> bool:
    """Tell whether nothing that a probe needs can come or go, so that it is prepared once for many runs."""
    needs = definition.commands, definition.variables, definition.secrets
    return not any(needs) and not definition.needs_proxy


def provision_of(settings: Settings) -> Provision:
    """Give what the settings name for probes."""
    return Provision(settings.site.vos, settings.probes.proxy, settings.probes.secrets)


def prepare(definition: ProbeDefinition, env: Mapping[str, str], provision: Provision) -> Preparation:
    """Give what this run of a probe gets beside ``env``; ``missing`` says what each thing it lacks needs."""
    missing: list[str] = []
    more = choose_vo(definition, provision, missing) | _find_proxy(definition, env, provision, missing)
    named = sorted(name for name in definition.secrets if name in provision.secrets)
    secrets = {name: _read_secret(name, provision.secrets[name], missing) for name in named}
    there = {name: text for name, text in secrets.items() if text}
    files = {n: text.encode() for n, text in there.items() if definition.secrets[n] is SecretForm.FILE}
    more |= {name: text for name, text in there.items() if name not in files}
    missing += _missing_commands(definition, env)
    missing += _missing_variables(definition, {**env, **more}, provision)
    return Preparation(more, files, tuple(missing), Redactor(there.values()))


def hide_in_output(response: RunResponse, redactor: Redactor) -> RunResponse:
    """Give an answer whose output holds no secret: reading it may take apart what stood together."""
    if redactor.is_empty:
        return response
    parts = [response.stdout[:STDOUT_HEAD_BYTES], response.stdout[STDOUT_HEAD_BYTES:]]
    head, tail, stderr = (_redact_bytes(part, redactor) for part in (*parts, response.stderr))
    if tail:  # where the gap is, the length of the head tells
        head = head[:STDOUT_HEAD_BYTES].ljust(STDOUT_HEAD_BYTES)
    stdout = head + tail
    return replace(
        response,
        stdout=stdout,
        stdout_bytes=response.stdout_bytes + len(stdout) - len(response.stdout),
        stderr=stderr,
        stderr_bytes=response.stderr_bytes + len(stderr) - len(response.stderr),
    )


def _redact_bytes(content: bytes, redactor: Redactor) -> bytes:
    return redactor.redact(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def hide_secrets(result: ProbeResult, redactor: Redactor) -> ProbeResult:
    """Give a result without the secrets that its probe was given, also those that stood escaped in its output."""
    if redactor.is_empty:
        return result
    return replace(
        result,
        summary=redactor.redact(result.summary),
        details=redactor.redact(result.details),
        perfdata=redactor.redact(result.perfdata),
    )


def choose_vo(definition: ProbeDefinition, provision: Provision, missing: list[str]) -> dict[str, str]:
    """Give the site's first VO that a probe is for; none where it says nothing, and a note where none fits."""
    if not definition.vos:
        return {}
    fitting = next((vo for vo in provision.vos if vo in definition.vos), None)
    if fitting is None:
        missing.append(f"it is for {', '.join(definition.vos)}, and site.vos lists none of these: leave the probe out")
        return {}
    return {"PPS_VO": fitting}


def _find_proxy(
    definition: ProbeDefinition, env: Mapping[str, str], provision: Provision, missing: list[str]
) -> dict[str, str]:
    """Give the proxy to a probe that needs one; the probe's own user may still be refused by the file's mode."""
    if not definition.needs_proxy:
        return {}
    path = env.get("X509_USER_PROXY") or (str(provision.proxy) if provision.proxy else "")
    if not path:
        missing.append("a proxy: name one that others renew as probes.proxy in the settings")
    elif not Path(path).is_file():
        missing.append(f"the proxy {path} is not there: renew it, see probes.proxy in the settings")
    return {"X509_USER_PROXY": path} if path else {}


def _read_secret(name: str, path: str, missing: list[str]) -> str:
    """Read one secret, without the line end that editors add; nothing where it cannot be given."""
    try:
        # Without blocking: a pipe in the file's place would never answer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(errno.EINVAL, "is no plain file")
            text = stream.read(MAX_SECRET_BYTES + 1).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        missing.append(f"secret {name}: {path}: {reason}: let the agent's user read it")
        return ""
    if "\0" in text or not MIN_SECRET_CHARACTERS <= len(text) <= MAX_SECRET_BYTES:
        missing.append(
            f"secret {name}: {path} must hold {MIN_SECRET_CHARACTERS} to {MAX_SECRET_BYTES} characters, no NUL"
        )
        return ""
    return text


def _missing_commands(definition: ProbeDefinition, env: Mapping[str, str]) -> list[str]:
    path = env.get("PATH", os.defpath)
    absent = [name for name in definition.commands if shutil.which(name, path=path) is None]
    return [f"command {name} is not in PATH: install it or leave the probe out" for name in absent]


def _missing_variables(definition: ProbeDefinition, env: Mapping[str, str], provision: Provision) -> list[str]:
    """Name the required variables that are not set; a secret whose file was named has been dealt with."""
    dealt_with = definition.secrets.keys() & provision.secrets.keys()
    absent = [name for name in definition.variables if not env.get(name) and name not in dealt_with]
    return [_missing_variable(definition, name) for name in absent]


def _missing_variable(definition: ProbeDefinition, name: str) -> str:
    meaning = definition.variables[name]
    if name in definition.secrets:
        return f"secret {name} ({meaning}): name its file under [probes.secrets] in the settings"
    if name.startswith("PPS_RELEASE"):
        return f"variable {name} ({meaning}): production has none: name a release with --release"
    return f"variable {name} ({meaning}): set it under [probes.env] in the settings"
