"""What a test needs of this machine: missing is a named skip for a person and a failure where CI=true."""

import os

import pytest


def need(missing: str) -> None:
    """Skip by name, or fail where CI=true, when something is missing; an empty text means nothing is."""
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
