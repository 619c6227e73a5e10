"""``false-announce``: 200 faults of releases and nodes; how many broken previews get a tag.

Of releases: really published, installed, probed by the shipped probes and planned by real rounds. Of nodes: the real
payload, its answers spoiled on the way or its probes failing on single nodes, the real quorum and the real plan.
A healthy release and a healthy answer stand among them: they must be announced, or nothing was tested.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.measure import Claim
from pps_agent.plan import plan
from pps_agent.probes.executors.batch import BatchExecutor, BatchPlan
from pps_agent.probes.executors.work import Work
from pps_agent.probes.quorum import combine
from pps_agent.state import AddTags, Installed, ProbeSeen
from pps_wire.report import Status
from tests.support.fake_batch import FakeBatch
from tests.support.nodes import make_task
from tests.support.releases import OVERLAY, passing_files
from tests.support.repository import Content, Program, SmallRepository, serve
from tests.support.site import SmallSite
from tests.support.worlds import NOW, PROFILE, RELEASES, make_desired, make_observed, make_wish

CLIENTS: Final = ("xrdcp", "arcinfo", "gfal-ls", "davix-get", "voms-proxy-info", "arcsub")
ROUNDS: Final = 2
_HEALTHY: Final = "healthy"
_ANSWERS: Final = (
    *("refuse", "hold", "fail", "silent", "gone-silent", "twice", "forged", "other-file", "doubled-run", "cut"),
)
_FAILING: Final = {
    "critical": "echo CRITICAL; exit 2",
    "unknown": "echo cannot tell; exit 3",
    "crash": "kill -SEGV $$",
    "silent": "exit 0",
    "no-such-command": "exec no-such-client",
    "full": "echo x > /dev/full || { echo CRITICAL - no space; exit 2; }",
    "hang": "sleep 300",
}


def measure() -> Iterator[Claim]:
    """Measure how many broken previews are announced, beside how many healthy ones are."""
    with tempfile.TemporaryDirectory(prefix="pps-false-announce-") as base:
        trees, healthy = _try_trees(Path(base))
        nodes, answered = _try_nodes(Path(base))
    faults = trees | nodes
    announced = sum(faults.values())
    if not healthy or not answered:
        raise AssertionError("the healthy release was not announced: nothing was tested")
    culprits = ", ".join(name for name, wrong in faults.items() if wrong)
    yield Claim(
        "false-announce",
        announced,
        "tags",
        f"{len(faults)} faults",
        len(faults),
        announced / len(faults),
        "0 of 200",
        announced == 0 and len(faults) >= 200,
        note=culprits or f"{len(trees)} broken trees, {len(nodes)} faults of nodes; the healthy ones were announced",
    )


def _broken_trees() -> Iterator[tuple[str, dict[str, Content], dict[str, object]]]:
    """Give faults of a release's tree: name, files over the healthy ones, fields of its description."""
    for client in CLIENTS:
        path = f"bin/{client}"
        yield from ((f"{client}-{name}", {path: content}, {}) for name, content in _broken_clients())
    for name, version in _wrong_versions().items():
        yield f"version-{name}", {"VERSION": version}, {}


def _broken_clients() -> Iterator[tuple[str, Content]]:
    for code in (1, 2, 126, 127, 255):
        yield f"exit-{code}", Program(f"#!/bin/sh\necho fails >&2\nexit {code}\n".encode())
    for number in ("SEGV", "ABRT", "KILL", "ILL"):
        yield f"signal-{number.lower()}", Program(f"#!/bin/sh\nkill -{number} $$\n".encode())
    elf = Path("/bin/true").read_bytes()
    yield "cut-elf", Program(elf[: len(elf) // 3])
    yield "other-machine", Program(elf[:18] + b"\xb7\x00" + elf[20:])
    yield "no-interpreter", Program(b"#!/no/such/interpreter\n")
    yield "not-a-program", Program(b"\x00\x01\x02 no program\n")
    yield "missing-command", Program(b"#!/bin/sh\nexec no-such-command-at-all\n")
    yield "missing-module", Program(b"#!/usr/bin/python3\nimport no_such_module_at_all\n")
    yield "missing-library", Program(b"#!/bin/sh\nLD_PRELOAD= exec /lib64/ld-linux-x86-64.so.2 /no/such/client\n")
    yield "not-executable", b"#!/bin/sh\necho fine\n"
    yield "gone-behind-its-wrapper", Program(b'#!/bin/sh\nexec "$0.real" "$@"\n')
    yield "elsewhere", Program(b'#!/bin/sh\nexec "$(dirname "$0")/../libexec/gone" "$@"\n')


def _wrong_versions() -> dict[str, bytes]:
    return {
        "other": b"0.9.9\n",
        "newer": b"99.0\n",
        "empty": b"",
        "words": b"unknown\n",
        "binary": b"\xff\xfe\x00\x01\n",
        "prefix": b"1.0\n",
        "shouted": b"V1.0.0-BROKEN\n",
        "html": b"<html>404 Not Found</html>\n",
    }


def _try_trees(base: Path) -> tuple[dict[str, int], bool]:
    """Publish every broken tree as a component of its own, run rounds, and see which got a tag."""
    repository = SmallRepository(base / "publisher")
    names = {}
    for number, (name, files, fields) in enumerate([(_HEALTHY, {}, {}), *_broken_trees()]):
        suffix = f"pps-{number}"
        content = {**passing_files("1.0.0"), **files}
        repository.publish(
            content, component=f"c{number}", tag_suffix=suffix, refresh=False, **{"environment": OVERLAY, **fields}
        )
        names[f"VO-dteam-{suffix}"] = name
    repository.refresh()
    with serve(repository.served) as server:
        site = SmallSite(base / "site", server.url, repository.root_bytes)
        for _ in range(ROUNDS):
            site.run("once")
        listed = {names[tag] for tag in site.listed()}
    shutil.rmtree(base / "site")
    return {name: int(name in listed) for name in names.values() if name != _HEALTHY}, _HEALTHY in listed


def _node_faults() -> Iterator[tuple[str, tuple[str, ...], str, int]]:
    """Give faults on the way to three nodes: name, what goes wrong with each job, the probe, how many must answer."""
    for kind in _ANSWERS:
        for spoiled in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)):
            faults = tuple(kind if number in spoiled else "" for number in range(3))
            yield f"answer-{kind}-{spoiled}", faults, "echo fine", 4 - len(spoiled)
    for (name, body), nodes in itertools.product(_FAILING.items(), (1, 2, 3)):
        # The first ones to make these directories fail, wherever they run.
        marks = " || ".join(f'mkdir "$MARKS/{number}" 2>/dev/null' for number in range(nodes))
        yield f"probe-{name}-on-{nodes}", (), f"if {marks}; then {body}; fi; echo fine", 1
    for asked in (1, 2):
        yield f"partial-{asked}", ("partial",) * 3, "echo fine", asked


def _try_nodes(base: Path) -> tuple[dict[str, int], bool]:
    """Send the payload to three nodes with each fault, and see whether the plan would add a tag."""
    announced = {}
    healthy = False
    for number, fault in enumerate([(_HEALTHY, (), "echo fine", 3), *_node_faults()]):
        name, faults, body, quorum = fault
        directory = base / f"n{number}"
        (directory / "marks").mkdir(parents=True)
        bodies = {"first": "echo fine", "ok": body}
        task = make_task(directory, bodies, env={"MARKS": str(directory / "marks")}, timeout_s=2)
        batch = BatchPlan(owner="0" * 12, count=3, timeout_s=60, poll_s=0.02, python="/usr/bin/python3")
        answers = BatchExecutor(FakeBatch(faults), batch, Work(directory / "work", None), None).run(task)
        results = combine(task.definitions, task.release, answers, quorum, datetime.now(UTC)).own
        if name == _HEALTHY:
            healthy = _announces([result.status for result in results])
        else:
            announced[name] = int(_announces([result.status for result in results]))
    return announced, healthy


def _announces(verdicts: list[Status]) -> bool:
    """Tell whether the plan adds a tag for an installed release whose probes say this."""
    release = RELEASES[2]
    wish = make_wish(release)
    if len(wish.probes) != len(verdicts):
        raise AssertionError("one verdict for each probe of the release")
    seen = {
        (release.id, probe): ProbeSeen(status, NOW, "", PROFILE)
        for probe, status in zip(wish.probes, verdicts, strict=True)
    }
    world = make_observed(
        installed={release.id: Installed(release, PROFILE)}, probes=seen, current={release.component: release.id}
    )
    return any(isinstance(action, AddTags) for action in plan(make_desired(wish), world, NOW))
