"""Real servers, one of each per test process. A missing one is a failure when CI=true, else a named skip."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import bdii as demo_bdii
from demo.xrootd import XrootdServer, missing_reason, start_xrootd
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster
from tests.support.services import need

ROOT = Path(__file__).parents[2]
SITE = "PPS-SITE"
SUBCLUSTERS = (Subcluster("ce01.example.org"), Subcluster("ce02.example.org"))

PLUGIN = """
import sys
from pathlib import Path
from pps_agent.tags.glue1 import render_subcluster
from pps_agent.tags.store import TagStore
store = TagStore(Path(sys.argv[1]), tuple(sys.argv[2:]))
print("".join(render_subcluster(store, subcluster) for subcluster in store.subclusters))
"""


@dataclass(frozen=True, slots=True)
class Bdii:
    """A running information system that publishes the tags below ``tag_base``."""

    url: str
    base: str
    tag_base: Path

    @property
    def store(self) -> TagStore:
        """The tag files its plugin reads, for the two subclusters of its static LDIF."""
        return TagStore(self.tag_base, SUBCLUSTERS)


@pytest.fixture(scope="session")
def bdii(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bdii]:
    """A slapd with GLUE schema and bdii-update over it, whose plugin prints the tags of ``tag_base``."""
    packages = demo_bdii.missing_packages()
    need(f"the information system needs: apt-get install {' '.join(packages)}" if packages else "")
    directory = tmp_path_factory.mktemp("bdii")
    tag_base = tmp_path_factory.mktemp("info")
    argv = [sys.executable, "-c", PLUGIN, str(tag_base), *SUBCLUSTERS]
    env = {"PYTHONPATH": str(ROOT)}
    with demo_bdii.start_bdii(directory, SITE, SUBCLUSTERS, argv, env=env, breathe_s=0.2) as server:
        yield Bdii(server.url, server.base, tag_base)


@pytest.fixture(scope="session")
def xrootd() -> Iterator[XrootdServer]:
    """An xrootd server with a writable directory and adler32 checksums."""
    need(missing_reason())
    with start_xrootd() as server:
        yield server
