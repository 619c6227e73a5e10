"""ce.arc against a real A-REX, and against interfaces that tell of trouble."""

import os
import select
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_wire.report import Status
from tests.support.arex import ENDPOINT, ComputingElement, run_arex
from tests.support.lab_ca import Credential, LabCa
from tests.support.netns import LoopbackNetwork
from tests.support.origins import Asked, Origin, Reply, start_origin
from tests.support.plugins import SYSTEM_PATH, Said, oldest_python, probe_path, read_plugin, run_plugin


@pytest.fixture(scope="module")
def element() -> Iterator[ComputingElement]:
    with run_arex() as running:
        yield running


def inside(element: ComputingElement) -> LoopbackNetwork:
    return LoopbackNetwork(element.inside.pid)


def credentials(element: ComputingElement) -> dict[str, str]:
    return {"PPS_CE_ARC": ENDPOINT, **{name: element.env[name] for name in ("X509_CERT_DIR", "X509_USER_PROXY")}}


def ask(element: ComputingElement, python: str = "", **env: str) -> Said:
    return run_plugin("ce.arc", inside(element), python=python, **{**credentials(element), **env})


def test_a_real_ce_is_in_production_and_takes_a_job(element: ComputingElement) -> None:
    said = ask(element, PPS_CE_ARC_JOB="1", PPS_CE_ARC_QUEUES="fork")
    # A host certificate of a test is young and short: A-REX warns of its end, and of nothing else.
    assert said.status in (Status.OK, Status.WARNING), said
    assert said.text.endswith(", a job went through")
    assert [label for label in said.perfdata if label not in ("queues", "age", "running", "waiting")] == [
        *("info", "submit", "run", "fetch", "total")
    ]
    assert said.perfdata["queues"] == 1
    assert element.jobs() == []


def test_it_works_under_the_oldest_python(element: ComputingElement) -> None:
    if not oldest_python():
        pytest.skip("no Python 3.9 here")
    assert ask(element, oldest_python()).status in (Status.OK, Status.WARNING)


def test_a_user_whom_the_ce_does_not_know_is_refused(element: ComputingElement, tmp_path: Path) -> None:
    said = ask(element, X509_USER_PROXY="")
    assert (said.status, "client side: no credential" in said.text) == (Status.WARNING, True), said
    stranger = LabCa(tmp_path / "strange", "Strange CA")
    said = ask(element, X509_USER_PROXY=str(stranger.proxy(stranger.user("probe"))))
    assert said.status is Status.WARNING, said


def test_a_queue_that_is_not_there_is_critical(element: ComputingElement) -> None:
    said = ask(element, PPS_CE_ARC_QUEUES="fork other")
    assert (said.status, "queue other is missing" in said.text) == (Status.CRITICAL, True), said


def test_a_path_that_the_ce_does_not_serve_is_critical(element: ComputingElement) -> None:
    said = ask(element, PPS_CE_ARC="https://localhost:21940/nowhere")
    assert (said.status, said.text) == (Status.CRITICAL, "info: the server refused: HTTP 404")


def test_a_stopped_probe_takes_its_job_away(element: ComputingElement) -> None:
    command = inside(element).command([probe_path("ce.arc")])
    env = {"PATH": SYSTEM_PATH, **credentials(element), "PPS_CE_ARC_JOB": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as probe:
        while not element.jobs():
            assert probe.poll() is None, probe.stdout.read() if probe.stdout else ""
            select.select([], [], [], 0.02)
        os.killpg(probe.pid, signal.SIGTERM)  # as the runner does at the time limit
        said = read_plugin(probe.wait(20), probe.stdout.read() if probe.stdout else "")
    # Though it is stopped while it submits, perhaps, it first learns which job is its own.
    assert (said.status, said.text.removeprefix("run: ")) == (Status.UNKNOWN, "stopped by SIGTERM before the end")
    deadline = time.monotonic() + 120  # A-REX does it when it next looks at its jobs
    while element.jobs():
        assert time.monotonic() < deadline, element.logs()


# --- an interface that tells of trouble ---------------------------------------------------------------


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    return LabCa(tmp_path_factory.mktemp("ca") / "lab")


@pytest.fixture(scope="module")
def host(ca: LabCa) -> Credential:
    return ca.host()


def render_info(
    *,
    quality: str = "production",
    health: str = "ok",
    state: str = "production",
    queue: str = "production",
    age_s: int = 5,
) -> bytes:
    """Give what a CE tells of itself, as A-REX 6.17 writes it."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age_s))
    return f"""<InfoRoot><Domains xmlns="http://schemas.ogf.org/glue/2009/03/spec_2.0_r1"><AdminDomain><Services>
<ComputingService BaseType="Service" CreationTime="{created}" Validity="10800"><QualityLevel>{quality}</QualityLevel>
<ComputingEndpoint><InterfaceName>org.ogf.glue.emies.activitycreation</InterfaceName></ComputingEndpoint>
<ComputingEndpoint><InterfaceName>org.nordugrid.arcrest</InterfaceName><HealthState>{health}</HealthState>
<HealthStateInfo>says | why</HealthStateInfo><ServingState>{state}</ServingState></ComputingEndpoint>
<ComputingShare><MappingQueue>long</MappingQueue><ServingState>{queue}</ServingState></ComputingShare>
<ComputingShare><MappingQueue>short</MappingQueue><ServingState>production</ServingState></ComputingShare>
</ComputingService></Services></AdminDomain></Domains></InfoRoot>""".encode()


@pytest.fixture
def origin(host: Credential) -> Iterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.certificate_path, host.key_path)
    with start_origin(lambda _: Reply(content=render_info()), context) as running:
        yield running


def look(origin: Origin, ca: LabCa, **env: str) -> Said:
    return run_plugin("ce.arc", PPS_CE_ARC=f"{origin.address}/arex", X509_CERT_DIR=ca.certificates, **env)


@pytest.mark.parametrize(
    ("change", "env", "status", "words"),
    [
        ({}, {}, Status.OK, "is in production, open queues: 2"),
        ({"quality": "testing"}, {}, Status.WARNING, "the service: QualityLevel is testing"),
        ({"health": "warning"}, {}, Status.WARNING, "HealthState is warning (says / why)"),
        ({"health": "critical"}, {}, Status.CRITICAL, "HealthState is critical (says / why)"),
        ({"health": ""}, {}, Status.WARNING, "HealthState is not told"),
        ({"state": "draining"}, {}, Status.WARNING, "the REST interface: ServingState is draining"),
        ({"state": "closed"}, {}, Status.CRITICAL, "the REST interface: ServingState is closed"),
        ({"queue": "draining"}, {}, Status.WARNING, "queue long is draining"),
        ({"queue": "closed"}, {}, Status.WARNING, "queue long is closed"),
        ({"queue": "closed"}, {"PPS_CE_ARC_QUEUES": "long"}, Status.CRITICAL, "queue long is closed"),
        ({"queue": "closed"}, {"PPS_CE_ARC_QUEUES": "short"}, Status.OK, "open queues: 1"),
        ({"age_s": 1000}, {}, Status.WARNING, "s old (limit 900 s): is A-REX itself running?"),
        ({"age_s": 4000}, {}, Status.CRITICAL, "s old (limit 3600 s): is A-REX itself running?"),
        ({"age_s": 4000}, {"PPS_CE_ARC_CRIT_AGE_S": "9000", "PPS_CE_ARC_WARN_AGE_S": "9000"}, Status.OK, ""),
        ({}, {"PPS_CE_ARC_WARN_S": "0.000001"}, Status.WARNING, "it took "),
    ],
)
def test_what_the_ce_says_of_itself_is_judged(
    origin: Origin, ca: LabCa, change: dict[str, str | int], env: dict[str, str], status: Status, words: str
) -> None:
    content = render_info(**change)  # type: ignore[arg-type]
    origin.answer = lambda _: Reply(content=content)
    said = look(origin, ca, **env)
    assert (said.status, words in said.text) == (status, True), said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the information is no XML"),
        (b"{}", "the information is no XML"),
        (b"<a/>", "the information has no computing service"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "the information has entities of its own"),
        (render_info().replace(b"arcrest", b"arcrust"), "no REST interface is announced"),
        (render_info().replace(b"ComputingShare", b"Other"), "no queue is open"),
        (b" " * 16777216, "more than 16777216 bytes of information"),
    ],
)
def test_information_that_is_none_is_critical(origin: Origin, ca: LabCa, content: bytes, words: str) -> None:
    origin.answer = lambda _: Reply(content=content)
    said = look(origin, ca)
    assert (said.status, words in said.text) == (Status.CRITICAL, True), said


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "submit: the answer names no job"),
        (
            {"new": b'{"job": {"status-code": "500", "reason": "no | way"}}'},
            "submit: the job is not accepted: no / way",
        ),
        ({"new": b'{"job": [{"status-code": "201", "id": "../x"}]}'}, "submit: the job is not accepted"),
        ({"status": b"[]"}, "run: the answer names no job"),
        (
            {"status": b'{"job": {"state": "FAILED"}}', "errors": b"LRMS error"},
            "run: the job ends as FAILED: LRMS error",
        ),
        ({"status": b'{"job": {"state": "KILLED"}}'}, "run: the job ends as KILLED: no reason is told"),
        ({"status": b'{"job": {"state": "FINISHED"}}', "out": b"other"}, "fetch: the job has printed something else"),
    ],
)
def test_a_job_that_does_not_go_through_is_critical_and_cleaned(
    origin: Origin, ca: LabCa, answers: dict[str, bytes], words: str
) -> None:
    known = {"new": b'{"job": {"status-code": "201", "id": "job1"}}'} | answers if answers else {}

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("=" if "=" in asked.path else "/")[2]
        return (
            Reply(content=render_info())
            if name == "info"
            else Reply(200 if name in known else 404, known.get(name, b""))
        )

    def whole(asked: Asked) -> Reply:
        return Reply(201, known.get("new", b"")) if asked.path.endswith("=new") else answer(asked)

    origin.answer = lambda asked: Reply(100) if asked.method == "EXPECT" else whole(asked)
    said = look(origin, ca, PPS_CE_ARC_JOB="1")
    assert (said.status, said.text.startswith(words)) == (Status.CRITICAL, True), said
    actions = [asked.path.rpartition("=")[2] for asked in origin.asked if "action=" in asked.path]
    assert actions[-2:] == ["kill", "clean"] if "status" in answers else actions == ["new"]


def test_a_job_that_never_ends_is_critical_within_the_step_s_limit(origin: Origin, ca: LabCa) -> None:
    replies = {"=new": b'{"job": {"status-code": "201", "id": "j"}}', "=status": b'{"job": {"state": "QUEUING"}}'}

    def answer(asked: Asked) -> Reply:
        found = next((content for end, content in replies.items() if asked.path.endswith(end)), render_info())
        return Reply(100) if asked.method == "EXPECT" else Reply(content=found)

    origin.answer = answer
    said = look(origin, ca, PPS_CE_ARC_JOB="1", PPS_STEP_LIMIT_S="5")
    assert (said.status, said.text) == (Status.CRITICAL, "run: did not end within 5 s")
