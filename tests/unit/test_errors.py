"""Errors: who can mend them, their exit codes, and their way from a child to its parent."""

from itertools import combinations

import pytest

from pps_agent.errors import (
    AgentError,
    BusyError,
    ConfigError,
    FetchError,
    SiteError,
    TrustError,
    exit_code_of,
    worst_exit_code,
)
from pps_agent.fetch import StatusError
from pps_agent.jobs import describe_error, restore_error
from pps_agent.tags.errors import TagFileError
from pps_wire.errors import WireError

ORDER = (78, 4, 6, 7, 69, 75, 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AgentError("x"), 1),
        (ConfigError(["a", "b"]), 78),
        (TrustError("x"), 4),
        (SiteError("x"), 6),
        (WireError("where", "x"), 7),
        (BusyError("x"), 75),
        (FetchError("x"), 75),
        (FetchError("x", permanent=True), 69),
    ],
)
def test_each_class_has_the_exit_code_of_the_design(error: AgentError | WireError, code: int) -> None:
    assert exit_code_of(error) == code


def test_of_several_failures_the_first_in_the_documented_order_counts() -> None:
    for first, second in combinations(ORDER, 2):
        assert worst_exit_code([0, second, first]) == first
    assert (worst_exit_code([]), worst_exit_code([0, 0]), worst_exit_code([0, 3])) == (0, 0, 1)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ConfigError(["a:1: x", "b:2: y"]), ConfigError, 78),
        (TrustError("x"), TrustError, 4),
        (SiteError("x"), SiteError, 6),
        (TagFileError("x"), SiteError, 6),
        (WireError("release", "bad: thing"), WireError, 7),
        (FetchError("x"), FetchError, 75),
        (StatusError("http://x", 404, "gone"), FetchError, 69),
        (StatusError("http://x", 503, "busy"), FetchError, 75),
        (BusyError("x"), BusyError, 75),
        (AgentError("x"), SiteError, 6),
    ],
)
def test_a_childs_error_comes_back_as_what_it_was(error: AgentError | WireError, kind: type, code: int) -> None:
    restored = restore_error(describe_error(error))
    assert (type(restored), exit_code_of(restored), str(restored)) == (kind, code, str(error))
