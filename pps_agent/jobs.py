"""Heavy steps as short-lived children: ``pps-agent job NAME``, one JSON document back on stdout.

A child keeps the daemon small (the TUF client, LDAP and the transfer never enter its memory) and a
crash local. The child's side is ``cli/job.py``; both sides share the replies declared here. A
child's failure comes back as the same error class it was raised as.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

import pps_agent
from pps_agent.errors import AgentError, BusyError, ConfigError, FetchError, SiteError, TrustError, exit_code_of
from pps_agent.state import Offer, ReleaseSet, Unknown
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag
from pps_wire.report import RequestState

_ENTRY: Final = Path(pps_agent.__file__).parent / "__main__.py"
_TIME_LIMITS_S: Final = {"refresh": 600, "published": 90, "install": 6 * 3600, "report": 3600, "ldif": 120}
"""A server that drips single bytes must not hold a round for ever; rounds come one after the other.

A look at all information systems counts without what it is to wait for. A round has two of them, and systemd gives a
daemon that is told to stop 300 s.
"""


class JobFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An expected error on its way from child to parent."""

    kind: str
    message: str
    permanent: bool = False


class RefreshReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``job refresh`` knows: the offers, or why there are none; and what went wrong, if anything did."""

    offered: ReleaseSet | None = None
    unknown: str = ""
    failure: JobFailure | None = None


class InstallReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``job install`` did: figures for people, or why it failed."""

    facts: dict[str, float | str] = {}
    failure: JobFailure | None = None


class PublishedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``job published`` saw in the information systems.

    ``delay_s``: after how many seconds all that was waited for was shown; None when it was not, or nothing was.
    """

    tags: dict[str, list[str]] | None = None
    unknown: str = ""
    delay_s: float | None = None


class ReportReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``job report`` sent before it came to an end, or failed."""

    acknowledged: int = 0
    batches: int = 0
    wire_bytes: int = 0
    failure: JobFailure | None = None


class LdifReply(msgspec.Struct, frozen=True, kw_only=True):
    """What kept ``job ldif`` from writing newer tags; empty: they are written."""

    problems: list[str] = []


class RequestReply(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``job requests``: what became of a request, or (no ``request``) why none could be had."""

    request: str
    state: RequestState
    reason: str


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Input of ``job published``: tags to wait for, present or gone, per subcluster; since when, in s since 1970."""

    present: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    wait_s: int = 0
    changed_at: float = 0.0


_Reply = TypeVar("_Reply", RefreshReply, InstallReply, PublishedReply, ReportReply, LdifReply)


@dataclass(frozen=True, slots=True)
class Published:
    """What the information systems show, and after how many seconds it was what was waited for; None: it was not.

    ``tags`` None: the settings name no server.
    """

    tags: Mapping[Subcluster, frozenset[Tag]] | Unknown | None
    delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What one emptying did: records acknowledged, batches sent, bytes on the wire."""

    acknowledged: int = 0
    batches: int = 0
    wire_bytes: int = 0


class Jobs:
    """Starts the children of one settings file and reads their replies."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def refresh(self, *, offline: bool = False) -> tuple[ReleaseSet | Unknown, AgentError | WireError | None]:
        """Give the offers of the newest metadata that verifies, and the error that kept newer away."""
        try:
            reply = self._run(["refresh", *(["--offline"] if offline else [])], RefreshReply)
        except SiteError as exc:
            return (Unknown(str(exc)) if offline else self.refresh(offline=True)[0]), exc
        offered = reply.offered if reply.offered is not None else Unknown(reply.unknown)
        return offered, restore_error(reply.failure) if reply.failure else None

    def install(self, offer: Offer) -> Mapping[str, float | str]:
        """Install one release; the child takes the store's lock. Raises: what the child raised."""
        reply = self._run(["install"], InstallReply, msgspec.json.encode(offer))
        if reply.failure is not None:
            raise restore_error(reply.failure)
        return reply.facts

    def published(self, expected: Expected) -> Published:
        """Give what the information systems show, once they show what is expected or the wait is over."""
        try:
            reply = self._run(["published"], PublishedReply, msgspec.json.encode(expected), expected.wait_s)
        except SiteError as exc:
            return Published(Unknown(str(exc)))
        if reply.tags is None:
            return Published(Unknown(reply.unknown))
        tags = {Subcluster(name): frozenset(Tag(tag) for tag in there) for name, there in reply.tags.items()}
        return Published(tags, reply.delay_s)

    def start_published(self, expected: Expected) -> "subprocess.Popen[bytes]":
        """Start the child that waits until the information systems show what is expected; a PublishedReply comes back.

        Raises: SiteError.
        """
        try:
            with os.fdopen(os.memfd_create("expected"), "w+b") as said:
                said.write(msgspec.json.encode(expected))
                said.seek(0)
                return subprocess.Popen(self._command("published"), stdin=said, stdout=subprocess.PIPE)
        except OSError as exc:
            raise SiteError(f"pps-agent job published: {exc}; the next change of tags is followed again") from exc

    def keep_ldif(self) -> tuple[str, ...]:
        """Bring the files of tags in GLUE 2 up to date; give what kept newer tags away. Raises: SiteError."""
        return tuple(self._run(["ldif"], LdifReply).problems)

    def report(self) -> Sent:
        """Empty the outbox; the TLS client never enters our memory. Raises: what the child raised."""
        reply = self._run(["report"], ReportReply)
        if reply.failure is not None:
            raise restore_error(reply.failure)
        return Sent(reply.acknowledged, reply.batches, reply.wire_bytes)

    def start_requests(self) -> "subprocess.Popen[bytes]":
        """Start the child that carries out the collector's requests, a RequestReply a line on its stdout.

        Raises: SiteError.
        """
        try:
            return subprocess.Popen(self._command("requests"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        except OSError as exc:
            raise SiteError(f"pps-agent job requests: {exc}; the daemon tries again") from exc

    def _command(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-I", str(_ENTRY), "--config", str(self._config), "job"]
        return [*command, "--parent", str(os.getpid()), *arguments]

    def _run(self, arguments: list[str], kind: type[_Reply], stdin: bytes = b"", wait_s: int = 0) -> _Reply:
        command = self._command(*arguments)
        limit_s = _TIME_LIMITS_S[arguments[0]] + wait_s
        try:
            # stderr is shared: a progress bar belongs to the person at the terminal.
            child = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=False, timeout=limit_s)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise SiteError(f"pps-agent job {arguments[0]}: {exc}; the next round tries again") from exc
        try:
            return msgspec.json.decode(child.stdout, type=kind)
        except msgspec.MsgspecError as exc:
            raise SiteError(
                f"pps-agent job {arguments[0]} ended with exit code {child.returncode} and no reply;"
                " its own words are above; the next round tries again"
            ) from exc


def describe_error(error: AgentError | WireError) -> JobFailure:
    """Give an error in the form that travels."""
    kinds = (ConfigError, TrustError, FetchError, WireError, BusyError, SiteError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), SiteError)  # subclasses travel as their base
    permanent = isinstance(error, FetchError) and error.permanent
    return JobFailure(kind=kind.__name__, message=str(error), permanent=permanent)


def restore_error(failure: JobFailure) -> AgentError | WireError:
    """Give back the error that was described; an unknown kind becomes a SiteError."""
    match failure.kind:
        case "ConfigError":
            return ConfigError(failure.message.splitlines())
        case "TrustError":
            return TrustError(failure.message)
        case "BusyError":
            return BusyError(failure.message)
        case "FetchError":
            return FetchError(failure.message, permanent=failure.permanent)
        case "WireError":
            where, _, problem = failure.message.partition(": ")
            return WireError(where, problem)
        case _:
            return SiteError(failure.message)


def code_of(error: AgentError | WireError | None) -> int:
    """Give the exit code of an error, 0 for none."""
    return 0 if error is None else exit_code_of(error)
