"""``pps-agent node-run``: the payload's code on a request file; and a payload to try by hand."""

import contextlib
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from pps_agent.cli import context
from pps_agent.errors import AgentError
from pps_agent.probes import node_run as code
from pps_agent.probes.executors.answers import make_request
from pps_agent.probes.executors.batch import load_source
from pps_agent.probes.executors.payload import render_payload
from pps_agent.site import Site
from pps_agent.state import Unknown
from pps_agent.tags.areas import NOWHERE
from pps_wire.names import ReleaseId, parse_release_id

_GOOD_FOR: Final = timedelta(hours=24)


@click.command("node-run")
@click.argument("request", required=False, type=click.Path(exists=True, dir_okay=False))
@click.argument("document", required=False, type=click.Path(dir_okay=False, writable=True))
@click.option("--payload", "release", help="Print the payload of this installed release, good for a day; run nothing.")
def node_run(request: str | None, document: str | None, release: str | None) -> None:
    """Run the probes of REQUEST here and write the answer to DOCUMENT, or between marker lines to stdout.

    What a job on a worker node does, for looking into it: docs/howto/probe-on-worker-nodes.md. Exit codes:
    0 written, 1 failed, 3 not a request or too late.
    """
    if release is not None and request is None:
        sys.stdout.write(_payload_of(parse_release_id(release)))
        return
    if release is not None or request is None:
        raise click.UsageError("give either a REQUEST or --payload RELEASE")
    arguments = [request, *([document] if document else [])]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-IS", str(Path(code.__file__)), *arguments])  # noqa: S606 - no shell


def _payload_of(release: ReleaseId) -> str:
    """Give the payload that an executor would submit. Raises: AgentError, WireError."""
    settings = context.settings()
    with contextlib.closing(Site(settings, context.config_path())) as site:
        aside = Unknown("a payload needs none")
        executor = site.executor(aside, aside, NOWHERE)
        with contextlib.closing(executor):
            if release not in site.store.installed():
                raise AgentError(f"{release} is not installed: see pps-agent release list")
            task = executor.node_task(release)
    request = make_request(task, secrets.token_hex(16), datetime.now(UTC) + _GOOD_FOR)
    return render_payload(request, load_source(), settings.nodes.python)
