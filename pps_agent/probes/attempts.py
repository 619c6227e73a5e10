"""Soft and hard: how many results in a row must not be OK before that counts. Pure."""

from typing import Final, Protocol

from pps_wire.report import Cause, Status

UNCOUNTED: Final = frozenset({Cause.DEPENDENCY, Cause.MISSED, Cause.LOST, Cause.STALE})
"""Causes of results that say nothing of what is tested: attempt and hard state stay as they were."""


class Counted(Protocol):
    """What a result that counted left behind; ``ProbeSeen`` is one."""

    @property
    def status(self) -> Status:
        """Its status."""

    @property
    def attempt(self) -> int:
        """How many results were not OK in a row, it among them; 1 for an OK."""

    @property
    def hard(self) -> bool:
        """Whether the state was hard with it."""


def advance(
    previous: Counted | None, max_attempts: int, status: Status, cause: Cause = Cause.VERDICT
) -> tuple[int, bool]:
    """Give the attempt and whether the state is hard, for the result that follows ``previous``.

    ``previous`` is the newest result in the same environment that counted. An OK is hard at once. From OK it
    takes ``max_attempts`` results that are not OK in a row until the state is hard, and hard it stays until
    the next OK, whatever the status. Results that do not count repeat what was.
    """
    if cause in UNCOUNTED:
        return (1, max_attempts <= 1) if previous is None else (previous.attempt, previous.hard)
    if status is Status.OK:
        return 1, True
    if previous is None or previous.status is Status.OK:
        return 1, max_attempts <= 1
    attempt = min(previous.attempt + 1, max(previous.attempt, max_attempts))
    return attempt, previous.hard or attempt >= max_attempts
