"""One repository at several addresses: each object comes from whichever of them gives it.

Metadata, manifests, notes and artifacts are signed, so it does not matter who serves them. Order: as
configured, the primary first, those that failed lately last. A penalty grows with each failure in a row
up to an hour and is over then; when all have one, all are asked. Penalties are kept in a small file in
the cache, since the agent's children live for one step only: it may be deleted or damaged at any time.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from pps_agent.errors import FetchError, TrustError
from pps_agent.fetch import Fetcher
from pps_agent.files import save_bytes
from pps_agent.settings import RepositorySettings

FIRST_PENALTY_S: Final = 60
MAX_PENALTY_S: Final = 3600
"""How long a mirror is asked last after its first failure, and at most."""
MEMORY: Final = "mirrors.json"
"""Name of the file in the cache that penalties are kept in."""
_MAX_MEMORY_BYTES: Final = 65_536


class Penalty(msgspec.Struct, frozen=True, kw_only=True):
    """A mirror that failed ``failures`` times in a row; asked last until ``until``, in seconds since 1970."""

    failures: int
    until: float


Penalties = Mapping[str, Penalty]


def order_mirrors(urls: Sequence[str], penalties: Penalties, now_s: float) -> tuple[str, ...]:
    """Give the addresses in the order they are to be asked. Pure.

    A penalty that ends later than any can is one from before the clock was set back, and void.
    """

    def is_penalised(url: str) -> bool:
        penalty = penalties.get(url)
        return penalty is not None and now_s < penalty.until <= now_s + MAX_PENALTY_S

    return tuple(sorted(urls, key=is_penalised))


def penalise(penalty: Penalty | None, now_s: float) -> Penalty:
    """Give the penalty of a mirror that has failed once more. Pure."""
    failures = (penalty.failures if penalty is not None else 0) + 1
    length_s = min(FIRST_PENALTY_S * 2 ** min(failures - 1, 10), MAX_PENALTY_S)
    return Penalty(failures=failures, until=now_s + length_s)


def parse_memory(raw: bytes) -> dict[str, Penalty]:
    """Read remembered penalties. Damaged ones are none: nothing rests on them."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Penalty])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


class Mirrors:
    """The addresses of one repository, over one fetcher; for one thread at a time, as that is.

    ``memory`` is the file penalties are kept in, None for this process only. ``served`` counts, by
    address, the body bytes that were used.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        urls: Sequence[str],
        memory: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fetcher = fetcher
        self.urls = tuple(dict.fromkeys(url.rstrip("/") for url in urls))
        self.served: Counter[str] = Counter()
        self._clock = clock
        # a single address has nobody to stand behind
        self._memory = memory if len(self.urls) > 1 else None
        self._penalties = _load_penalties(self._memory)
        self._changed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    @property
    def primary(self) -> str:
        """The first address, by which the repository is known to people."""
        return self.urls[0]

    def order(self) -> tuple[str, ...]:
        """Give the addresses in the order they are to be asked now."""
        return order_mirrors(self.urls, self._penalties, self._clock())

    def fetch(
        self, path: str, max_bytes: int, check: Callable[[bytes], None] | None = None, *, fresh: bool = False
    ) -> bytes:
        """Give a whole object of at most ``max_bytes`` that ``check``, which raises TrustError, finds right.

        One that is not right is asked for once more past all caches before the next mirror is asked.
        Raises: FetchError or TrustError naming every mirror and why.
        """
        failures: list[Failure] = []
        for url in self.order():
            try:
                return self._fetch_checked(url, path, max_bytes, check, fresh=fresh)
            except (FetchError, TrustError) as exc:
                failures.append(self.blame(url, path, exc))
        raise summarize(path, failures)

    def _fetch_checked(
        self, url: str, path: str, max_bytes: int, check: Callable[[bytes], None] | None, *, fresh: bool
    ) -> bytes:
        body = self.fetch_from(url, path, max_bytes, fresh=fresh)
        if check is not None:
            try:
                check(body)
            except TrustError:
                if fresh:
                    raise
                body = self.fetch_from(url, path, max_bytes, fresh=True)
                check(body)
        self.praise(url)
        return body

    def fetch_from(self, url: str, path: str, max_bytes: int, *, fresh: bool = False) -> bytes:
        """Give a whole object of one mirror, unchecked. Raises: FetchError."""
        body = self.fetcher.get(f"{url}/{path}", max_bytes, fresh=fresh)
        self.served[url] += len(body)
        return body

    def blame(self, url: str, path: str, error: FetchError | TrustError) -> "Failure":
        """Note that a mirror failed; it is asked last for a while."""
        if len(self.urls) > 1:
            self._penalties[url] = penalise(self._penalties.get(url), self._clock())
            self._changed = True
            log = _find_log()
            log.warning("mirror.failed", mirror=url, path=path, error=str(error))
        return Failure(url, error)

    def praise(self, url: str) -> None:
        """Note that a mirror gave what it should."""
        if self._penalties.pop(url, None) is not None:
            self._changed = True

    def log_served(self) -> None:
        """Say which mirror gave how much, where there is a choice."""
        if len(self.urls) > 1:
            log = _find_log()
            for url, size_bytes in self.served.items():
                log.info("mirror.served", mirror=url, size_bytes=size_bytes)

    def save(self) -> None:
        """Keep the penalties for the next process, where that can be."""
        if self._memory is None or not self._changed:
            return
        kept = {url: penalty for url, penalty in self._penalties.items() if url in self.urls}
        # not worth an error: without it the next process asks a bad mirror once more
        with contextlib.suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            save_bytes(self._memory, msgspec.json.encode(kept, order="sorted"))
            self._changed = False


@contextlib.contextmanager
def open_mirrors(settings: RepositorySettings, cache: Path) -> Iterator[Mirrors]:
    """Open a fetcher over the repository's addresses and keep what was learned of them in ``cache``."""
    urls = (settings.url, *settings.mirrors)
    with Fetcher(settings.timeout_s, settings.proxy) as fetcher, Mirrors(fetcher, urls, cache / MEMORY) as mirrors:
        yield mirrors


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a mirror did not give an object."""

    url: str
    error: FetchError | TrustError


def summarize(path: str, failures: Sequence[Failure]) -> FetchError | TrustError:
    """Give one error for all mirrors of an object. Pure.

    What does not verify outweighs what cannot be had; that is permanent only where it is everywhere.
    """
    errors = [failure.error for failure in failures]
    if len(errors) == 1:
        return errors[0]
    text = f"{path}: none of {len(errors)} mirrors gives it: " + " | ".join(map(str, errors))
    if any(isinstance(error, TrustError) for error in errors):
        return TrustError(text)
    return FetchError(text, permanent=all(isinstance(error, FetchError) and error.permanent for error in errors))


def _load_penalties(path: Path | None) -> dict[str, Penalty]:
    if path is None:
        return {}
    try:
        with path.open("rb") as stream:
            return parse_memory(stream.read(_MAX_MEMORY_BYTES))
    except OSError:
        return {}


def _find_log() -> Any:
    """Give the program's logger, once there is something to tell: structlog costs a third of a child's start."""
    import structlog

    return structlog.get_logger()
