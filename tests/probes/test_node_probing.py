"""What is sent to nodes and what never is."""

import threading
from pathlib import Path

import pytest

from pps_agent.node_probing import NodeProbing
from pps_agent.probes.definition import ProbeDefinition, SecretForm
from pps_agent.settings import NodesSettings, ProbeSettings, RepositorySettings, Settings, SiteSettings
from pps_wire.names import ProbeName, Site, Vo
from pps_wire.report import Cause, Status
from tests.support.nodes import ENV, RELEASE

SETTINGS = Settings(
    site=SiteSettings(name=Site("TEST-SITE"), vos=(Vo("dteam"), Vo("ops"))),
    repository=RepositorySettings(url="https://previews.example.org"),
    nodes=NodesSettings(executor="slurm", work=Path("/nowhere")),
    probes=ProbeSettings(timeout_s=30, secrets={"PPS_TOKEN": "/etc/pps-agent/token"}),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.write_text("#!/bin/sh\n")
    return path


def probe(run: Path, **fields: object) -> ProbeDefinition:
    return ProbeDefinition(name=ProbeName("org.test.it"), run=run, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"secrets": {"PPS_TOKEN": SecretForm.FILE}}, "its secrets never leave the head"),
        ({"vos": (Vo("cms"),)}, "it is for cms, and site.vos lists none of these"),
        ({"run": Path("/no/such/run")}, "/no/such/run: No such file or directory"),
    ],
)
def test_a_probe_that_cannot_be_sent_is_unknown_and_no_job_is_submitted(
    run: Path, fields: dict[str, object], reason: str
) -> None:
    probing = NodeProbing(SETTINGS, threading.Event())
    definition = probe(**({"run": run} | fields))  # type: ignore[arg-type]
    (result,) = probing.run([definition], RELEASE, ENV).own
    assert (result.status, result.cause) == (Status.UNKNOWN, Cause.REQUIREMENT)
    assert reason in result.summary
    probing.close()


def test_what_is_sent_is_the_program_its_environment_and_the_fitting_vo(run: Path) -> None:
    prepared = NodeProbing(SETTINGS, threading.Event()).prepare(
        [probe(run, vos=(Vo("ops"),), timeout_s=90)], RELEASE, ENV
    )
    task = prepared.task
    assert prepared.refused == ()
    assert task.files == {"org.test.it": b"#!/bin/sh\n"}
    assert (task.env, task.more, task.max_timeout_s) == (ENV, {"org.test.it": {"PPS_VO": "ops"}}, 30)
    assert task.time_limit_s == 50
