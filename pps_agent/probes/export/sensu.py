"""Checks for Sensu Go, as ARGO has them: one JSON document for each, parted as in YAML, which JSON is. Pure.

``sensuctl create --file`` takes the whole. ``attempts`` is the annotation by which ARGO finds hard states. Source:
Sensu Go, core/v2 CheckConfig (a check has an interval or a cron line; ``ttl`` is more than the interval; a command
is a shell line in which ``{{`` begins a token).
"""

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any, Final

from pps_agent.probes.export.checks import Check, Mode, Target
from pps_wire.errors import WireError

NEVER: Final = "0 0 31 2 *"
"""The cron line of a check whose results are submitted: the 31st of February."""
MAX_OUTPUT_BYTES: Final = 16_384

_NAME: Final = re.compile(r"[\w.-]{1,255}", re.ASCII)


def render_sensu(checks: Iterable[Check], target: Target) -> str:
    """Give the documents. Raises: WireError when a name or path cannot be written in them."""
    return "".join(f"---\n{json.dumps(_describe(check, target), indent=2)}\n" for check in checks)


def _describe(check: Check, target: Target) -> dict[str, Any]:
    command = shlex.join(check.command)
    if "{{" in command:
        raise WireError("export", f"Sensu reads {{{{ in {command[:80]!r} as a token: choose another path")
    if _NAME.fullmatch(target.host) is None:
        raise WireError("export", f"{target.host[:80]!r} cannot be an entity of Sensu: use letters, digits and . _ -")
    annotations = {"attempts": str(check.max_attempts), "pps_summary": check.summary, "pps_version": check.version}
    spec: dict[str, Any] = {
        "command": command,
        "subscriptions": [target.subscription or f"entity:{target.host}"],
        "handlers": [],
        "publish": check.mode is not Mode.PASSIVE,
        "round_robin": False,
        "timeout": check.timeout_s + 1,
        "max_output_size": MAX_OUTPUT_BYTES,
        "output_metric_format": "nagios_perfdata",
    }
    if check.mode is Mode.PASSIVE:
        spec |= {"cron": NEVER, "ttl": check.fresh_s}
    else:
        spec["interval"] = check.interval_s
    return {
        "type": "CheckConfig",
        "api_version": "core/v2",
        "metadata": {"name": check.name, "namespace": "default", "annotations": annotations},
        "spec": spec,
    }
