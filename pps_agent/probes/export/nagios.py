r"""Definitions for Nagios Core, and command lines for NRPE. Pure.

Source: Nagios Core, object definitions. A command line goes through a shell, after macros (``$``, written ``$$``)
and comments (``;``, written ``\;``) were taken out of it; an argument that ends with a backslash cannot be written.
"""

import shlex
from collections.abc import Iterable
from typing import Final

from pps_agent.probes.export.checks import Check, Mode, Target, check_word
from pps_wire.errors import WireError

_ILLEGAL: Final = frozenset("`~!$%^&*|'\"<>?,()=;\\")
"""Never in the name of an object. Source: Nagios Core, option illegal_object_name_chars."""
_HEADER: Final = """\
# Written by pps-agent probe export: {count} services, {mode}.
# service_check_timeout must be more than {timeout_s} (it is 60 where nobody set it).
"""
_NRPE_HEADER: Final = """\
# Written by pps-agent probe export. command_timeout must be more than {timeout_s} (it is 60 where nobody set it).
"""


def render_nagios(checks: Iterable[Check], target: Target) -> str:
    """Give the object definitions. Raises: WireError when a name or path cannot be written in them."""
    known = tuple(checks)
    host, template = _name(target.host), _name(target.template) if target.template else ""
    mode = known[0].mode.value if known else "none"
    timeout_s = max((check.timeout_s for check in known), default=0)
    parts = [_HEADER.format(count=len(known), mode=mode, timeout_s=timeout_s)]
    for check in known:
        parts.append(_object("command", command_name=f"pps_{check.name}", command_line=_command_line(check, target)))
        parts.append(_service(check, host, template))
    parts += [_dependency(check, parent, host) for check in known for parent in check.parents]
    return "\n".join(parts)


def render_nrpe(checks: Iterable[Check]) -> str:
    """Give the lines for nrpe.cfg of the agent's machine. Raises: WireError when a path cannot be written in them."""
    known = tuple(checks)
    lines = [_NRPE_HEADER.format(timeout_s=max((check.timeout_s for check in known), default=0))]
    for check in known:
        if any("$" in word for word in check.command):
            raise WireError("export", "NRPE reads $ in a command as a macro: choose a path without it")
        lines.append(f"command[pps_{check.name}]={shlex.join(check.command)}\n")
    return "".join(lines)


def _service(check: Check, host: str, template: str) -> str:
    fields: dict[str, object] = {"use": template} if template else {}
    fields |= {
        "host_name": host,
        "service_description": _name(check.name),
        "check_command": f"pps_{check.name}",
        "check_interval": _minutes(check.interval_s),
        "retry_interval": _minutes(check.retry_s),
        "max_check_attempts": check.max_attempts,
    }
    if check.mode is Mode.PASSIVE:
        # Without a result in time Nagios runs the command, which tells what is there, or that nothing is.
        fields |= {"active_checks_enabled": 0, "passive_checks_enabled": 1}
        fields |= {"check_freshness": 1, "freshness_threshold": check.fresh_s}
    if check.summary:
        fields["notes"] = _text(check.summary)
    return _object("service", **fields)


def _dependency(check: Check, parent: str, host: str) -> str:
    """Say that a service means nothing while its parent is not OK; only one that runs the probe need not run."""
    return _object(
        "servicedependency",
        host_name=host,
        service_description=_name(parent),
        dependent_host_name=host,
        dependent_service_description=_name(check.name),
        execution_failure_criteria="w,u,c" if check.mode is Mode.ACTIVE else "n",
        notification_failure_criteria="w,u,c",
    )


def _command_line(check: Check, target: Target) -> str:
    if not target.nrpe:
        return _shell_line(check.command)
    client = _shell_line((check_word(target.nrpe),))
    return f"{client} -H $HOSTADDRESS$ -t {check.timeout_s + 1}:UNKNOWN -c pps_{check.name}"


def _shell_line(words: tuple[str, ...]) -> str:
    line = shlex.join(words)
    if "\\" in line:
        raise WireError("export", f"a backslash in {line[:80]!r} cannot be written for Nagios: choose another path")
    return _text(line)


def _object(kind: str, **fields: object) -> str:
    lines = "".join(f"    {name:<31}{value}\n" for name, value in fields.items())
    return f"define {kind} {{\n{lines}}}\n"


def _minutes(seconds: int) -> str:
    """Give a time in Nagios' unit, interval_length, a minute where nobody set it."""
    return f"{seconds / 60:.4f}".rstrip("0").rstrip(".")


def _name(text: str) -> str:
    if not text or not text.isprintable() or _ILLEGAL & set(text) or text != text.strip():
        raise WireError("export", f"{text[:80]!r} cannot be a name in Nagios: use letters, digits and . _ -")
    return text


def _text(text: str) -> str:
    return text.replace("$", "$$").replace("\\", "").replace(";", "\\;")
