"""Place a release beside the others: take over what is here, fetch the rest, verify all, appear in one step.

Nothing is visible below ``releases/`` before every file has its signed hash and is durable. What an
interrupted install leaves in ``staging/`` is taken over, re-hashed, by the next try. Only a fault of
this machine (disk full, permission) throws the work away.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pps_agent.disk import Space, flush_file_system, measure_free, remove_tree, site_error
from pps_agent.errors import SiteError
from pps_agent.files import sync_directory
from pps_agent.filling import Filling, Progress
from pps_agent.frames import SignedManifest
from pps_agent.origins import sort_files
from pps_agent.patching import plan_patching
from pps_agent.settings import StoreSettings
from pps_agent.space import require_allowed, require_space
from pps_agent.state import Offer
from pps_agent.store import DESCRIPTION, MANIFEST, Store
from pps_agent.transfer import Source
from pps_wire.release import render_custom


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFacts:
    """What an install took. ``bytes_moved`` are bytes of artifact and deltas, the manifest's own length apart.

    ``files_linked`` were taken over from installed releases or stand twice in this one,
    ``files_resumed`` from a try that was broken off, ``files_patched`` were made from deltas. Of
    ``deltas_failed`` deltas, ``delta_fault`` is the first one's reason; their files were fetched.
    """

    bytes_moved: int = 0
    requests: int = 0
    files_fetched: int = 0
    files_linked: int = 0
    files_resumed: int = 0
    files_patched: int = 0
    deltas_failed: int = 0
    delta_fault: str = ""
    installed_bytes: int = 0
    took_s: float = 0.0


def install(
    store: Store,
    offer: Offer,
    signed: SignedManifest,
    source: Source,
    settings: StoreSettings,
    progress: Progress | None = None,
    pack: Source | None = None,
) -> InstallFacts:
    """Make ``offer`` installed and intact; one that is so already costs nothing.

    ``pack`` holds its deltas and counts together with ``source``; without it, or when one of them does not
    work, frames are fetched.
    A damaged one is made anew and swapped in. Raises: SiteError with required and available space, before
    any byte is fetched, or when the machine refuses; FetchError, TrustError, after which the next try
    resumes; WireError for a manifest this agent does not install. The store is as before in all cases.
    """
    started = time.monotonic()
    release = offer.release
    with store.lock():
        seen = store.look(release.id)
        if seen is not None and not seen.fault:
            return InstallFacts(took_s=time.monotonic() - started)
        requests, moved = source.requests, source.bytes_moved
        dead = store.dead_staging(release.id)
        origins = sort_files(store, signed, dead)
        require_allowed(release.id, signed.head.installed_bytes, settings)
        require_space(store.root, release.id, origins.needed, settings)
        with _staging(store, offer, origins.needed) as staged:
            filling = Filling(
                staged / "tree",
                origins,
                source,
                release.artifact.length,
                progress or _silent,
                sync=settings.syncs_files,
                patching=plan_patching(store, origins, release, pack),
            )
            filling.fill(dead)
            _seal(staged, offer, signed, settings)
            store.place(staged, release.id)
    return InstallFacts(
        bytes_moved=source.bytes_moved - moved,
        requests=source.requests - requests,
        files_fetched=filling.fetched,
        files_linked=origins.files - filling.resumed - filling.patched - filling.fetched,
        files_resumed=filling.resumed,
        files_patched=filling.patched,
        deltas_failed=len(filling.delta_faults),
        delta_fault=filling.delta_faults[0] if filling.delta_faults else "",
        installed_bytes=signed.head.installed_bytes,
        took_s=time.monotonic() - started,
    )


@contextlib.contextmanager
def _staging(store: Store, offer: Offer, needed: Space) -> Iterator[Path]:
    """Give a staging directory. A fault of the machine removes it, any other error leaves it to be resumed."""
    staged = store.new_staging(offer.release.id)
    try:
        yield staged
    except (OSError, SiteError) as exc:
        with contextlib.suppress(OSError):
            remove_tree(staged)
        if isinstance(exc, SiteError):
            raise
        raise site_error(exc, staged, f" ({needed} required, {measure_free(store.root)} available)") from exc


def _seal(staged: Path, offer: Offer, signed: SignedManifest, settings: StoreSettings) -> None:
    """Write description and commit mark, and make everything durable."""
    sync = settings.syncs_files
    _write_new(staged / DESCRIPTION, json.dumps(render_custom(offer.release)).encode(), sync=sync)
    _write_new(staged / MANIFEST, signed.raw, sync=sync)
    if sync:
        sync_directory(staged)
    else:
        flush_file_system(staged)


def _write_new(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.write(content)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())


def _silent(done_bytes: int, total_bytes: int) -> None:
    """Show nothing."""
