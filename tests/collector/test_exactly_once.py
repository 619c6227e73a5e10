"""Every record arrives once: lost acknowledgements, kill -9 in the middle, resends of the same and of more."""

import gc
import os
import random
import socket
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import requests

from pps_wire.report import Ack, Status
from tests.collector.running import Reporter, RunningCollector, probe

AGENTS, RECORDS, KILLS = 4, 60, 2


class Storm:
    """Agents that empty their outboxes while acknowledgements get lost and the collector is killed."""

    def __init__(self, collector: RunningCollector, seed: int) -> None:
        self.collector = collector
        self.random = random.Random(seed)
        self.reporters = [collector.enrol() for _ in range(AGENTS)]
        self.up = threading.Event()
        self.up.set()
        self.progress = threading.Condition()
        self.answers = self.lost = self.failed = 0
        self.errors: list[str] = []

    def drain(self, reporter: Reporter, seed: int) -> None:
        """Send one agent's outbox until it is empty."""
        dice = random.Random(seed)
        queue = reporter.live
        queue.add(probe(Status(number % 4), f"record {number}") for number in range(RECORDS))
        size = 0
        while queue.records:
            size = max(size, dice.randint(1, 12))  # a resend carries at least what was sent before
            try:
                answer = reporter.post(queue.batch(reporter.site, size))
            except requests.RequestException:
                self.note(failed=1)
                assert self.up.wait(timeout=60)
                continue
            self.note(answers=1)
            if answer.status_code != 200:
                self.errors.append(answer.text)
                return
            if dice.random() < 0.25:
                self.note(lost=1)
                continue
            queue.acknowledge(msgspec.json.decode(answer.content, type=Ack).ack)
            size = 0

    def note(self, answers: int = 0, lost: int = 0, failed: int = 0) -> None:
        """Count, and wake who waits for progress."""
        with self.progress:
            self.answers += answers
            self.lost += lost
            self.failed += failed
            self.progress.notify_all()

    def rage(self) -> None:
        """Run it all, killing the collector after every so many answers."""
        threads = [threading.Thread(target=self.drain, args=(one, self.random.random())) for one in self.reporters]
        for thread in threads:
            thread.start()
        for number in range(1, KILLS + 1):
            with self.progress:
                assert self.progress.wait_for(lambda number=number: self.answers >= number * 12, timeout=60)
            self.up.clear()
            self.collector.kill()
            self.collector.start()
            self.up.set()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        gc.collect()


# A client that is connecting while the collector is killed leaves its half-made TLS socket to the
# garbage collector (which must come within this test); that is Python's ssl module, not ours.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_record_is_stored_once_through_lost_answers_and_kills(database: str, tmp_path: Path):
    seed = int.from_bytes(os.urandom(4), "big")
    collector = RunningCollector(tmp_path / "collector", database)
    storm = Storm(collector, seed)
    try:
        storm.rage()
        assert storm.errors == [], f"seed {seed}"
        assert storm.lost > 0, f"seed {seed}"
        for reporter in storm.reporters:
            rows = collector.rows(f"SELECT seq FROM record WHERE agent = '{reporter.agent}' ORDER BY seq")
            assert [(seq,) for seq in range(1, RECORDS + 1)] == rows, f"seed {seed}"
        marks = dict(collector.rows("SELECT agent, digest FROM watermark"))
        assert {one.agent: one.live.digest for one in storm.reporters} == marks, f"seed {seed}"
    finally:
        assert collector.stop() == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sigterm_ends_cleanly_with_all_that_was_acknowledged(database: str, tmp_path: Path):
    collector = RunningCollector(tmp_path / "collector", database)
    reporter = collector.enrol()
    assert reporter.report(*[probe()] * 50).ack == 50
    context = ssl.create_default_context(cafile=collector.ca)
    address = urlsplit(collector.agents)
    with socket.create_connection((address.hostname, address.port), timeout=30) as plain:
        # Idle, and never says goodbye: it must not hold up the end.
        idle = context.wrap_socket(plain, server_hostname=address.hostname)
        assert collector.stop() == 0
        idle.close()
    assert "graceful" not in collector.log.read_text()
    assert collector.rows("SELECT count(*) FROM record") == [(50,)]
    assert '"collector.stopped"' in collector.log.read_text()
