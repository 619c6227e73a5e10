"""Requirements that real systems judge: Slurm by features, ARC by runtime environments."""

import select
import subprocess
from collections.abc import Iterator

import pytest

from pps_wire.names import Tag, Vo
from pps_wire.requirement import Form, render_condition, render_requirement, rte_name
from tests.support.arex import ENDPOINT, ComputingElement, run_arex
from tests.support.slurm import SlurmCluster, run_slurm

DTEAM = Vo("dteam")
INTERFACE = "org.nordugrid.arcrest"
TAG = Tag("VO-dteam-pps-6.1.0")
ABSENT = ("VO-dteam-pps-6.1", "VO-dteam-pps-6.1.0.1", "VO-dteam-pps-6.1.0-rc1", "VO-dteam-pps", "VO-dteam-PPS-6.1.0")
"""Prefixes, extensions and a case variant of TAG, which a node with TAG does not carry."""
LONGEST = Tag("VO-dteam-" + "x" * 246)


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with run_slurm() as cluster:
        cluster.command("scontrol", "update", "nodename=n1", f"availablefeatures=avx2,{LONGEST},{TAG}")
        yield cluster


@pytest.fixture(scope="module")
def arex() -> Iterator[ComputingElement]:
    with run_arex() as element:
        yield element


def submit(cluster: SlurmCluster, line: str) -> "subprocess.CompletedProcess[str]":
    """Have Slurm judge a script with this line; nothing is run."""
    script = f"#!/bin/sh\n{line}\ntrue\n"
    return subprocess.run(
        ["sbatch", "--test-only"], input=script, env=cluster.env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("tag", [TAG, LONGEST], ids=["usual", "longest"])
def test_slurm_sends_the_job_to_the_node_with_the_tag(slurm: SlurmCluster, tag: Tag) -> None:
    judged = submit(slurm, render_requirement(tag, Form.SLURM, vo=DTEAM))
    assert judged.returncode == 0, judged.stderr
    assert " n1 " in judged.stderr


def test_slurm_joins_the_condition_to_another(slurm: SlurmCluster) -> None:
    condition = render_condition(TAG, Form.SLURM, vo=DTEAM)
    assert submit(slurm, f"#SBATCH --constraint=avx2&{condition}").returncode == 0
    assert submit(slurm, f"#SBATCH --constraint=avx512&{condition}").returncode == 1


@pytest.mark.parametrize("tag", ABSENT)
def test_slurm_refuses_a_tag_that_no_node_has(slurm: SlurmCluster, tag: str) -> None:
    judged = submit(slurm, render_requirement(tag, Form.SLURM, vo=DTEAM))
    assert judged.returncode == 1
    assert "Invalid feature specification" in judged.stderr


def offer(element: ComputingElement, verb: str, name: str, *, shown: bool) -> None:
    """Have A-REX offer a runtime environment or no longer, and wait until it says so."""
    script = element.runtime / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.touch()
    element.command("/usr/sbin/arcctl", "--config", str(element.base / "arc.conf"), "rte", verb, name)
    for _ in range(60):
        if (name in element.command("arcinfo", "-l", "-c", ENDPOINT, "-I", INTERFACE).split()) == shown:
            return
        select.select([], [], [], 0.5)
    raise AssertionError(element.logs())


def broker(element: ComputingElement, relations: str) -> "subprocess.CompletedProcess[str]":
    """Have arcsub look for a computing element for a job, and print the job it would send; nothing is submitted."""
    job = f'&(executable="/bin/true")(jobname="x"){relations}'
    command = [
        "arcsub",
        "--dumpdescription",
        "-C",
        ENDPOINT,
        "-Q",
        INTERFACE,
        "-T",
        INTERFACE,
        "-d",
        "VERBOSE",
        "-e",
        job,
    ]
    return subprocess.run(command, env=element.env, capture_output=True, text=True, check=False)


def test_arc_takes_the_job_where_the_runtime_environment_is_and_nowhere_else(arex: ComputingElement) -> None:
    offer(arex, "enable", rte_name(TAG), shown=True)
    relation = render_requirement(TAG, Form.XRSL, vo=DTEAM)
    taken = broker(arex, relation)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert rte_name(TAG).rpartition("-")[0] in taken.stdout
    for other in ABSENT:
        refused = broker(arex, render_requirement(other, Form.XRSL, vo=DTEAM))
        assert refused.returncode != 0, other
        assert "NOT satisfied" in refused.stdout + refused.stderr, refused
    both = broker(arex, relation + render_condition(ABSENT[0], Form.XRSL, vo=DTEAM))
    assert both.returncode != 0

    at_least = {"-5.10.0": True, "": True, "-6.1": False, "-6.1.0.1": False, "-6.1.0rc1": False}
    for version, satisfied in at_least.items():
        lowest = render_requirement(f"VO-dteam-pps{version}", Form.XRSL, vo=DTEAM).replace("=", ">=")
        assert (broker(arex, lowest).returncode == 0) == satisfied, version

    offer(arex, "disable", rte_name(TAG), shown=False)
    assert broker(arex, relation).returncode != 0
