"""What the information system really shows: subclusters and their tags over LDAP, looked at and never changed.

Below ``o=glue`` that is GLUE 2, where a tag counts as shown while its state lets jobs go to it; else GLUE 1.3.

Importing it costs 200 ms, for ldap3.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pps_agent.state import Unknown
from pps_agent.subcluster_search import IncompleteError, NoBaseError, SearchError, find_subclusters
from pps_wire.names import Subcluster, Tag

Published = Mapping[Subcluster, frozenset[Tag]]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one subcluster should come to show: all of ``present``, none of ``absent``."""

    present: frozenset[Tag] = frozenset()
    absent: frozenset[Tag] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first of several servers that answered shows, which one it was, and why those before did not."""

    shown: Published | Unknown
    server: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Propagation:
    """How a wait ended: the last answer, whether it showed what was expected, and after how many seconds."""

    answer: Answer
    reached: bool
    delay_s: float
    looks: int

    @property
    def observed(self) -> Published | Unknown:
        """What was shown at last."""
        return self.answer.shown


def observe_published(url: str, base: str, subclusters: Iterable[Subcluster], timeout_s: float) -> Published | Unknown:
    """Look up which VO tags each subcluster shows.

    Every value that starts with ``VO-`` is given, also one that is no tag by our grammar; others are
    the site's own middleware tags. An entry found below several DNs counts once, with all values.
    A subcluster that the server answered not to know is missing in the mapping; one it knows without
    tags has the empty set. Whatever hinders the look (no answer, an incomplete answer, a search base
    that does not exist, as in a server that has just been started) gives Unknown, never "not there".
    ``timeout_s`` bounds connecting and each wait for an answer, ten times that the whole search. Where a server gives
    too few entries to one search, each subcluster is asked for by itself.
    """
    wanted = {subcluster.lower(): subcluster for subcluster in subclusters}
    if not wanted:
        return {}
    if not _is_ldap_url(url):
        return Unknown(f"{url!r} is no LDAP address: write infosys.url like ldap://bdii.example.org:2170")
    try:
        entries = find_subclusters(url, base, tuple(wanted.values()), timeout_s)
    except NoBaseError:
        return Unknown(
            f"{url} has no entry {base!r}: set infosys.base to one of"
            f" `ldapsearch -x -H {url} -s base -b '' namingContexts`"
        )
    except IncompleteError as exc:
        return Unknown(f"{url} gave only part of the answer ({exc}): set infosys.base to this site's entry")
    except SearchError as exc:
        return Unknown(f"cannot look at {url}: {exc}; try `ldapsearch -x -H {url} -b {base}`")
    found: dict[Subcluster, frozenset[Tag]] = {}
    for ids, values in entries:
        for name in ids:
            subcluster = wanted.get(name.lower())
            if subcluster is not None:
                found[subcluster] = found.get(subcluster, frozenset()) | _vo_tags(values)
    return found


def ask_servers(servers: Sequence[str], base: str, subclusters: Iterable[Subcluster], timeout_s: float) -> Answer:
    """Ask servers of the same tree in turn, until one answers. Looks as ``observe_published`` does."""
    wanted = tuple(subclusters)
    problems: list[str] = []
    for url in servers:
        shown = observe_published(url, base, wanted, timeout_s)
        if not isinstance(shown, Unknown):
            return Answer(shown, url, tuple(problems))
        problems.append(shown.reason)
    return Answer(Unknown("; ".join(problems) or "no information system is named"), problems=tuple(problems))


def is_reached(observed: Published | Unknown, wanted: Mapping[Subcluster, Expectation]) -> bool:
    """Tell whether a look shows what is expected; Unknown and a missing subcluster never do."""
    if isinstance(observed, Unknown):
        return False
    return all(
        subcluster in observed
        and expected.present <= observed[subcluster]
        and expected.absent.isdisjoint(observed[subcluster])
        for subcluster, expected in wanted.items()
    )


def wait_published(
    servers: Sequence[str],
    base: str,
    wanted: Mapping[Subcluster, Expectation],
    *,
    timeout_s: float,
    wait_s: float,
    poll_s: float = 1.0,
    stop: threading.Event | None = None,
) -> Propagation:
    """Look again every ``poll_s`` until all expectations are met, ``wait_s`` have passed, or ``stop`` is set.

    Looks at least once, as ``ask_servers`` does. ``delay_s`` is measured from the call, on the monotonic clock, and is
    as coarse as ``poll_s``.
    """
    halt = stop or threading.Event()
    start = time.monotonic()
    looks = 0
    while True:
        answer = ask_servers(servers, base, wanted, timeout_s)
        looks += 1
        passed_s = time.monotonic() - start
        reached = is_reached(answer.shown, wanted)
        left_s = wait_s - passed_s
        if reached or left_s <= 0 or halt.wait(min(poll_s, left_s)):
            return Propagation(answer, reached, passed_s, looks)


def _is_ldap_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"ldap", "ldaps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _vo_tags(values: Iterable[bytes]) -> frozenset[Tag]:
    return frozenset(Tag(value.decode("ascii")) for value in values if value.startswith(b"VO-") and value.isascii())
