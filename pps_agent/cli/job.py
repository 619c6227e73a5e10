"""The child's side of ``jobs.py``: one heavy step, one JSON document on stdout, exit 0 also when it failed."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from pps_agent.cli import context
from pps_agent.errors import AgentError, ConfigError
from pps_agent.fetch import Fetcher
from pps_agent.install import Progress
from pps_agent.install import install as install_release
from pps_agent.jobs import Expected, InstallReply, PublishedReply, RefreshReply, describe_error
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_agent.store import Store
from pps_agent.transfer import HttpSource, fetch_manifest
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag

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
    from pps_agent.trust import Trust

    settings = context.settings()
    now = datetime.now(UTC)
    offered: ReleaseSet | Unknown
    failure = None
    with Fetcher(settings.repository.timeout_s) as fetcher:
        try:
            root = _load_root(settings.repository.root)
        except ConfigError as exc:
            return _reply(RefreshReply(unknown=str(exc), failure=describe_error(exc)))
        trust = Trust(settings.paths.state / "tuf", root, settings.repository.url, fetcher)
        try:
            offered = trust.load(now) if offline else trust.refresh(now)
        except AgentError as exc:
            failure = describe_error(exc)
            offered = trust.load(now)
    if isinstance(offered, Unknown):
        return _reply(RefreshReply(unknown=offered.reason, failure=failure))
    return _reply(RefreshReply(offered=offered, failure=failure))


@job.command()
def install() -> None:
    """Install the release of the verified offer on stdin."""
    settings = context.settings()
    offer = msgspec.json.decode(sys.stdin.buffer.read(), type=Offer)
    url = settings.repository.url.rstrip("/")
    try:
        with Fetcher(settings.repository.timeout_s) as fetcher:
            signed = fetch_manifest(fetcher, url, offer)
            artifact = offer.release.artifact
            source = HttpSource(fetcher, f"{url}/{artifact.path}", artifact.length)
            with _progress(offer.release.id) as progress:
                facts = install_release(Store(settings.paths.store), offer, signed, source, settings.store, progress)
    except (AgentError, WireError) as exc:
        _reply(InstallReply(failure=describe_error(exc)))
    else:
        _reply(InstallReply(facts=asdict(facts) | {"manifest_bytes": offer.manifest.length}))


@job.command()
def published() -> None:
    """Look at the information system, waiting for what stdin says is expected."""
    # As above: ldap3 costs 200 ms.
    from pps_agent.infosys import Expectation, observe_published, wait_published

    settings = context.settings()
    expected = msgspec.json.decode(sys.stdin.buffer.read(), type=Expected)
    infosys, subclusters = settings.infosys, settings.site.subclusters
    if expected.wait_s:
        wanted = {
            Subcluster(name): Expectation(
                frozenset(Tag(tag) for tag in expected.present.get(name, ())),
                frozenset(Tag(tag) for tag in expected.absent.get(name, ())),
            )
            for name in expected.present.keys() | expected.absent.keys()
        }
        seen = wait_published(
            infosys.url, infosys.base, wanted, timeout_s=infosys.timeout_s, wait_s=expected.wait_s
        ).observed
    else:
        seen = observe_published(infosys.url, infosys.base, subclusters, infosys.timeout_s)
    if isinstance(seen, Unknown):
        _reply(PublishedReply(unknown=seen.reason))
    else:
        tags: dict[str, list[str]] = {name: sorted(there) for name, there in seen.items()}
        _reply(PublishedReply(tags=tags))


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


def _reply(reply: RefreshReply | InstallReply | PublishedReply) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reply))
    sys.stdout.flush()
