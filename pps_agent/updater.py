"""python-tuf's client for any TUF repository, over our fetcher and mirrors, with durable files.

python-tuf itself writes without fsync, so it works in a throw-away directory of links to what is kept;
whatever it accepted is then kept durably, also when a later step failed: it is the floor no repository may
go below. Which mirror is wrong python-tuf cannot tell. So when it refuses something, it starts over with
what it accepted, without the mirror that gave the refused file; only when nobody gives a better one, that
was an attack. Source: TUF specification 1.0.33, clause 5 (detailed client workflow).
"""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from tuf.api.exceptions import DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pps_agent.errors import FetchError, SiteError, TrustError
from pps_agent.fetch import StatusError
from pps_agent.files import save_bytes
from pps_agent.mirrors import Failure, Mirrors, summarize

LIMITS: Final = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=32,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
)

_NO_SUCH_ROOT: Final = (403, 404)
"""Answers by which a server says that there is no newer root (clause 5.3.3)."""


class MetadataKeeper:
    """Verified metadata in ``kept``, as python-tuf lays it out; ``directory`` holds the lock and work under way.

    Metadata of ``mirrors`` lies below ``prefix``, which is empty or ends in a slash.
    """

    def __init__(self, directory: Path, kept: Path, mirrors: Mirrors, prefix: str) -> None:
        self._directory = directory
        self._kept = kept
        self._mirrors = mirrors
        self._prefix = prefix

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time move the trusted state. Raises: SiteError when another one does.

        Not ``hold_lock``: a look at a repository that has nothing new must write nothing.
        """
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self._directory / "lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise SiteError(f"{stream.name}: another agent is refreshing; wait for it") from exc
            for dead in self._directory.glob("work.*"):
                shutil.rmtree(dead)
            yield

    def update(
        self, root: bytes, paths: Iterable[str] = (), *, optional: Iterable[str] = ()
    ) -> dict[str, TargetFile | None]:
        """Verify what is new, from the trusted ``root`` on; give what is signed for each of ``paths``.

        To be called under ``lock``. A path that nobody signs for is None. The roles that ``optional`` paths
        are delegated to are loaded where they verify, and cost nothing else where they do not. Raises:
        TrustError, FetchError, OSError; what was accepted before is kept all the same (clauses 5.3.8, 5.4.5,
        5.5.7).
        """
        with tempfile.TemporaryDirectory(prefix="work.", dir=self._directory) as name:
            work = Path(name)
            _link_files(self._kept, work)
            bridge = _Bridge(self._mirrors, self._prefix)
            try:
                return self._update(work, root, tuple(paths), tuple(optional), bridge)
            finally:
                _keep_files(work, self._kept)

    def _update(
        self, work: Path, root: bytes, paths: tuple[str, ...], optional: tuple[str, ...], bridge: "_Bridge"
    ) -> dict[str, TargetFile | None]:
        while True:
            try:
                updater = Updater(str(work), bridge.base, fetcher=bridge, config=LIMITS, bootstrap=root)
                updater.refresh()
                found = {path: updater.get_targetinfo(path) for path in paths}
            except (RepositoryError, ValueError, RecursionError) as exc:
                bridge.refuse(TrustError(_distrust(self._mirrors.primary, exc)), exc)
            else:
                bridge.praise()
                for path in optional:
                    with contextlib.suppress(RepositoryError, ValueError, RecursionError, FetchError):
                        updater.get_targetinfo(path)
                return found


class _Bridge(FetcherInterface):
    """Our mirrors as python-tuf wants them.

    First each file comes from whichever mirror answers. Once something was refused, every mirror is asked
    for newer roots, since one that is behind knows neither those nor what they sign.
    """

    def __init__(self, mirrors: Mirrors, prefix: str) -> None:
        self.base = f"{mirrors.primary}/{prefix}"
        self._mirrors = mirrors
        self._prefix = prefix
        self._thorough = False
        self._refused: dict[str, list[Failure]] = {}
        self._last: tuple[str, str] | None = None
        """The file that python-tuf was given last, and who gave it."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Serve python-tuf's general way to fetch, which knows no limit of its own."""
        return iter((self.download_bytes(url, LIMITS.targets_max_length),))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Give one metadata file. Raises: FetchError; DownloadHTTPError when there is no newer root."""
        path = self._prefix + url.removeprefix(self.base)
        is_root = path.endswith(".root.json")
        failures = list(self._refused.get(path, ()))
        passed_by = {failure.url for failure in failures}
        absent: StatusError | None = None
        for mirror in self._mirrors.order():
            if mirror in passed_by:
                continue
            try:
                body = self._mirrors.fetch_from(mirror, path, max_length, fresh=_is_mutable(path))
            except FetchError as exc:
                if is_root and isinstance(exc, StatusError) and exc.status in _NO_SUCH_ROOT:
                    absent = exc
                    if not self._thorough:
                        break
                    continue
                failures.append(self._mirrors.blame(mirror, path, exc))
                continue
            self._last = path, mirror
            return body
        if absent is not None:
            raise DownloadHTTPError(str(absent), absent.status) from absent
        raise summarize(path, failures)

    def refuse(self, error: TrustError, reason: Exception) -> None:
        """Note that the file given last was refused. Raises: TrustError when nobody else can be asked for it."""
        if self._last is None or len(self._mirrors.urls) == 1:
            raise error from reason
        path, mirror = self._last
        self._last = None
        if not self._thorough:
            self._thorough = True
            return
        failures = self._refused.setdefault(path, [])
        failures.append(self._mirrors.blame(mirror, path, error))
        if len(failures) == len(self._mirrors.urls):
            self._give_up(path, reason)

    def _give_up(self, path: str, reason: Exception) -> NoReturn:
        raise summarize(path, self._refused[path]) from reason

    def praise(self) -> None:
        """Note that what the last mirror gave was accepted."""
        if self._last is not None:
            self._mirrors.praise(self._last[1])


def _is_mutable(path: str) -> bool:
    """Tell whether a file may be another one tomorrow under the same name; a root's may come to be."""
    name = path.rpartition("/")[2]
    return name.endswith(".root.json") or not name.partition(".")[0].isdigit()


def _link_files(kept: Path, work: Path) -> None:
    """Show python-tuf what is kept; a file it replaces is one of its own then. Its root.json it makes anew."""
    (work / "root_history").mkdir()
    for path in (*kept.glob("*.json"), *kept.glob("root_history/*.json")):
        if path != kept / "root.json":
            (work / path.relative_to(kept)).symlink_to(path.absolute())


def _keep_files(work: Path, kept: Path) -> None:
    """Keep what python-tuf accepted, each file in one step; unchanged ones are not written."""
    (kept / "root_history").mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (*work.glob("root_history/*.json"), *work.glob("*.json")):
        if path.name == "root.json" or not path.is_symlink():
            save_changed(kept / path.relative_to(work), path.read_bytes())


def save_changed(path: Path, content: bytes) -> None:
    """Replace a file durably unless it has this content already. Raises: OSError."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    save_bytes(path, content)


def _distrust(url: str, exc: Exception) -> str:
    advice = "tell the release managers"
    if isinstance(exc, ExpiredMetadataError):
        advice = "check this machine's clock"
    elif isinstance(exc, DeserializationError):
        advice = "this is no metadata: check for a proxy or portal that answers instead, or tell the release managers"
    return f"{url}: {exc}; the last good state stays; {advice}"
