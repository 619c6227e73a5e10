"""Production's and a pre-production information system, both real, fed by one daemon, each by another way."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.bdii import BdiiServer, missing_packages, start_bdii
from tests.services.conftest import ROOT
from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository, serve
from tests.support.services import need
from tests.support.site import SUBCLUSTER, Running, SmallSite

PPS, TAG = "pps01.example.org", "VO-dteam-pps-1.0.0"


@dataclass(frozen=True)
class World:
    """One site that announces in two systems: GLUE 2 of production's comes from a file, all else from programs."""

    site: SmallSite
    repository: SmallRepository
    production: BdiiServer
    preproduction: BdiiServer
    ldif: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    packages = missing_packages()
    need(f"the information system needs: apt-get install {' '.join(packages)}" if packages else "")
    base = tmp_path_factory.mktemp("two")
    repository = SmallRepository(base / "publisher")
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serve(repository.served))
        site = SmallSite(base / "site", served.url, repository.root_bytes)
        stack.callback(site.close)
        for name in ("cache", "tags-preproduction"):
            (site.base / name).mkdir()
        ldif = base / "production" / "ldif" / "pps-tags.ldif"
        production, preproduction = (
            stack.enter_context(
                start_bdii(
                    base / name,
                    name.upper(),
                    [subcluster],
                    _program(site, "ldif", *options),
                    provider_argv=_program(site, "render", "--format", "glue2", *options) if options else (),
                    env={"PYTHONPATH": str(ROOT)},
                    breathe_s=0.2,
                )
            )
            for name, subcluster, options in (
                ("production", SUBCLUSTER, []),
                ("preproduction", PPS, ["--preproduction"]),
            )
        )
        site.configure(
            infosys={"url": production.url, "service": "PRODUCTION-compute", "ldif": str(ldif)},
            preproduction={
                "subclusters": [PPS],
                "tags": "tags-preproduction",
                "url": preproduction.url,
                "service": "PREPRODUCTION-compute",
            },
            daemon={"interval_s": 3600, "refresh_interval_s": 5},
        )
        yield World(site, repository, production, preproduction, ldif)


def _program(site: SmallSite, *words: str) -> list[str]:
    return [sys.executable, "-m", "pps_agent", "--config", str(site.config), "tag", *words]


def shown(server: BdiiServer, base: str, text: str) -> bool:
    """Tell whether anything that a server shows holds this text."""
    argv = ["ldapsearch", "-LLL", "-x", "-o", "ldif_wrap=no", "-H", server.url, "-b", base]
    return text in subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def await_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.2)


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    publish_passing(world.repository)
    daemon = world.site.start("run")
    yield daemon
    assert daemon.stop()[0] == 0


def test_what_is_published_in_one_never_appears_in_the_other_and_the_way_there_is_measured(
    world: World, running: Running
) -> None:
    site = world.site
    seen = running.wait_for("tags.shown")
    assert seen["delay_s"] > 0
    for server in (world.production, world.preproduction):
        assert shown(server, "o=grid", f"Environment: {TAG}")
        await_true(lambda server=server: shown(server, "o=glue", f"GLUE2ApplicationEnvironmentID: {TAG}"))
    assert shown(world.production, "o=glue", "GLUE2ApplicationEnvironmentState: installedverified")
    assert not shown(world.production, "o=grid", PPS)
    assert not shown(world.preproduction, "o=grid", SUBCLUSTER)
    site.run("tag", "add", "VO-dteam-ours", "--vo", "dteam")
    site.run("tag", "add", "VO-dteam-theirs", "--vo", "dteam", "--preproduction")
    for base in ("o=grid", "o=glue"):
        await_true(lambda base=base: shown(world.production, base, "VO-dteam-ours"))
        await_true(lambda base=base: shown(world.preproduction, base, "VO-dteam-theirs"))
        assert not shown(world.production, base, "theirs")
        assert not shown(world.preproduction, base, "ours")
    for option in ([], ["--preproduction"]):
        said = site.run("tag", "reconcile", "--output", "json", *option)
        assert said.code == 0, said
        assert {row["finding"] for row in said.json()["tags"]} == {"published"}
    world.repository.withdraw(release_id("1.0.0"))
    running.wait_for("tags.shown")
    assert not shown(world.production, "o=grid", TAG)
    assert not shown(world.preproduction, "o=grid", TAG)
    value = site.run("status", "--output", "json").json()
    assert value["shown_after_s"] > 0
    assert f"tags      shown {value['shown_after_s']:.0f} s after a change" in site.run("status").stdout
    with sqlite3.connect(site.state / "state.db") as database:
        texts = database.execute("SELECT body FROM outbox WHERE kind = 'round' ORDER BY rowid").fetchall()
    assert any(json.loads(text)["shown_after_s"] > 0 for (text,) in texts if "shown_after_s" in json.loads(text))
