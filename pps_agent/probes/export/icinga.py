"""Definitions for Icinga 2. Pure.

Source: Icinga 2, language reference (string literals) and macros: a command is a list of words and needs no shell;
``$`` begins a macro and is written ``$$`` there.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from pps_agent.probes.export.checks import Check, Mode, Target, check_word

_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def render_icinga(checks: Iterable[Check], target: Target) -> str:
    """Give the objects. Raises: WireError when a path cannot be written in them."""
    known = tuple(checks)
    mode = known[0].mode.value if known else "none"
    parts = [f"// Written by pps-agent probe export: {len(known)} services, {mode}.\n"]
    for check in known:
        parts.append(_object("CheckCommand", f"pps_{check.name}", _command(check, target)))
        parts.append(_object("Service", check.name, _service(check, target), target.template))
    for check in known:
        parts += [
            _object("Dependency", f"{check.name}-needs-{parent}", _dependency(check, parent, target))
            for parent in check.parents
        ]
    return "\n".join(parts)


def _command(check: Check, target: Target) -> dict[str, str]:
    words = list(map(_macro_free, check.command))
    if target.nrpe:
        limit = f"{check.timeout_s + 1}:UNKNOWN"
        words = [_macro_free(check_word(target.nrpe)), "-H", "$address$", "-t", limit, "-c", f"pps_{check.name}"]
    return {"command": f"[ {', '.join(map(_string, words))} ]", "timeout": f"{check.timeout_s + 2}s"}


def _service(check: Check, target: Target) -> dict[str, str]:
    # A passive service is checked when no result came in time: that look tells what is there, or that nothing is.
    interval_s = check.fresh_s if check.mode is Mode.PASSIVE else check.interval_s
    return {
        "host_name": _string(target.host),
        "check_command": _string(f"pps_{check.name}"),
        "check_interval": f"{interval_s}s",
        "retry_interval": f"{interval_s if check.mode is Mode.PASSIVE else check.retry_s}s",
        "max_check_attempts": str(check.max_attempts),
        "enable_passive_checks": "true" if check.mode is Mode.PASSIVE else "false",
        "notes": _string(_macro_free(check.summary)),
    }


def _dependency(check: Check, parent: str, target: Target) -> dict[str, str]:
    """Say that a service means nothing while its parent is not OK; only one that runs the probe need not run."""
    return {
        "parent_host_name": _string(target.host),
        "parent_service_name": _string(parent),
        "child_host_name": _string(target.host),
        "child_service_name": _string(check.name),
        "states": "[ OK ]",
        "disable_checks": "true" if check.mode is Mode.ACTIVE else "false",
        "disable_notifications": "true",
    }


def _object(kind: str, name: str, fields: Mapping[str, str], template: str = "") -> str:
    imported = f"  import {_string(template)}\n" if template else ""
    lines = "".join(f"  {field} = {value}\n" for field, value in fields.items())
    return f"object {kind} {_string(name)} {{\n{imported}{lines}}}\n"


def _macro_free(text: str) -> str:
    return text.replace("$", "$$")


def _string(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
