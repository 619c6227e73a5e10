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
from tests.support.trixie import run_bdii

ROOT = Path(__file__).parents[2]
SITE = "PPS-SITE"
SUBCLUSTERS = (Subcluster("ce01.example.org"), Subcluster("ce02.example.org"))

SERVICE = f"{SITE}-compute"
SETTINGS = f"""
[site]
name = "{SITE}"
vos = ["dteam", "ops"]
subclusters = {list(SUBCLUSTERS)}
[repository]
url = "http://127.0.0.1:9/"
[paths]
tags = "tags"
cache = "cache"
global_tags = "global"
[infosys]
service = "{SERVICE}"
"""


@dataclass(frozen=True, slots=True)
class Bdii:
    """A running information system that publishes the tags below ``tag_base``."""

    url: str
    base: str
    tag_base: Path
    config: Path
    plugins: Path

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
    site = tmp_path_factory.mktemp("info")
    for name in ("tags", "cache"):
        (site / name).mkdir()
    (site / "agent.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "pps_agent", "--config", str(site / "agent.toml"), "tag"]
    with demo_bdii.start_bdii(
        directory,
        SITE,
        SUBCLUSTERS,
        [*command, "ldif"],
        provider_argv=[*command, "render", "--format", "glue2"],
        env={"PYTHONPATH": str(ROOT)},
        breathe_s=0.2,
    ) as server:
        yield Bdii(server.url, server.base, site / "tags", site / "agent.toml", directory / "plugin")


@pytest.fixture
def newer_bdii(public_directory: Path) -> Iterator[Bdii]:
    """The same information system as the next release of Debian has it: bdii, slapd, schema and Python."""
    for name in ("tags", "cache"):
        (public_directory / name).mkdir()
    config = public_directory / "agent.toml"
    config.write_text(SETTINGS)
    with run_bdii(public_directory, SITE, config, SUBCLUSTERS) as url:
        yield Bdii(url, demo_bdii.BASE, public_directory / "tags", config, public_directory / "bdii" / "plugin")


@pytest.fixture(scope="session")
def xrootd() -> Iterator[XrootdServer]:
    """An xrootd server with a writable directory and adler32 checksums."""
    need(missing_reason())
    with start_xrootd() as server:
        yield server
