"""Errors split by who can mend them, and the exit code of each (docs/reference/exit-codes.md).

Every message ends with the next thing to try. A bug is none of these: it keeps its traceback.
"""

from collections.abc import Iterable
from typing import ClassVar, Final

from pps_wire.errors import WireError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_WIRE: Final = 7


class AgentError(Exception):
    """Base of everything the agent expects to go wrong; ``exit_code`` is the process's answer."""

    exit_code: ClassVar[int] = EXIT_FAILED


class ConfigError(AgentError):
    """The administrator's files are at fault; ``faults`` lists all of them, ``path:line: text``."""

    exit_code = 78

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class TrustError(AgentError):
    """Signature, rollback or expiry: nobody on site can mend it; the last good state stays."""

    exit_code = 4


class SiteError(AgentError):
    """This machine is at fault: disk full, permission, quota, a local service."""

    exit_code = 6


class BusyError(SiteError):
    """Another process of this or another host holds what is needed; time mends it, nothing was changed."""

    exit_code = 75


class FetchError(AgentError):
    """The network or a server; ``permanent`` ones do not go away by trying again."""

    exit_code = 75

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        if permanent:
            self.exit_code = 69  # type: ignore[misc]  # the one class whose code depends on the case


_ORDER: Final = (78, 4, 6, 7, 69, 75, 1)


def exit_code_of(error: AgentError | WireError) -> int:
    """Give the exit code of one error."""
    return EXIT_WIRE if isinstance(error, WireError) else error.exit_code


def worst_exit_code(codes: Iterable[int]) -> int:
    """Give the one exit code of a round in which several steps failed; 0 when none did."""
    failed = set(codes) - {EXIT_OK}
    return next((code for code in _ORDER if code in failed), EXIT_FAILED if failed else EXIT_OK)
