"""The whole loop with probes on worker nodes: a real agent, a real Slurm of two nodes, one of which may be ill."""

import os
import re
import select
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pps_agent.probes.executors.payload import parse_document
from pps_wire.names import ProbeName
from tests.loop.test_rounds import FIRST, ONE, TAG_ONE, TAG_TWO, TWO, write_probe
from tests.support.releases import publish_passing
from tests.support.repository import SmallRepository
from tests.support.site import SmallSite
from tests.support.slurm import SlurmCluster, run_slurm

PROBE, HERE = ProbeName("org.test.node"), ProbeName("org.test.here")


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with run_slurm() as cluster:
        yield cluster


@pytest.fixture
def farm(site: SmallSite, slurm: SlurmCluster) -> SmallSite:
    """A site whose nodes are Slurm's; its probe asks a file named after the node it is on what to say."""
    nodes: dict[str, Any] = {"executor": "slurm", "count": 2, "quorum": 2, "poll_s": 1, "timeout_s": 120}
    nodes |= {"env": slurm.env, "work": str(slurm.shared / site.base.parent.name), "python": "/usr/bin/python3"}
    site.configure(nodes=nodes, store={"kind": "shared"}, group={"name": "farm"}, probes={"retry_s": 1})
    words = site.base / "words"
    words.mkdir()
    say(site, n1="echo fine", n2="echo fine")
    node = "$(tr '\\0' '\\n' < /proc/$PPID/environ | sed -n s/^SLURMD_NODENAME=//p)"
    write_probe(site, PROBE, f'[ -x "$PPS_RELEASE_ROOT/bin/hello" ] || exit 3; . {words}/{node}')
    return site


def say(site: SmallSite, **words: str) -> None:
    """Have the probe do this on these nodes."""
    for node, body in words.items():
        (site.base / "words" / node).write_text(f"{body}\n")


def remembered(site: SmallSite) -> list[tuple[str, str, int]]:
    """Give what state.db holds of the probe: release, node, status."""
    with closing(sqlite3.connect(site.state / "state.db")) as database:
        query = "SELECT release, host, status FROM probe_result WHERE probe = ? ORDER BY id"
        return list(database.execute(query, (PROBE,)))


def nonce_of(answer: Path) -> str:
    """Give the nonce that the answer to a payload made by hand bears."""
    found = re.search(r"BEGIN PPS NODE DOCUMENT (\w+)-", answer.read_text())
    assert found is not None, answer.read_text()
    return found[1]


def test_a_release_is_announced_when_every_node_that_answers_passes(
    repository: SmallRepository, farm: SmallSite, slurm: SlurmCluster
) -> None:
    publish_passing(repository, probes=(PROBE,))
    seen = farm.once()
    assert (seen.actions, farm.listed()) == (FIRST, [TAG_ONE]), seen.errors
    assert sorted(remembered(farm)[:2]) == [(ONE, "n1", 0), (ONE, "n2", 0)]
    assert remembered(farm)[2:] == [(ONE, "", 0)]
    say(farm, n2="echo 'libxml2.so.2: cannot open shared object file'; exit 2")
    publish_passing(repository, "1.1.0", probes=(PROBE,))
    seen = farm.once()
    assert farm.listed() == [TAG_ONE]
    assert seen.release(TWO)["state"] == "broken"
    by_hand = farm.run("node-run", "--payload", ONE).stdout
    (slurm.shared / "payload.py").write_text(by_hand)
    answer = slurm.shared / "answer"
    command = ["sbatch", "--wait", "--time=2", "--nodelist=n1", f"--output={answer}", f"--chdir={slurm.shared}"]
    slurm.command(*command, str(slurm.shared / "payload.py"))
    assert [run.stdout for run in parse_document(answer.read_bytes(), nonce_of(answer)).runs] == [b"fine\n"]
    result = seen.outcome("probe")["results"][0]
    assert (result["status"], result["probe"]) == ("CRITICAL", PROBE)
    assert result["summary"] == "libxml2.so.2: cannot open shared object file (worst of 2 nodes, on n2)"
    assert (slurm.queue(), list((slurm.shared / farm.base.parent.name).iterdir())) == ([], [])


def test_a_node_that_does_not_answer_keeps_the_tag_as_it_is(repository: SmallRepository, farm: SmallSite) -> None:
    publish_passing(repository, probes=(PROBE,))
    farm.configure(nodes={"timeout_s": 8})
    say(farm, n2="exec sleep 100")
    seen = farm.once()
    assert (seen.actions, farm.listed()) == (["install", "compose", "probe"], [])
    result = seen.outcome("probe")["results"][0]
    assert result["status"] == "UNKNOWN"
    assert "1 of the 2 node(s) wanted answered: n2: still running after 8 s" in result["summary"]


def test_probes_of_the_head_run_there_and_several_releases_go_to_the_nodes_together(
    repository: SmallRepository, farm: SmallSite, slurm: SlurmCluster
) -> None:
    write_probe(farm, HERE, "tr '\\0' '\\n' < /proc/$PPID/environ | grep -q SLURM_JOB_ID && exit 2; echo here")
    metadata = farm.base / "probes" / HERE / "probe.toml"
    metadata.write_text(metadata.read_text() + 'where = "head"\n')
    # Each waits until the other one runs too: one after the other would wait for ever.
    meeting = farm.base / "meeting"
    meeting.mkdir()
    meeting.chmod(0o777)
    body = (
        f"touch {meeting}/$PPS_RELEASE_VERSION; until [ -e {meeting}/1.0.0 -a -e {meeting}/1.1.0 ]; do sleep 0.1; done"
    )
    say(farm, n1=f"{body}; echo met", n2=f"{body}; echo met")
    publish_passing(repository, probes=(PROBE, HERE))
    publish_passing(repository, "1.1.0", probes=(PROBE, HERE))
    seen = farm.once()
    assert farm.listed() == [TAG_ONE, TAG_TWO], seen.errors
    results = [result for outcome in seen.value["outcomes"] for result in outcome.get("results", ())]
    assert {(r["probe"], r["status"], r["summary"]) for r in results if r["probe"] == HERE} == {(HERE, "OK", "here")}


def test_a_withdrawn_release_is_untagged_while_a_round_waits_for_the_nodes(
    repository: SmallRepository, farm: SmallSite
) -> None:
    publish_passing(repository, probes=(PROBE,))
    assert farm.once().release(ONE)["state"] == "tagged"
    begun = farm.base / "begun"
    os.mkfifo(begun)
    say(farm, n1=f"echo > {begun}; exec sleep 100", n2="exec sleep 100")
    publish_passing(repository, "1.1.0", probes=(PROBE,))
    farm.configure(daemon={"interval_s": 3600, "refresh_interval_s": 5})
    daemon = farm.start("run")
    begun.read_bytes()
    repository.withdraw(ONE)
    daemon.wait_for("action.done", action="removetags")
    assert farm.listed() == []
    daemon.stop(signal.SIGTERM)
    assert "round.ended" not in [event["event"] for event in daemon.events]


def test_a_daemon_told_to_stop_cancels_its_jobs_and_the_next_start_those_of_one_that_was_killed(
    repository: SmallRepository, farm: SmallSite, slurm: SlurmCluster
) -> None:
    publish_passing(repository, probes=(PROBE,))
    begun = farm.base / "begun"
    os.mkfifo(begun)
    say(farm, n1=f"echo > {begun}; exec sleep 100", n2="exec sleep 100")
    daemon = farm.start("run")
    begun.read_bytes()
    daemon.stop(signal.SIGTERM)
    wait_for_no_jobs(slurm)
    assert list((slurm.shared / farm.base.parent.name).iterdir()) == []
    daemon = farm.start("run")
    begun.read_bytes()
    daemon.kill()
    assert slurm.queue() != []
    say(farm, n1="echo fine", n2="echo fine")
    farm.once()
    wait_for_no_jobs(slurm)
    assert (farm.listed(), list((slurm.shared / farm.base.parent.name).iterdir())) == ([TAG_ONE], [])


def wait_for_no_jobs(slurm: SlurmCluster) -> None:
    """Wait until Slurm has no job any more: cancelled ones take a moment."""
    for _ in range(300):
        if not slurm.queue():
            return
        select.select([], [], [], 0.1)
    raise AssertionError(slurm.command("squeue"))
