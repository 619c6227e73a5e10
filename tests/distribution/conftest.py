"""A small signed repository behind a web server that can misbehave, and a site that uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distribution.site import Site
from tests.support.repository import FaultyServer, SmallRepository, serve


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return SmallRepository(tmp_path / "publisher")


@pytest.fixture
def server(repository: SmallRepository) -> Iterator[FaultyServer]:
    with serve(repository.served) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, repository: SmallRepository, server: FaultyServer) -> Iterator[Site]:
    opened = Site(tmp_path / "site", repository.root_bytes, server.url)
    yield opened
    opened.close()
