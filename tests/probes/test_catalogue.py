"""Finding probes: strict metadata, all faults at once, nothing that others can change."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.errors import ConfigError
from pps_agent.probes.catalogue import DEFAULT_LIMITS, load_catalogue, parse_definition, shipped_directory
from tests.probes.conftest import needs_root

GOOD = '[probe]\nname = "org.test.one"\naliases = ["one"]\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "probes"
    path.mkdir(mode=0o755)
    return path


def write(directory: Path, name: str, metadata: str = GOOD, mode: int = 0o755) -> Path:
    path = directory / name
    path.mkdir(mode=0o755)
    (path / "probe.toml").write_text(metadata)
    (path / "run").write_text("#!/bin/sh\necho OK\n")
    (path / "run").chmod(mode)
    return path


def faults_of(directory: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_catalogue([directory])
    return caught.value.faults


def test_the_shipped_probes_load_and_are_found_by_name_and_alias() -> None:
    catalogue = load_catalogue()
    assert [d.name for d in catalogue.definitions] == ["org.pps.se.xroot", "org.pps.wn.env", "org.pps.wn.softver"]
    for name in ("org.pps.wn.softver", "wn.softver", "org.sam.WN-SoftVer", "CE-sft-softver"):
        definition = catalogue.find(name)
        assert definition is not None
        assert definition.run == shipped_directory() / "wn.softver" / "run"
    assert catalogue.find("wn.sofver") is None
    assert catalogue.closest("wn.sofver") == "wn.softver"


def test_a_definition_is_read_whole_and_the_rest_has_defaults(directory: Path) -> None:
    write(
        directory,
        "one",
        GOOD + 'timeout_s = 5\nwhere = "head"\n[requires]\ncommands = ["ls"]\n'
        '[requires.variables]\nA_B = "the address"\n[env]\nC = "more"\n[limits]\ncpu_s = 3\n',
    )
    (definition,) = load_catalogue([directory]).definitions
    assert (definition.timeout_s, definition.where, definition.interval_s) == (5, "head", None)
    assert (definition.commands, definition.variables, definition.env) == (
        ("ls",),
        {"A_B": "the address"},
        {"C": "more"},
    )
    assert definition.limits == {**DEFAULT_LIMITS, "cpu_s": 3}


def test_all_faults_of_all_probes_are_listed_with_path_and_line(directory: Path) -> None:
    write(directory, "a", '[probe]\nname = "Bad Name"\ntimeout_s = "soon"\nwhere = "moon"\n')
    write(directory, "b", GOOD + "timout_s = 5\n")
    write(directory, "c", "[probe\n")
    write(directory, "d", '[probe]\nname = "org.test.d"\n[limits]\ncpu_s = 0\nnice = 3\n[extra]\n')
    text = "\n".join(faults_of(directory))
    for wanted in (
        "a/probe.toml:2: probe.name:",
        "a/probe.toml:3: probe.timeout_s: must be a whole number",
        "a/probe.toml:4: probe.where: must be one of node, head",
        "b/probe.toml:4: probe.timout_s: unknown key; did you mean timeout_s?",
        "c/probe.toml: not readable as TOML",
        "d/probe.toml:4: limits.cpu_s:",
        "d/probe.toml:5: limits.nice: unknown key; known are cpu_s",
        "d/probe.toml:6: extra: unknown key",
    ):
        assert wanted in text


def test_a_name_or_alias_used_twice_is_refused(directory: Path) -> None:
    write(directory, "a")
    write(directory, "b", '[probe]\nname = "org.test.two"\naliases = ["one"]\n')
    (fault,) = faults_of(directory)
    assert "one is also the name of" in fault


@pytest.mark.parametrize("what", ["run", "probe.toml", "."])
def test_a_probe_that_others_can_write_is_refused(directory: Path, what: str) -> None:
    path = write(directory, "a") / what
    path.chmod(path.stat().st_mode | 0o002)
    (fault,) = faults_of(directory)
    assert "others can write it" in fault


def test_a_probe_directory_that_others_can_write_is_refused(directory: Path) -> None:
    write(directory, "a")
    directory.chmod(0o777)
    (fault,) = faults_of(directory)
    assert fault.startswith(f"{directory}: others can write it")


@needs_root
def test_a_probe_that_a_foreign_group_or_user_owns_is_refused(directory: Path) -> None:
    path = write(directory, "a") / "run"
    os.chown(path, 0, 65534)
    path.chmod(0o775)
    assert "others can write it" in faults_of(directory)[0]
    os.chown(path, 65534, 65534)
    path.chmod(0o755)
    assert "belongs to user 65534" in faults_of(directory)[0]


def test_a_probe_without_an_executable_run_is_refused(directory: Path) -> None:
    write(directory, "a", mode=0o644)
    path = write(directory, "b", GOOD.replace("one", "two"))
    (path / "run").unlink()
    faults = faults_of(directory)
    assert "is not executable" in faults[0]
    assert "b/run: No such file" in faults[1]


def test_a_directory_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    assert "no such directory" in faults_of(tmp_path / "gone")[0]


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_metadata_is_a_definition_or_a_fault(content: bytes) -> None:
    faults: list[str] = []
    definition = parse_definition(content, Path("/x"), faults)
    assert (definition is None) == bool(faults)
