"""Errors split by who can mend them, and the exit code of each (docs/reference/exit-codes.md).

Every message ends with the next thing to try. A bug is none of these: it keeps its traceback.
"""

from collections.abc import Iterable
from typing import ClassVar


class CollectorError(Exception):
    """Base of everything the collector expects to go wrong; ``exit_code`` is the process's answer."""

    exit_code: ClassVar[int] = 1


class ConfigError(CollectorError):
    """The administrator's file or options are at fault; ``faults`` lists all of them."""

    exit_code = 78

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class TrustError(CollectorError):
    """The collector's own certificate authority cannot be used."""

    exit_code = 4


class SiteError(CollectorError):
    """This machine is at fault: disk, permission, a port in use, a schema that was not migrated."""

    exit_code = 6


class TokenError(CollectorError):
    """An enrolment token that is unknown, used or expired; whoever sent it needs a new one."""

    exit_code = 7


class CsrError(CollectorError):
    """A certificate signing request that cannot be certified; whoever sent it mends it."""

    exit_code = 7


class StoreError(CollectorError):
    """The database does not answer; time mends it, or its operator."""

    exit_code = 75
