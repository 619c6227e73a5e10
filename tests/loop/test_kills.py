"""Two rounds at once, and rounds that are killed: the next one ends where the killed one would have."""

import os
import select
import socket
import threading
from pathlib import Path

import pytest

from tests.support.processes import find_process
from tests.support.releases import publish_passing, release_id
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.site import SmallSite

ONE = release_id("1.0.0")
TAG_ONE = "VO-dteam-pps-1.0.0"


def assert_converged(site: SmallSite) -> None:
    """The next round ends with the release tagged and current, and nothing else left anywhere."""
    site.once()
    assert site.listed() == [TAG_ONE]
    assert site.current() == {"grid-clients": ONE}
    assert site.installed() == [ONE]
    assert list((site.store / "staging").iterdir()) == []
    assert list(site.base.rglob("*.tmp")) == []
    assert not list((site.state / "tuf").glob("work.*"))
    assert site.run("plan", "--offline").stdout == "nothing to do\n"


def test_of_two_rounds_at_once_the_second_ends_with_75_and_names_the_first(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    publish_passing(repository)
    arrived, go_on = threading.Event(), threading.Event()
    server.plant("metadata/timestamp.json", wait_for=go_on, arrived=arrived, times=1)
    first = site.start("once")
    assert arrived.wait(60)
    answer = site.run("once")
    assert (answer.code, answer.stdout) == (75, "")
    assert (
        f"process {first.process.pid} on {socket.gethostname()} is running a round; wait for it to end" in answer.stderr
    )
    go_on.set()
    assert first.end()[0] == 0
    assert site.listed() == [TAG_ONE]


@pytest.mark.parametrize("where", ["metadata/timestamp.json", "artifact"])
def test_a_round_killed_while_it_fetches_leaves_no_child_and_the_next_one_converges(
    repository: SmallRepository, server: FaultyServer, site: SmallSite, where: str
) -> None:
    release = publish_passing(repository)
    path = release.artifact.path if where == "artifact" else where
    arrived, go_on = threading.Event(), threading.Event()
    server.plant(path, wait_for=go_on, arrived=arrived, times=1)
    running = site.start("once")
    assert arrived.wait(60)
    pinned = [os.pidfd_open(pid) for pid in site.processes() if pid != running.process.pid]
    assert pinned
    running.kill()
    for descriptor in pinned:  # the child fetching has ended, or ends now
        wait_end(descriptor)
    go_on.set()
    assert_converged(site)


def wait_end(descriptor: int) -> None:
    """Wait until the pinned process has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(30_000)
    os.close(descriptor)


@pytest.mark.parametrize("action", ["probe", "switch"])
def test_a_round_killed_after_an_action_is_taken_up_by_the_next_one(
    repository: SmallRepository, site: SmallSite, action: str
) -> None:
    publish_passing(repository)
    running = site.start("once")
    running.wait_for("action.done", action=action)
    running.kill()
    assert_converged(site)


def test_a_round_killed_while_a_probe_runs_leaves_no_probe_behind(
    repository: SmallRepository, site: SmallSite, tmp_path: Path
) -> None:
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    once = tmp_path / "once"
    directory = site.base / "probes" / "x"
    directory.mkdir(parents=True)
    (directory / "probe.toml").write_text('[probe]\nname = "org.test.slow"\n')
    body = f"#!/bin/sh\n[ -e {once} ] && echo ok && exit\nexec cat {fifo}\n"
    (directory / "run").write_text(body)
    (directory / "run").chmod(0o755)
    site.configure(paths={"probes": ["probes"]})
    publish_passing(repository, probes=("org.test.slow",))
    running = site.start("once")
    with fifo.open("w"):  # which waits for the probe to read
        probe = os.pidfd_open(find_process("cat", str(fifo)))
        running.kill()
        wait_end(probe)
    once.touch()
    assert_converged(site)
