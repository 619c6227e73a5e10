"""The child's side of ``jobs.py``: one heavy step, one JSON document on stdout, exit 0 also when it failed."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from pps_agent.cli import context
from pps_agent.database import open_database
from pps_agent.errors import AgentError, ConfigError
from pps_agent.filling import Progress
from pps_agent.identity import load_identity
from pps_agent.install import install as install_release
from pps_agent.jobs import (
    Expected,
    InstallReply,
    LdifReply,
    PublishedReply,
    RefreshReply,
    ReportReply,
    RequestReply,
    describe_error,
)
from pps_agent.mirror_source import MirrorSource
from pps_agent.mirrors import Mirrors, open_mirrors
from pps_agent.outbox import Outbox
from pps_agent.register import register
from pps_agent.settings import Settings
from pps_agent.site import Site
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.store import Store
from pps_agent.tags.areas import find_areas
from pps_agent.tags.errors import TagError
from pps_agent.tags.static import keep_ldif
from pps_agent.transfer import fetch_manifest
from pps_wire.errors import WireError

if TYPE_CHECKING:
    from pps_agent.inbox import Handled
    from pps_agent.trust import Trust

_PR_SET_PDEATHSIG: Final = 1


@click.group()
@click.option("--parent", type=int, hidden=True, help="End with this process.")
def job(parent: int | None) -> None:
    """One heavy step as a child process (used by the agent itself)."""
    if parent is not None:
        _die_with(parent)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies: else the next round finds the store locked.

    Source: prctl(2). Between its start and the call the parent may have died already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@job.command()
@click.option("--offline", is_flag=True, help="Only load what was verified before.")
def refresh(offline: bool) -> None:
    """Verify the repository's newest metadata, or fall back to the last good."""
    # The TUF client costs 200 ms, which the other jobs need not pay.
    from pps_agent.trust import Trust, UnkeptError

    settings = context.settings()
    now = datetime.now(UTC)
    offered: ReleaseSet | Unknown
    failure = None
    with _open_mirrors(settings) as mirrors:
        try:
            root = _load_root(settings.repository.root)
        except ConfigError as exc:
            return _reply(RefreshReply(unknown=str(exc), failure=describe_error(exc)))
        trust = Trust(settings.paths.state / "tuf", root, mirrors)
        try:
            offered = trust.load(now) if offline else trust.refresh(now)
        except AgentError as exc:
            failure = describe_error(exc)
            offered = _refresh_aside(trust, now) if isinstance(exc, UnkeptError) else trust.load(now)
    if isinstance(offered, Unknown):
        return _reply(RefreshReply(unknown=offered.reason, failure=failure))
    return _reply(RefreshReply(offered=offered, failure=failure))


def _refresh_aside(trust: "Trust", now: datetime) -> ReleaseSet | Unknown:
    try:
        return trust.refresh_aside(now)
    except (AgentError, OSError):  # the first error is the one to tell
        return trust.load(now)


@job.command()
def install() -> None:
    """Install the release of the verified offer on stdin."""
    settings = context.settings()
    offer = msgspec.json.decode(sys.stdin.buffer.read(), type=Offer)
    try:
        with _open_mirrors(settings) as mirrors:
            signed = fetch_manifest(mirrors, offer)
            if settings.store.kind == "cvmfs":
                store = Store(settings.paths.store, settings.store.trees)
                return _reply(InstallReply(facts=asdict(register(store, offer, signed))))
            artifact = offer.release.artifact
            source = MirrorSource(mirrors, artifact.path, artifact.length)
            deltas = offer.release.deltas
            pack = MirrorSource(mirrors, deltas.path, deltas.length) if deltas is not None else None
            store = Store(settings.paths.store, settings.store.trees)
            with _progress(offer.release.id) as progress:
                facts = install_release(store, offer, signed, source, settings.store, progress, pack)
            mirrors.log_served()
    except (AgentError, WireError) as exc:
        _reply(InstallReply(failure=describe_error(exc)))
    else:
        _reply(InstallReply(facts=asdict(facts) | {"manifest_bytes": offer.manifest.length}))


@job.command()
def published() -> None:
    """Look at the information systems, waiting for what stdin says is expected."""
    # As above: ldap3 costs 200 ms.
    from pps_agent.published import look_at_areas

    settings = context.settings()
    expected = msgspec.json.decode(sys.stdin.buffer.read(), type=Expected)
    _reply(look_at_areas(find_areas(settings), expected, settings.infosys.timeout_s))


@job.command()
def ldif() -> None:
    """Bring the files of tags in GLUE 2 up to date."""
    settings, problems = context.settings(), list[str]()
    for area in find_areas(settings):
        try:
            problems += keep_ldif(area, settings.paths.cache, socket.gethostname(), datetime.now(UTC))
        except (TagError, WireError) as exc:
            problems.append(str(exc))
    _reply(LdifReply(problems=problems))
    sys.stdout.flush()
    if problems:
        os._exit(0)  # a thread may hang on the file system


@job.command()
def report() -> None:
    """Send the collector what waits in the outbox."""
    from pps_agent.report import send_outbox  # with requests, which the other jobs need not load

    settings = context.settings()
    try:
        identity = load_identity(settings)
        if identity is None or not settings.collector.url:
            return _reply(ReportReply())
        path = settings.paths.state / "state.db"
        with contextlib.closing(open_database(path, settings.paths.journal)) as database:
            outbox = Outbox(database, identity.agent, identity.site)
            sent = send_outbox(outbox, identity, settings.collector, datetime.now(UTC))
    except AgentError as exc:
        return _reply(ReportReply(failure=describe_error(exc)))
    return _reply(ReportReply(acknowledged=sent.acknowledged, batches=sent.batches, wire_bytes=sent.wire_bytes))


@job.command("requests")
@click.option("--once", is_flag=True, help="Look once, without waiting.")
def serve_requests(once: bool) -> None:
    """Carry out the collector's requests until the parent ends; one JSON document a line for each."""
    from pps_agent.request_service import RequestService  # with the TUF client, as above
    from pps_agent.trust import Trust

    settings = context.settings()

    def say(handled: "Handled") -> None:
        request = handled.request.id if handled.request is not None else ""
        _reply(RequestReply(request=request, state=handled.state, reason=handled.reason))

    with contextlib.closing(Site(settings, context.config_path())) as site, _open_mirrors(settings) as mirrors:
        trust = Trust(settings.paths.state / "tuf", _load_root(settings.repository.root), mirrors)
        service = RequestService(site, trust, say)
        service.look(0) if once else service.serve()


@contextlib.contextmanager
def _open_mirrors(settings: Settings) -> Iterator[Mirrors]:
    if settings.repository.mirrors:
        # Only several mirrors have something to log: structlog costs a third of a child's start.
        from pps_agent.log import start_logging

        start_logging()  # on stderr: stdout is the reply's
    with open_mirrors(settings.repository, settings.paths.cache) as mirrors:
        yield mirrors


@contextlib.contextmanager
def _progress(release: str) -> Iterator[Progress | None]:
    """Show a progress bar on a person's terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=f"installing {release}", file=sys.stderr) as bar:

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.length = total_bytes
            bar.update(done_bytes - bar.pos)

        yield advance


def _load_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror}; get root.json from the publisher, see repository.root"]) from exc


def _reply(reply: RefreshReply | InstallReply | PublishedReply | ReportReply | RequestReply | LdifReply) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    sys.stdout.flush()
