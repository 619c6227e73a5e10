"""What holds for every test: a property that is slow on a busy machine has not failed; a place others can enter."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("pps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pps")


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Give a directory that other users can enter, which tmp_path is not."""
    path = Path(tempfile.mkdtemp(prefix="pps-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
