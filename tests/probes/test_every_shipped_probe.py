"""What holds for every probe that comes with the program, whatever it tests."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pps_agent.probes.cases import load_cases, run_case
from pps_agent.probes.catalogue import load_catalogue, shipped_directory
from pps_agent.probes.client import RunnerClient
from pps_agent.probes.definition import ProbeDefinition
from pps_wire.report import Status
from tests.support.probe_runs import PATH, find_pythons

PROBES = {definition.run.parent.name: definition for definition in load_catalogue((shipped_directory(),)).definitions}
SET_BY_THE_AGENT = {"PPS_SITE", "PPS_VO", "PPS_RELEASE", "PPS_RELEASE_ROOT", "PPS_RELEASE_VERSION"}


@pytest.fixture(params=sorted(PROBES))
def probe(request: pytest.FixtureRequest) -> ProbeDefinition:
    """Give each shipped probe."""
    return PROBES[request.param]


def test_its_directory_is_its_name(probe: ProbeDefinition) -> None:
    assert probe.name == f"org.pps.{probe.run.parent.name}"
    assert probe.run.parent.name in probe.aliases


def test_what_it_depends_on_is_shipped(probe: ProbeDefinition) -> None:
    assert [name for name in probe.depends_on if name not in {other.name for other in PROBES.values()}] == []


def test_it_reads_no_variable_that_its_metadata_does_not_tell_of(probe: ProbeDefinition) -> None:
    known = {*SET_BY_THE_AGENT, *probe.variables, *probe.env, *probe.secrets}
    known |= {argument.variable for argument in probe.arguments.values()}
    read = set(re.findall(r"\bPPS_[A-Z][A-Z0-9_]*[A-Z0-9]\b", probe.run.read_text()))
    mentioned = {name for name in read if not any(other.startswith(f"{name}_") for other in known)}
    own = set(re.findall(r"\bsetenv (PPS_[A-Z_]+)|\b(PPS_[A-Z_]+)=", probe.run.read_text()))
    assert mentioned - known - {name for pair in own for name in pair} == set()


def test_its_readme_tells_each_of_its_variables_and_how_to_mend(probe: ProbeDefinition) -> None:
    text = (probe.run.parent / "README.md").read_text()
    assert text.startswith(f"# {probe.run.parent.name}\n")
    site_sets = {name for name in (*probe.variables, *probe.env) if name.startswith("PPS_")} - SET_BY_THE_AGENT
    assert [name for name in sorted(site_sets) if not is_told(name, text)] == []
    assert [word for word in ("OK", "CRITICAL", "UNKNOWN") if f"| {word} |" not in text] == []


def is_told(name: str, text: str) -> bool:
    """Tell whether a README has a variable, whole or as the end of a list of alike ones (``X_A``, ``_B``)."""
    return name in text or any(f"`{name[at:]}`" in text for at, letter in enumerate(name) if letter == "_")


def test_it_keeps_to_the_oldest_python_it_promises_and_to_the_standard_library(probe: ProbeDefinition) -> None:
    source = probe.run.read_text()
    if source.startswith("#!/bin/sh\n"):
        return
    assert source.startswith("#!/usr/bin/python3 -IS\n")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported <= sys.stdlib_module_names
    assert [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Match)] == []
    longest = max(
        (node.end_lineno or 0) - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    )
    assert longest <= 45


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_by_hand_it_speaks_as_a_plugin_without_any_settings(
    probe: ProbeDefinition, locale: str, tmp_path: Path
) -> None:
    env = {"PATH": PATH, "LC_ALL": locale, "TMPDIR": str(tmp_path)}
    done = subprocess.run([probe.run], env=env, capture_output=True, check=False, cwd=tmp_path, timeout=120)
    assert (done.stderr, done.returncode in range(4)) == (b"", True), done.stderr
    first = done.stdout.split(b"\n")[0].decode()
    assert re.match(rf"[A-Z0-9]+ {Status(done.returncode).name} - \S", first), first
    if probe.variables:
        assert (done.returncode, " - set " in first) == (Status.UNKNOWN, True), first


@pytest.mark.parametrize("python", find_pythons(), ids=lambda python: f"python{find_pythons().index(python)}")
def test_its_cases_hold_under_the_oldest_and_the_newest_python(
    probe: ProbeDefinition, python: str, runner: RunnerClient, public_directory: Path
) -> None:
    first, _, rest = probe.run.read_bytes().partition(b"\n")
    run = public_directory / "run"
    run.write_bytes((f"#!{python} -IS".encode() if b"python3" in first else first) + b"\n" + rest)
    run.chmod(0o755)
    outcomes = [run_case(case, dataclasses.replace(probe, run=run), runner) for case in load_cases(probe.run.parent)]
    assert {
        outcome.case.name: (outcome.problems, outcome.result.summary) for outcome in outcomes if outcome.problems
    } == {}
    assert outcomes
