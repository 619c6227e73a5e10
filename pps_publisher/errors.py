"""Errors split by who can mend them, and the exit code of each (docs/reference/exit-codes.md).

Every message ends with the next thing to try. A bug is none of these: it keeps its traceback.
"""

from collections.abc import Iterable
from typing import ClassVar, Final

from pps_wire.errors import WireError

EXIT_OK: Final = 0
EXIT_PEOPLE: Final = 5
"""The work is done, but people must sign something soon: an alarm for a timer."""
EXIT_WIRE: Final = 7


class PublishError(Exception):
    """Base of everything the publisher expects to go wrong; ``exit_code`` is the process's answer."""

    exit_code: ClassVar[int] = 1


class UsageError(PublishError):
    """The caller asked for something that does not exist or does not fit; nothing was changed."""

    exit_code = 2


class ConfigError(PublishError):
    """A file of the release manager is at fault; ``faults`` lists all of them, ``path: text``."""

    exit_code = 78

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class TrustError(PublishError):
    """A key, passphrase, signature, hash or expiry date is not what the repository demands."""

    exit_code = 4


class SiteError(PublishError):
    """This machine is at fault: disk full, permission, a program that is missing or failed."""

    exit_code = 6


class ArchiveError(PublishError):
    """A foreign archive or package is damaged, or holds what no release may carry; whoever packed it mends it."""

    exit_code = 7


class FetchError(PublishError):
    """The network or a package server failed; trying again later may help."""

    exit_code = 75


def exit_code_of(error: PublishError | WireError) -> int:
    """Give the exit code of one error."""
    return EXIT_WIRE if isinstance(error, WireError) else error.exit_code
