"""Signed requests of the central scheduler: the contract between agent and collector, carried out at most once.

The suite runs against what ``central`` gives: today a double that signs real envelopes.
"""

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pps_wire.names import ProbeName, Site
from pps_wire.report import RequestState
from pps_wire.request import Request, RequestKind
from tests.contract.samples import sign
from tests.support.central import DoubleCentral, open_double
from tests.support.releases import publish_passing, release_id
from tests.support.repository import SmallRepository
from tests.support.site import SmallSite

SAY = """\
[probe]
name = "org.test.say"
[arguments]
word = { variable = "SAY_WORD", form = "word" }
"""
ONE = release_id("1.0.0")


@pytest.fixture
def central(tmp_path: Path, repository: SmallRepository) -> Iterator[DoubleCentral]:
    with open_double(tmp_path / "central", repository.fleet_key) as running:
        yield running


@pytest.fixture
def asked(site: SmallSite, central: DoubleCentral) -> SmallSite:
    """A site that knows the repository's keys, is enrolled, and has a probe that notes each of its runs."""
    probe = site.base / "probes" / "say"
    probe.mkdir(parents=True)
    (probe / "probe.toml").write_text(SAY)
    (probe / "run").write_text(
        f'#!/bin/sh\necho run >> {site.base}/ran 2>/dev/null\necho "said ${{SAY_WORD:-nothing}}"\n'
    )
    (probe / "run").chmod(0o755)
    (site.base / "ran").touch()
    site.configure(paths={"probes": [str(probe.parent)]})
    central.admit(site)
    site.once()
    return site


def request(**fields: Any) -> Request:
    now = datetime.now(UTC)
    defaults: dict[str, Any] = {
        "id": uuid4().hex,
        "kind": RequestKind.RUN_PROBE,
        "site": Site("TEST-SITE"),
        "not_before": now - timedelta(minutes=1),
        "deadline": now + timedelta(minutes=10),
        "probe": ProbeName("org.test.say"),
    }
    return Request(**(defaults | fields))


def look(site: SmallSite) -> list[dict[str, str]]:
    """Let the agent look once; give what it says of each envelope."""
    answer = site.run("job", "requests", "--once")
    assert answer.code == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def outcomes(site: SmallSite, central: DoubleCentral) -> list[tuple[str, RequestState]]:
    """Give what the collector was told."""
    assert site.run("outbox", "flush").code == 0
    return [(answer.request, answer.state) for answer in central.answers()]


def results(site: SmallSite) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        rows = database.execute("SELECT probe, summary FROM probe_result WHERE probe = 'org.test.say' ORDER BY id")
        return list(rows)


def test_a_probe_that_was_asked_for_runs_and_its_result_and_the_outcome_are_told(
    asked: SmallSite, central: DoubleCentral
) -> None:
    one = request(arguments={"word": "hello"})
    central.ask(one)
    (handled,) = look(asked)
    assert (one.id, "done", "OK: said hello") == (handled["request"], handled["state"], handled["reason"])
    assert results(asked) == [], "a run with arguments tests what the caller chose: it is told, not remembered"
    assert [(one.id, RequestState.DONE)] == outcomes(asked, central)


def test_a_request_is_carried_out_once_however_often_it_is_offered(asked: SmallSite, central: DoubleCentral) -> None:
    one = request()
    central.ask(one)
    central.ask(one)
    assert [handled["state"] for handled in look(asked)] == ["done", "refused"]
    assert [handled["state"] for handled in look(asked)] == ["refused", "refused"]
    assert len(results(asked)) == 1
    assert [(one.id, RequestState.DONE)] == outcomes(asked, central)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"site": Site("OTHER")}, "it is for site OTHER"),
        ({"deadline": timedelta(seconds=-1)}, "has passed"),
        ({"not_before": timedelta(minutes=9)}, "check the clocks"),
        ({"deadline": timedelta(days=3)}, "at most 1 day"),
        ({"kind": RequestKind.INSTALL, "release": ONE}, "does not carry out install requests"),
        ({"probe": None}, "it names no probe"),
    ],
)
def test_what_the_site_need_not_obey_is_refused_with_the_reason(
    asked: SmallSite, central: DoubleCentral, fields: dict[str, Any], reason: str
) -> None:
    now = datetime.now(UTC)
    one = request(**{name: now + value if isinstance(value, timedelta) else value for name, value in fields.items()})
    central.ask(one)
    (handled,) = look(asked)
    assert handled["state"] == "refused"
    assert reason in handled["reason"]
    assert results(asked) == []
    assert [(one.id, RequestState.REFUSED)] == outcomes(asked, central)


def test_a_site_that_allows_nothing_refuses_and_says_who_may_allow_it(asked: SmallSite, central: DoubleCentral) -> None:
    asked.configure(probes={"requests": []})
    central.ask(request())
    (handled,) = look(asked)
    assert (handled["state"], "probes.requests" in handled["reason"]) == ("refused", True)
    assert results(asked) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"probe": ProbeName("org.test.sya")}, "did you mean org.test.say?"),
        ({"arguments": {"wrod": "x"}}, "wrod"),
        ({"arguments": {"word": "two words; rm -rf /"}}, "word"),
        ({"release": release_id("9.9.9")}, "is not installed"),
    ],
)
def test_what_cannot_be_done_as_asked_fails_and_runs_nothing(
    asked: SmallSite, central: DoubleCentral, fields: dict[str, Any], reason: str
) -> None:
    one = request(**fields)
    central.ask(one)
    (handled,) = look(asked)
    assert (handled["state"], reason in handled["reason"]) == ("failed", True), handled
    assert results(asked) == []
    assert [(one.id, RequestState.FAILED)] == outcomes(asked, central)


def test_an_envelope_that_no_listed_key_signed_is_neither_obeyed_nor_answered(
    asked: SmallSite, central: DoubleCentral
) -> None:
    payload = msgspec.json.encode(request())
    stranger = Ed25519PrivateKey.generate()
    central.put(msgspec.json.encode(sign(payload, stranger, "0" * 64)))
    central.put(b'{"any": ["thing", 1]}')
    one = request()
    central.ask(one)
    assert [handled["state"] for handled in look(asked)] == ["refused", "refused", "done"]
    assert [(one.id, RequestState.DONE)] == outcomes(asked, central)


def test_a_release_is_probed_in_its_own_environment(
    repository: SmallRepository, asked: SmallSite, central: DoubleCentral
) -> None:
    publish_passing(repository)
    asked.once()
    central.ask(request(probe=ProbeName("org.test.say"), release=ONE))
    (handled,) = look(asked)
    assert (handled["state"], handled["reason"]) == ("done", "OK: said nothing")
    with closing(sqlite3.connect(asked.state / "state.db")) as database:
        rows = database.execute("SELECT release, profile <> '' FROM probe_result WHERE probe = 'org.test.say'")
        assert list(rows) == [(ONE, 1)]


def test_what_was_begun_and_never_ended_is_told_as_lost_and_not_done_again(
    asked: SmallSite, central: DoubleCentral
) -> None:
    one = request()
    with closing(sqlite3.connect(asked.state / "state.db")) as database, database:
        row = (one.id, "run-probe", one.not_before.isoformat(), one.deadline.isoformat(), "begun")
        database.execute("INSERT INTO request VALUES (?, ?, ?, ?, ?)", row)
    central.ask(one)
    running = asked.start("job", "requests", stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    assert json.loads(running.process.stdout.readline())["state"] == "refused"
    running.kill()
    assert results(asked) == []
    assert [(one.id, RequestState.LOST)] == outcomes(asked, central)


def test_only_what_is_new_is_asked_for_on_one_connection_after_the_other(
    asked: SmallSite, central: DoubleCentral
) -> None:
    running = asked.start("job", "requests", stdout=subprocess.PIPE)
    for _ in range(2):
        central.ask(request())
        assert running.process.stdout is not None
        assert json.loads(running.process.stdout.readline())["state"] == "done"
    running.kill()
    assert len(results(asked)) == 2


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [(200, b"[]", 75), (200, b"x" * 5_000_000, 75), (503, b"", 75), (403, b"", 69), (302, b"", 75)],
)
def test_an_answer_that_is_none_is_told_and_nothing_is_done(
    asked: SmallSite, central: DoubleCentral, status: int, body: bytes, code: int
) -> None:
    central.ask(request())
    central.raw = (status, body)
    answer = asked.run("job", "requests", "--once")
    assert (code, "") == (answer.code, answer.stdout), answer.stderr
    assert results(asked) == []


def test_a_daemon_listens_while_its_settings_allow_it(asked: SmallSite, central: DoubleCentral) -> None:
    one, two = request(), request()
    running = asked.start("run")
    central.ask(one)
    assert running.wait_for("request.handled", request=one.id)["state"] == "done"
    asked.configure(probes={"requests": []})
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("settings.reloaded")
    looks = len(central.asked)
    central.ask(two)
    code, rest = running.stop()
    assert (code, two.id in rest, len(central.asked)) == (0, False, looks)
    assert len(results(asked)) == 1
    assert asked.processes() == []
