"""Results on their way to a real collector: acknowledged, kept while it is down, told anew from a restored copy."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.collector.running import RunningCollector
from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository
from tests.support.site import SmallSite

ONE = release_id("1.0.0")


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    """One real collector for all tests, each with a site of its own."""
    running = RunningCollector(tmp_path_factory.mktemp("collector"))
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def enrolled(collector: RunningCollector, site: SmallSite) -> SmallSite:
    """A site enrolled with a token made by the collector's own command."""
    name = f"SITE-{uuid4().hex[:8]}"
    places = ["--config", str(collector.state / "collector.toml"), "--state", str(collector.state)]
    command = [sys.executable, "-m", "pps_collector", "enrol-token", *places, "--database", collector.database]
    made = subprocess.run([*command, "--site", name], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (site.base / "token").write_text(made.stdout)
    site.configure(site={"name": name}, collector={"url": collector.agents, "ca": str(collector.ca)})
    answer = site.run("enrol", "--token-file", str(site.base / "token"), "--output", "json")
    assert (answer.code, answer.json()["site"]) == (0, name), answer.stderr
    return site


def stored(collector: RunningCollector, site: SmallSite) -> list[tuple[Any, ...]]:
    """Give what the collector holds of this site: epoch, lane, number, kind."""
    name = site.sections["site"]["name"]
    return collector.rows(f"SELECT epoch, lane, seq, kind FROM record WHERE site = '{name}' ORDER BY epoch, lane, seq")


def test_a_rounds_results_are_acknowledged_and_stored_once(
    repository: SmallRepository, collector: RunningCollector, enrolled: SmallSite
) -> None:
    publish_passing(repository)
    reported = enrolled.once().value["reported"]
    assert reported == {"acknowledged": 5, "waiting": 0}
    enrolled.once()
    rows = stored(collector, enrolled)
    assert [row[3] for row in rows] == ["probe", "probe", "release", "tag", "round", "release", "tag", "round"]
    assert [row[2] for row in rows] == list(range(1, 9))
    key = enrolled.state / "identity" / "key.pem"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_while_the_collector_is_down_the_round_ends_with_75_and_the_next_one_sends_everything(
    repository: SmallRepository, collector: RunningCollector, enrolled: SmallSite
) -> None:
    publish_passing(repository)
    up = dict(enrolled.sections["collector"])
    enrolled.configure(collector={"url": "https://127.0.0.1:9"})
    seen = enrolled.once(75)
    assert seen.release(ONE)["state"] == "tagged"
    assert seen.value["reported"] == {"acknowledged": 0, "waiting": 5}
    flushed = enrolled.run("outbox", "flush")
    assert (flushed.code, flushed.stdout) == (75, "")
    assert "results wait in the outbox and go with the next try" in flushed.stderr
    assert stored(collector, enrolled) == []
    enrolled.configure(collector=up)
    planned = enrolled.run("outbox", "flush", "--dry-run")
    assert planned.stdout == f"dry run: would send 5 results to {up['url']}\n"
    assert stored(collector, enrolled) == []
    assert enrolled.once().value["reported"] == {"acknowledged": 8, "waiting": 0}
    assert [row[2] for row in stored(collector, enrolled)] == list(range(1, 9))


def test_a_restored_state_begins_a_new_epoch_and_everything_since_is_stored(
    repository: SmallRepository, collector: RunningCollector, enrolled: SmallSite
) -> None:
    publish_passing(repository)
    enrolled.once()
    copy = enrolled.base / "copy.db"
    shutil.copyfile(enrolled.state / "state.db", copy)
    enrolled.once()
    before = stored(collector, enrolled)
    assert len({row[0] for row in before}) == 1
    for path in enrolled.state.glob("state.db*"):
        path.unlink()
    shutil.copyfile(copy, enrolled.state / "state.db")
    assert enrolled.run("release", "decline", ONE, "other").code == 0
    reported = enrolled.once().value["reported"]
    assert reported["waiting"] == 0
    rows = stored(collector, enrolled)
    assert len({row[0] for row in rows}) == 2
    assert len(rows) - len(before) == reported["acknowledged"]


def test_enrolling_twice_or_with_a_used_token_is_refused_and_the_identity_stays(enrolled: SmallSite) -> None:
    identity = {path.name: path.read_bytes() for path in (enrolled.state / "identity").iterdir()}
    token = str(enrolled.base / "token")
    again = enrolled.run("enrol", "--token-file", token)
    assert (again.code, again.stdout) == (2, "")
    assert "--again replaces its identity" in again.stderr
    used = enrolled.run("enrol", "--again", "--token-file", token)
    assert used.code == 69
    assert "ask the coordinator for a new one" in used.stderr
    assert identity == {path.name: path.read_bytes() for path in (enrolled.state / "identity").iterdir()}


@pytest.mark.parametrize("spoil", ["certificate.pem", "agent.json"])
def test_a_damaged_identity_costs_no_result(enrolled: SmallSite, spoil: str) -> None:
    path = enrolled.state / "identity" / spoil
    path.unlink() if spoil == "certificate.pem" else path.write_text("{")
    seen = enrolled.once(6)
    assert seen.value["reported"] == {"acknowledged": 0, "waiting": 1}
    assert "enrol" in seen.errors
    assert "Traceback" not in seen.stderr
