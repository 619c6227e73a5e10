"""``pps-agent run``: probes by the timetable, and what their verdicts do at once."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.releases import publish_passing
from tests.support.repository import FaultyServer, SmallRepository
from tests.support.site import SmallSite

TAG_ONE = "VO-dteam-pps-1.0.0"
NAME = "org.test.mood"
ONE = "grid-clients-1.0.0-x86_64-glibc2.36"


@pytest.fixture
def mood(site: SmallSite) -> Path:
    """Give a file whose content is how the probe org.test.mood exits; it runs every second."""
    write_probe(site, "mood", 'read -r code text <"$PPS_MOOD"; echo "$text"; exit "$code"', interval_s=1)
    path = site.base / "mood"
    path.write_text("0 fine\n")
    site.configure(
        paths={"probes": [str(site.base / "probes")]},
        probes={"env": {"PPS_MOOD": str(path)}, "publish": str(site.base / "published"), "enabled": ["org.test.*"]},
    )
    return path


def write_probe(site: SmallSite, name: str, body: str, **facts: Any) -> None:
    """Write a probe of the site's own."""
    directory = site.base / "probes" / name
    directory.mkdir(parents=True)
    lines = [f'name = "org.test.{name}"', 'version = "1"', 'summary = "a test"', 'where = "head"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
    (directory / "probe.toml").write_text("[probe]\n" + "\n".join(lines) + "\n")
    (directory / "run").write_text(f"#!/bin/sh\n{body}\n")
    (directory / "run").chmod(0o755)


def published(site: SmallSite) -> dict[tuple[str, str], str]:
    """Give the published status of each metric and release."""
    text = (site.base / "published" / "results.jsonl").read_text()
    lines = map(json.loads, text.splitlines())
    return {(line["metric"], line["release"]): line["status"] for line in lines}


def test_a_critical_of_the_timetable_untags_long_before_the_next_round_and_an_ok_tags_again(
    repository: SmallRepository, site: SmallSite, mood: Path
) -> None:
    publish_passing(repository, probes=(NAME,))
    running = site.start("run")
    running.wait_for("round.ended", failed=0)
    assert site.listed() == [TAG_ONE]
    mood.write_text("2 broken\n")
    running.wait_for("action.done", action="removetags")
    assert site.listed() == []
    running.wait_for("round.ended")
    mood.write_text("0 fine\n")
    running.wait_for("action.done", action="addtags")
    assert site.listed() == [TAG_ONE]
    running.wait_for("round.ended")
    wait_for(lambda: published(site)[NAME, ONE] == "OK")  # before the stop: a run it cuts short is UNKNOWN
    assert running.stop()[0] == 0
    assert site.processes() == []


def test_a_critical_untags_beside_a_round_that_takes_long(
    repository: SmallRepository, server: FaultyServer, site: SmallSite, mood: Path
) -> None:
    publish_passing(repository, probes=(NAME,))
    running = site.start("run")
    running.wait_for("round.ended", failed=0)
    second = publish_passing(repository, "1.1.0", probes=(NAME,))
    arrived, go_on = threading.Event(), threading.Event()
    server.plant(second.artifact.path, wait_for=go_on, arrived=arrived, times=1)
    site.configure(daemon={"interval_s": 5})
    running.process.send_signal(signal.SIGHUP)
    assert arrived.wait(60)
    mood.write_text("2 broken\n")
    running.wait_for("action.done", action="removetags")
    assert site.listed() == []
    go_on.set()
    running.wait_for("round.ended")
    assert running.stop()[0] == 0


def test_a_reload_takes_other_probes_and_loses_none(repository: SmallRepository, site: SmallSite, mood: Path) -> None:
    site.configure(daemon={"interval_s": 3600, "refresh_interval_s": 3600})
    running = site.start("run")
    running.wait_for("round.ended")
    wait_for(lambda: (NAME, "") in published(site))
    write_probe(site, "second", "echo two", interval_s=3600, splay_s=0)
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("settings.reloaded")
    wait_for(lambda: ("org.test.second", "") in published(site))
    assert running.stop()[0] == 0


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # no such file yet
            if holds():
                return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_runs_that_a_kill_cut_short_are_told_after_the_next_start(
    repository: SmallRepository, site: SmallSite, mood: Path
) -> None:
    write_probe(site, "slow", "exec sleep 600", interval_s=3600, splay_s=0, timeout_s=60)
    running = site.start("run")
    wait_for(lambda: "org.test.slow" in (site.state / "running.jsonl").read_text())
    running.kill()
    site.configure(probes={"enabled": ["org.test.mood"]})
    running = site.start("run")
    wait_for(lambda: "org.test.slow" not in (site.state / "running.jsonl").read_text())
    assert running.stop()[0] == 0
    answer = site.run("probe", "show", "org.test.slow", "--output", "json").json()
    assert "lost" in json.dumps(answer)


def test_what_a_preview_does_otherwise_than_production_is_shown(
    repository: SmallRepository, site: SmallSite, mood: Path
) -> None:
    body = '[ -z "$PPS_RELEASE" ] && echo fine && exit; echo "not with $PPS_RELEASE_VERSION"; exit 1'
    write_probe(site, "both", body, interval_s=3600, splay_s=0, matrix="releases")
    publish_passing(repository, probes=(NAME,))
    running = site.start("run")
    wait_for(lambda: {("org.test.both", ""), ("org.test.both", ONE)} <= published(site).keys())
    assert running.stop()[0] == 0
    for words in (("status",), ("probe", "show", "org.test.both")):
        (comparison,) = site.run(*words, "--output", "json").json()["comparisons"]
        assert (comparison["production"], comparison["differing"]) == ("OK", [ONE])
        assert comparison["previews"][ONE] == {"status": "WARNING", "summary": "not with 1.0.0"}
        assert f"org.test.both: production OK; {ONE} WARNING (differs)" in site.run(*words).stdout
