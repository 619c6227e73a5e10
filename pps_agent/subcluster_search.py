"""One look at an LDAP server for subclusters and their tags: in pages, within limits of time and size.

GLUE 1.3 has the tags in the subcluster's entry; GLUE 2 has an entry for each tag, beside the subcluster's. The only
module that knows ldap3, an untyped library that costs 200 ms to import. Source: RFC 4511, RFC 2696 (pages).
"""

import contextlib
import math
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pps_agent.errors import AgentError
from pps_agent.tags.glue2 import is_glue2
from pps_wire.names import Subcluster

with warnings.catch_warnings():
    # ldap3 2.9.1 imports names that pyasn1 deprecates; no release of ldap3 is newer.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ldap3
    from ldap3.core.exceptions import LDAPException, LDAPNoSuchObjectResult
    from ldap3.core.results import RESULT_SIZE_LIMIT_EXCEEDED, RESULT_SUCCESS
    from ldap3.utils.conv import escape_filter_chars

_PAGE: Final = 100
"""Entries asked for at a time (RFC 2696): a subcluster may have ten thousand tags."""
_PAGES: Final = "1.2.840.113556.1.4.319"
_PATIENCE: Final = 10
"""A search may last this many times as long as one answer: a server that drips does not hold us for ever."""
_MAX_BYTES: Final = 32 * 1024**2
"""Most that is taken from one server: a hundred thousand tags of full length. ldap3 makes many times that of it."""

_UNREAD: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What ldap3 raises besides its own errors, for an answer that is no LDAP."""


class SearchError(AgentError):
    """The search came to nothing; the message says why, in one line."""


class NoBaseError(SearchError):
    """The server has no entry of the search base's name."""


class IncompleteError(SearchError):
    """The server ended the search before its end; its own word for it is the message."""


class _TooManyError(IncompleteError):
    """The server gives no more entries to one search."""


class _Kind(NamedTuple):
    """One kind of entries: what names the subcluster in them, what the tag, and what its state."""

    object_class: str
    subcluster: str
    tag: str = ""
    state: str = ""

    def read(self, attributes: Mapping[str, list[bytes]]) -> tuple[list[str], list[bytes]]:
        """Give the subclusters and tags that an entry names; of a tag to which no jobs go the subclusters alone."""
        names = [value.decode("utf-8", "replace") for value in attributes.get(self.subcluster.lower(), [])]
        is_off = not _OFF.isdisjoint(attributes.get(self.state.lower(), []))
        return names, [] if is_off else attributes.get(self.tag.lower(), [])


_OFF: Final = frozenset({b"installednotverified", b"installedbroken"})
_GLUE1: Final = (_Kind("GlueSubCluster", "GlueSubClusterUniqueID", "GlueHostApplicationSoftwareRunTimeEnvironment"),)
_GLUE2: Final = (
    _Kind("GLUE2ExecutionEnvironment", "GLUE2ResourceID"),
    _Kind(
        "GLUE2ApplicationEnvironment",
        "GLUE2ApplicationEnvironmentExecutionEnvironmentForeignKey",
        "GLUE2ApplicationEnvironmentID",
        "GLUE2ApplicationEnvironmentState",
    ),
)


def find_subclusters(
    url: str, base: str, subclusters: tuple[Subcluster, ...], timeout_s: float
) -> list[tuple[list[str], list[bytes]]]:
    """Give (subclusters, raw tag values) of the matching entries. Raises: SearchError."""
    kinds = _GLUE2 if is_glue2(base) else _GLUE1
    try:
        with _connect(url, timeout_s) as connection:
            try:
                return [entry for kind in kinds for entry in _search(connection, base, kind, subclusters, timeout_s)]
            except _TooManyError:
                if len(subclusters) == 1:
                    raise
            return [
                entry
                for one in subclusters
                for kind in kinds
                for entry in _search(connection, base, kind, (one,), timeout_s)
            ]
    except LDAPNoSuchObjectResult as exc:
        raise NoBaseError(_first_line(exc)) from exc
    except (LDAPException, OSError, *_UNREAD) as exc:
        raise SearchError(_first_line(exc)) from exc


class _MeteredSocket:
    """A socket that gives no more than ``_MAX_BYTES``: ldap3 itself has no limit."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner, self._left = inner, _MAX_BYTES

    def recv(self, size: int) -> bytes:
        """Receive. Raises: OSError."""
        content = self._inner.recv(size)
        self._left -= len(content)
        if self._left < 0:
            raise OSError(f"more than {_MAX_BYTES} bytes")
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextlib.contextmanager
def _connect(url: str, timeout_s: float) -> Iterator[Any]:
    """Give a bound connection that ends with the context, and in any case after a multiple of ``timeout_s``."""
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
    limit = threading.Timer(_PATIENCE * timeout_s, _hang_up, [connection])
    limit.daemon = True
    limit.start()
    try:
        connection.open(read_server_info=False)
        connection.socket = _MeteredSocket(connection.socket)
        connection.bind()
        yield connection
    finally:
        limit.cancel()
        with contextlib.suppress(LDAPException, OSError):  # what went wrong before is what matters
            connection.unbind()
        if connection.socket is not None:  # ldap3 forgets to close a socket that could not connect
            connection.socket.close()


def _hang_up(connection: Any) -> None:
    with contextlib.suppress(OSError, AttributeError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def _search(
    connection: Any, base: str, kind: _Kind, subclusters: tuple[Subcluster, ...], timeout_s: float
) -> Iterator[tuple[list[str], list[bytes]]]:
    """Give the entries page by page. Raises: as ``find_subclusters``, _TooManyError for the server's size limit."""
    names = "".join(f"({kind.subcluster}={escape_filter_chars(subcluster)})" for subcluster in subclusters)
    cookie = None
    while True:
        connection.search(
            base,
            f"(&(objectClass={kind.object_class})(|{names}))",
            attributes=list(filter(None, kind[1:])),
            time_limit=math.ceil(timeout_s),
            paged_size=_PAGE,
            paged_cookie=cookie,
        )
        # ldap3 raises for most result codes, but not for a limit or a referral.
        result = connection.result
        if result["result"] == RESULT_SIZE_LIMIT_EXCEEDED:
            raise _TooManyError(result["description"])
        if result["result"] != RESULT_SUCCESS:
            raise IncompleteError(result["description"])
        for entry in connection.response or ():
            if entry["type"] == "searchResEntry":
                yield kind.read(_raw_values(entry))
        cookie = _find_cookie(result)
        if not cookie:
            return


def _find_cookie(result: Mapping[str, Any]) -> bytes | None:
    """Give what asks for the next page; nothing where this was the last, or the server knows no pages."""
    control = (result.get("controls") or {}).get(_PAGES)
    return control["value"]["cookie"] if control else None


def _raw_values(entry: Mapping[str, Any]) -> Mapping[str, list[bytes]]:
    # By lower-cased name: without a schema (get_info=NONE) ldap3 guesses types and keeps the server's letter case.
    return {str(name).lower(): list(values) for name, values in entry["raw_attributes"].items()}


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0][:300]
