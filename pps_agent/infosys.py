"""What the information system really shows: GLUE 1.3 subclusters over LDAP, looked at and never changed.

The only module that knows ldap3, an untyped library that costs 200 ms to import.
"""

import math
import ssl
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from pps_agent.errors import AgentError
from pps_agent.state import Unknown
from pps_wire.names import Subcluster, Tag

with warnings.catch_warnings():
    # ldap3 2.9.1 imports names that pyasn1 deprecates; no release of ldap3 is newer.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ldap3
    from ldap3.core.exceptions import LDAPException, LDAPNoSuchObjectResult
    from ldap3.core.results import RESULT_SUCCESS
    from ldap3.utils.conv import escape_filter_chars

_ID: Final = "GlueSubClusterUniqueID"
_TAGS: Final = "GlueHostApplicationSoftwareRunTimeEnvironment"


Published = Mapping[Subcluster, frozenset[Tag]]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one subcluster should come to show: all of ``present``, none of ``absent``."""

    present: frozenset[Tag] = frozenset()
    absent: frozenset[Tag] = frozenset()


@dataclass(frozen=True, slots=True)
class Propagation:
    """How a wait ended: the last look, whether it showed what was expected, and after how many seconds."""

    observed: Published | Unknown
    reached: bool
    delay_s: float
    looks: int


class _IncompleteError(AgentError):
    """The server ended the search before its end; its own word for it is the message."""


def observe_published(url: str, base: str, subclusters: Iterable[Subcluster], timeout_s: float) -> Published | Unknown:
    """Look up which VO tags each subcluster shows.

    Every value that starts with ``VO-`` is given, also one that is no tag by our grammar; others are
    the site's own middleware tags. An entry found below several DNs counts once, with all values.
    A subcluster that the server answered not to know is missing in the mapping; one it knows without
    tags has the empty set. Whatever hinders the look (no answer, an incomplete answer, a search base
    that does not exist, as in a server that has just been started) gives Unknown, never "not there".
    ``timeout_s`` bounds connecting, and each wait for an answer.
    """
    wanted = {subcluster.lower(): subcluster for subcluster in subclusters}
    if not wanted:
        return {}
    if not _is_ldap_url(url):
        return Unknown(f"{url!r} is no LDAP address: write infosys.url like ldap://bdii.example.org:2170")
    try:
        entries = _search(url, base, wanted.values(), timeout_s)
    except LDAPNoSuchObjectResult:
        return Unknown(
            f"{url} has no entry {base!r}: set infosys.base to one of"
            f" `ldapsearch -x -H {url} -s base -b '' namingContexts`"
        )
    except _IncompleteError as exc:
        return Unknown(f"{url} gave only part of the answer ({exc}): set infosys.base to this site's entry")
    except (LDAPException, OSError, ValueError) as exc:
        return Unknown(f"cannot look at {url}: {_first_line(exc)}; try `ldapsearch -x -H {url} -b {base}`")
    found: dict[Subcluster, frozenset[Tag]] = {}
    for ids, values in entries:
        for name in ids:
            subcluster = wanted.get(name.lower())
            if subcluster is not None:
                found[subcluster] = found.get(subcluster, frozenset()) | _vo_tags(values)
    return found


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
    url: str,
    base: str,
    wanted: Mapping[Subcluster, Expectation],
    *,
    timeout_s: float,
    wait_s: float,
    poll_s: float = 1.0,
    stop: threading.Event | None = None,
) -> Propagation:
    """Look again every ``poll_s`` until all expectations are met, ``wait_s`` have passed, or ``stop`` is set.

    Looks at least once. ``delay_s`` is measured from the call, on the monotonic clock, and is as
    coarse as ``poll_s``.
    """
    halt = stop or threading.Event()
    start = time.monotonic()
    looks = 0
    while True:
        observed = observe_published(url, base, wanted, timeout_s)
        looks += 1
        passed_s = time.monotonic() - start
        reached = is_reached(observed, wanted)
        left_s = wait_s - passed_s
        if reached or left_s <= 0 or halt.wait(min(poll_s, left_s)):
            return Propagation(observed, reached, passed_s, looks)


def _is_ldap_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"ldap", "ldaps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _search(
    url: str, base: str, subclusters: Iterable[Subcluster], timeout_s: float
) -> list[tuple[list[str], list[bytes]]]:
    """Give (ids, raw tag values) of the matching entries.

    Raises: LDAPException, OSError, ValueError, _IncompleteError.
    """
    # ldap3 checks no certificate unless told to.
    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED) if url.lower().startswith("ldaps:") else None
    server = ldap3.Server(url, get_info=ldap3.NONE, connect_timeout=timeout_s, tls=tls)
    connection = ldap3.Connection(
        server,
        read_only=True,
        auto_referrals=False,  # a server must not send us elsewhere
        raise_exceptions=True,
        receive_timeout=math.ceil(timeout_s),
    )
    names = "".join(f"({_ID}={escape_filter_chars(subcluster)})" for subcluster in subclusters)
    try:
        connection.bind()
        connection.search(
            base,
            f"(&(objectClass=GlueSubCluster)(|{names}))",
            attributes=[_ID, _TAGS],
            time_limit=math.ceil(timeout_s),
        )
        # ldap3 raises for most result codes, but not for a limit or a referral.
        if connection.result["result"] != RESULT_SUCCESS:
            raise _IncompleteError(connection.result["description"])
        return [_values(entry) for entry in connection.response or () if entry["type"] == "searchResEntry"]
    finally:
        connection.unbind()
        if connection.socket is not None:  # ldap3 forgets to close a socket that could not connect
            connection.socket.close()


def _values(entry: Mapping[str, Any]) -> tuple[list[str], list[bytes]]:
    # Raw values by lower-cased name: without a schema (get_info=NONE) ldap3 guesses types and keeps
    # the server's letter case.
    raw = {str(name).lower(): list(values) for name, values in entry["raw_attributes"].items()}
    ids = [value.decode("utf-8", "replace") for value in raw.get(_ID.lower(), [])]
    return ids, raw.get(_TAGS.lower(), [])


def _vo_tags(values: Iterable[bytes]) -> frozenset[Tag]:
    return frozenset(Tag(value.decode("ascii")) for value in values if value.startswith(b"VO-") and value.isascii())


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0][:300]
