"""The point of it all: a user's job that asks for a preview gets it, one that does not gets production's."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.arex import ENDPOINT, ComputingElement, run_arex
from tests.support.condor import CondorPool, run_condor
from tests.support.howto import load_block
from tests.support.preview import SAYS, TAG, Preview, await_true, install_preview, version_twice
from tests.support.slurm import SlurmCluster, run_slurm
from tests.support.trixie import write_program

RTE = f"APPS/PPS/{TAG}"
INTERFACE = "org.nordugrid.arcrest"
ROOT = Path(__file__).parents[2]
PAGE = "publish-tags.md"
Publish = Callable[[Any, Preview], None]


@pytest.fixture
def jobs(public_directory: Path) -> Path:
    """Give a directory in which every user's job may write."""
    path = public_directory / "jobs"
    path.mkdir()
    path.chmod(0o777)
    return path


# --- ARC


@pytest.fixture(scope="module")
def arex() -> Iterator[ComputingElement]:
    with run_arex() as element:
        yield element


def offered(element: ComputingElement) -> bool:
    return RTE in element.command("arcinfo", "-l", "-c", ENDPOINT, "-I", INTERFACE).split()


def arcsub(element: ComputingElement, work: Path, name: str, script: str, relations: str = "") -> Path:
    """Send a job as a user does; give its list."""
    listing = work / f"{name}.db"
    quoted = script.replace('"', '""')
    job = f'&(executable="/bin/sh")(arguments="-c" "{quoted}")(stdout="out")(stderr="err")(jobname="{name}"){relations}'
    element.command("arcsub", "-C", ENDPOINT, "-Q", INTERFACE, "-T", INTERFACE, "-j", str(listing), "-e", job)
    return listing


def arcget(element: ComputingElement, listing: Path) -> str:
    """Wait for the end of a job and give what it printed."""

    def is_over() -> bool:
        said = element.command("arcstat", "-j", str(listing), "-a")
        assert "Failed" not in said, said + element.logs()
        return "Finished" in said

    await_true(is_over, element.logs)
    got = listing.with_suffix(".got")
    element.command("arcget", "-j", str(listing), "-a", "-D", str(got))
    return "".join(path.read_text() for path in sorted(got.rglob("*")) if path.name in ("out", "err"))


def test_on_arc_the_tag_sends_a_job_to_the_preview_until_it_is_withdrawn(
    arex: ComputingElement, public_directory: Path, jobs: Path
) -> None:
    with install_preview(public_directory / "publisher", public_directory / "site") as preview:
        arc = ["tag", "arc", "--runtime-dir", str(arex.runtime), "--arcctl", "/usr/sbin/arcctl"]
        arc += ["--arc-config", str(arex.base / "arc.conf"), "--output", "json"]
        assert json.loads(preview.site.run(*arc).stdout)["written"] == [RTE]
        await_true(lambda: offered(arex), arex.logs)
        asked = preview.requirement("xrsl")
        with_tag = arcsub(arex, jobs, "asks", "xrdcp --version", asked)
        without = arcsub(arex, jobs, "asks-nothing", "xrdcp --version")
        begun, gate = jobs / "begun", jobs / "gate"
        running = arcsub(arex, jobs, "runs-on", version_twice(begun, gate), asked)
        assert arcget(arex, with_tag) == SAYS
        assert re.fullmatch(r"v5\.\S+\n", arcget(arex, without))
        await_true(begun.exists, arex.logs)
        preview.withdraw()
        assert json.loads(preview.site.run(*arc).stdout)["removed"] == [RTE]
        await_true(lambda: not offered(arex), arex.logs)
        with pytest.raises(AssertionError, match="arcsub"):  # no computing element fits
            arcsub(arex, jobs, "too-late", "xrdcp --version", asked)
        gate.touch()
        assert arcget(arex, running) == SAYS * 2


# --- HTCondor: it sees what lies in the pool's own directory


@pytest.fixture(scope="module")
def condor() -> Iterator[CondorPool]:
    """A pool whose nodes have production's client on their PATH."""
    with run_condor() as pool:
        production = pool.work / "production"
        production.mkdir()
        (production / "xrdcp").write_text("#!/bin/sh\necho v5.0.0 of production\n")
        (production / "xrdcp").chmod(0o755)
        pool.configure("10-production", f'STARTER_JOB_ENVIRONMENT = "PATH={production}:/usr/bin:/bin"\n')
        pool.configure("60-start", load_block(PAGE, "HTCondor after a withdrawal"))
        yield pool


def condor_submit(pool: CondorPool, work: Path, name: str, script: str, requirements: str = "") -> str:
    """Send a job as a user does; give its id."""
    job = work / f"{name}.sh"
    job.write_text(f"#!/bin/sh\n{script}\n")
    job.chmod(0o755)
    submit = f"executable = {job}\noutput = {work}/{name}.out\nerror = {work}/{name}.err\nlog = {work}/{name}.log\n"
    submit += "should_transfer_files = NO\nrequest_cpus = 1\nrequest_memory = 64\nrequest_disk = 1M\n"
    job.with_suffix(".sub").write_text(f"{submit}{requirements}\nqueue\n")
    return pool.command("condor_submit", "-terse", str(job.with_suffix(".sub"))).split()[0]


def condor_output(pool: CondorPool, work: Path, name: str, job: str) -> str:
    """Wait for the end of a job and give what it printed."""
    await_true(lambda: job not in pool.queue(), pool.logs)
    return "".join((work / f"{name}.{end}").read_text() for end in ("out", "err"))


def matching(pool: CondorPool) -> bool:
    return pool.command("condor_status", "-constraint", f'stringListIMember("{TAG}", PPS_TAGS)', "-af", "Name") != ""


def write_condor_file(pool: CondorPool, preview: Preview) -> None:
    """Run the script of the how-to, in the pool's directory for configuration, which the pool then reads."""
    script = load_block(PAGE, "HTCondor by a file").replace("/etc/condor/config.d", str(pool.base / "config.d"))
    pool.command("/bin/sh", "-c", preview.as_agent(script))


def let_condor_call(pool: CondorPool, preview: Preview) -> None:
    """Write the lines of the how-to; the agent and the Python of the pool's own root are what the startd starts."""
    agent = preview.site.base / "agent"
    if agent.exists():
        return  # the startd calls it every two seconds
    program = write_program(agent, preview.site.config)
    lines = load_block(PAGE, "HTCondor by the startd").replace("/usr/bin/pps-agent", str(program))
    pool.configure("50-pps-tags", lines.replace("PERIOD = 5m", "PERIOD = 2s"))


@pytest.mark.parametrize("publish", [write_condor_file, let_condor_call])
def test_on_htcondor_the_tag_sends_a_job_to_the_preview_until_it_is_withdrawn(
    condor: CondorPool, public_directory: Path, publish: Publish
) -> None:
    work = condor.work / publish.__name__
    work.mkdir()
    with install_preview(public_directory / "publisher", work / "site") as preview:
        asked = preview.requirement("classad")
        chosen = f"{preview.environment}\n"
        early = condor_submit(condor, work, "early", f"{chosen}xrdcp --version", asked)
        assert not matching(condor)
        publish(condor, preview)
        assert condor_output(condor, work, "early", early) == SAYS  # it waited for the tag
        begun, gate = work / "begun", work / "gate"
        running = condor_submit(condor, work, "runs-on", chosen + version_twice(begun, gate), asked)
        without = condor_submit(condor, work, "asks-nothing", "xrdcp --version")
        assert condor_output(condor, work, "asks-nothing", without) == "v5.0.0 of production\n"
        await_true(begun.exists, condor.logs)
        preview.withdraw()
        publish(condor, preview)
        await_true(lambda: not matching(condor), condor.logs)
        late = condor_submit(condor, work, "late", f"{chosen}xrdcp --version", asked)
        why = condor.command("condor_q", "-better-analyze", late)
        assert re.search(rf'^\[\d+\] +0 +stringListIMember\("{TAG}",TARGET\.PPS_TAGS\)$', why, re.MULTILINE), why
        gate.touch()
        assert condor_output(condor, work, "runs-on", running) == SAYS * 2
        overtaking = condor_submit(condor, work, "overtaking", "xrdcp --version")
        assert condor_output(condor, work, "overtaking", overtaking) == "v5.0.0 of production\n"
        assert condor.command("condor_q", late, "-af", "NumJobStarts") == "0\n"  # though the claim of runs-on was free
        condor.command("condor_rm", late)


# --- Slurm


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with run_slurm() as cluster:
        yield cluster


def sbatch(cluster: SlurmCluster, work: Path, name: str, script: str, *lines: str) -> str:
    """Send a job as a user does; give its id."""
    done = subprocess.run(
        ["sbatch", "--parsable", "--chdir", work, "--output", work / f"{name}.out"],
        input="\n".join(["#!/bin/sh", *lines, script, ""]),
        env=cluster.env,
        user="nobody",
        group="nogroup",
        extra_groups=(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sbatch_output(cluster: SlurmCluster, work: Path, name: str, job: str) -> str:
    """Wait for the end of a job and give what it printed."""
    await_true(lambda: job not in cluster.queue(), cluster.logs)
    return (work / f"{name}.out").read_text()


def features(cluster: SlurmCluster, node: str) -> list[str]:
    """Give the features that a node has now."""
    shown = cluster.command("scontrol", "-o", "show", "node", node)
    (active,) = re.findall(r" ActiveFeatures=(\S*)", shown)
    return [feature for feature in active.split(",") if feature not in ("", "(null)")]


def update_nodes(cluster: SlurmCluster, preview: Preview) -> None:
    """Run the script of the how-to, for one of the two nodes."""
    script = load_block(PAGE, "Slurm").replace("n[1-40]", "n2")
    cluster.command("/bin/sh", "-c", preview.as_agent(script))


def write_slurm_conf(cluster: SlurmCluster, preview: Preview) -> None:
    """Write the lines of the how-to before one of the two nodes, and let Slurm read them."""
    conf = cluster.base / "slurm.conf"
    include = load_block(PAGE, "Slurm after a reconfiguration").splitlines()[0]
    if include not in conf.read_text():
        conf.write_text(conf.read_text().replace("NodeName=n2", f"{include}\nNodeName=n2"))
    script = load_block(PAGE, "Slurm after a reconfiguration", 1).replace("/etc/slurm", str(cluster.base))
    cluster.command("/bin/sh", "-c", preview.as_agent(script))
    cluster.command("scontrol", "reconfigure")


@pytest.mark.parametrize("publish", [update_nodes, write_slurm_conf])
def test_on_slurm_the_tag_sends_a_job_to_the_preview_until_it_is_withdrawn(
    slurm: SlurmCluster, public_directory: Path, jobs: Path, publish: Publish
) -> None:
    with install_preview(public_directory / "publisher", public_directory / "site") as preview:
        asked, where = preview.requirement("slurm"), "echo $SLURMD_NODENAME; "
        chosen = f"{preview.environment}\n"
        with pytest.raises(AssertionError, match="Batch job submission failed"):
            sbatch(slurm, jobs, "early", "true", asked)
        publish(slurm, preview)
        await_true(lambda: features(slurm, "n2") == ["avx2", "infiniband", TAG], slurm.logs)
        with_tag = sbatch(slurm, jobs, "asks", f"{chosen}{where}xrdcp --version", asked)
        without = sbatch(slurm, jobs, "asks-nothing", "xrdcp --version 2>&1")
        assert sbatch_output(slurm, jobs, "asks", with_tag) == f"n2\n{SAYS}"
        assert re.fullmatch(r"v5\.\S+\n", sbatch_output(slurm, jobs, "asks-nothing", without))
        begun, gate = jobs / "begun", jobs / "gate"
        running = sbatch(slurm, jobs, "runs-on", chosen + version_twice(begun, gate), asked)
        await_true(begun.exists, slurm.logs)
        preview.withdraw()
        publish(slurm, preview)
        await_true(lambda: features(slurm, "n2") == ["avx2", "infiniband"], slurm.logs)
        with pytest.raises(AssertionError, match="Batch job submission failed"):
            sbatch(slurm, jobs, "late", "true", asked)
        gate.touch()
        assert sbatch_output(slurm, jobs, "runs-on", running) == SAYS * 2
