"""A repository, its server and a site that uses it, all of them real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import FaultyServer, SmallRepository, serve
from tests.support.site import SmallSite


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "publisher")


@pytest.fixture
def server(repository: SmallRepository) -> Iterator[FaultyServer]:
    with serve(repository.served) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, repository: SmallRepository, server: FaultyServer) -> Iterator[SmallSite]:
    small = SmallSite(tmp_path / "site", server.url, repository.root_bytes)
    yield small
    small.close()
