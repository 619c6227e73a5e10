"""``pps-agent run``: rounds by the clock, settings anew on SIGHUP, a clean end on SIGTERM."""

import contextlib
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from pps_agent import jobs
from pps_agent.state import Unknown
from tests.support.releases import publish_passing
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.site import SmallSite

TAG_ONE = "VO-dteam-pps-1.0.0"


def test_the_daemon_runs_rounds_takes_good_settings_only_and_ends_cleanly(
    repository: SmallRepository, site: SmallSite
) -> None:
    publish_passing(repository)
    running = site.start("run")
    running.wait_for("daemon.started", site="TEST-SITE", interval_s=900)
    running.wait_for("round.ended", done=5, failed=0)
    assert site.listed() == [TAG_ONE]

    good = site.config.read_text()
    site.config.write_text(good + "\n[daemon]\ninterval_s = 1\nfoo = 2\n")
    running.process.send_signal(signal.SIGHUP)
    refused = running.wait_for("settings.refused")
    assert [next(word for word in ("foo", "1 is less than 5") if word in fault) for fault in refused["faults"]] == [
        "foo",
        "1 is less than 5",
    ]
    assert all(fault.startswith(f"{site.config}:") for fault in refused["faults"])

    site.config.write_text(good.replace("TEST-SITE", "OTHER-SITE") + "\n[daemon]\ninterval_s = 5\n")
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("settings.reloaded")
    publish_passing(repository, "1.1.0")
    running.wait_for("round.ended", done=5)
    assert site.listed() == [TAG_ONE, "VO-dteam-pps-1.1.0"]

    code, rest = running.stop()
    assert code == 0
    assert '"daemon.stopped"' in rest
    assert "Traceback" not in rest
    assert site.processes() == []


def test_a_round_that_crashes_or_fails_does_not_end_the_daemon(
    repository: SmallRepository, site: SmallSite, tmp_path: Path
) -> None:
    publish_passing(repository)
    site.configure(daemon={"interval_s": 5})
    database = site.state / "state.db"
    assert site.run("outbox", "status").code == 0
    change(
        database, "INSERT INTO consent (release, decision, reason, at) VALUES ('x', 'maybe', '', '')"
    )  # a bug's trace: a decision that is none
    running = site.start("run")
    assert "ValueError: 'maybe' is not a valid Decision" in running.wait_for("round.crashed")["exception"]
    change(database, "DELETE FROM consent")
    running.wait_for("round.ended", done=5)
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"rubbish " * 1000)
    rubbish.replace(database)
    assert "state.db: file is not a database" in running.wait_for("site.unfit")["error"]
    assert (running.stop()[0], site.listed()) == (0, [TAG_ONE])


def change(database: Path, statement: str) -> None:
    """Change a database behind the agent's back."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(statement)


def test_sigterm_in_the_middle_of_a_round_lets_it_end_and_leaves_no_child(
    repository: SmallRepository, server: FaultyServer, site: SmallSite
) -> None:
    release = publish_passing(repository)
    arrived, go_on = threading.Event(), threading.Event()
    server.plant(release.artifact.path, wait_for=go_on, arrived=arrived, times=1)
    running = site.start("run")
    assert arrived.wait(60)
    running.process.terminate()
    go_on.set()
    code, rest = running.end()
    assert code == 0
    assert '"round.ended"' in rest
    assert site.processes() == []
    assert site.listed() == [TAG_ONE]


def test_faulty_settings_stop_the_start_with_78(site: SmallSite) -> None:
    site.configure(daemon={"interval_s": "often"})
    running = site.start("run")
    code, rest = running.end()
    assert code == 78
    assert "daemon.interval_s: 'often' must be a whole number" in rest


def test_information_systems_that_drip_hold_a_round_no_longer_than_one_look_may_take(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server may take ten times its time limit: with mirrors and two systems that came to hours."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ldap://127.0.0.1:{silent.getsockname()[1]}"
        site.configure(infosys={"url": url, "mirrors": [url] * 8})
        monkeypatch.setitem(jobs._TIME_LIMITS_S, "published", 2)
        began = time.monotonic()
        found = jobs.Jobs(site.config).published(jobs.Expected())
        assert time.monotonic() - began < 12
    assert isinstance(found.tags, Unknown)
    assert "timed out after 2 seconds" in found.tags.reason
