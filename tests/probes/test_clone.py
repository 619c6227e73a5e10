"""A new probe from one that is there: whole, its own, proved by its own tests, or not there at all."""

import tomllib
from pathlib import Path

import pytest

from pps_agent.errors import AgentError
from pps_agent.probes.cases import load_cases, run_case
from pps_agent.probes.catalogue import load_catalogue, shipped_directory
from pps_agent.probes.client import RunnerClient
from pps_agent.probes.clone import clone_probe
from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.directory import read_probe
from pps_agent.probes.lint import lint_probe
from pps_wire.names import ProbeName
from tests.probes.samples import METADATA, README, RUN, write_sample
from tests.probes.test_lint import SHIPPED

NEW = ProbeName("org.example.se.eos")


def sample(directory: Path, **files: str | None) -> ProbeDefinition:
    read = read_probe(write_sample(directory, **files))
    assert read.definition is not None, read.faults
    return read.definition


@pytest.mark.parametrize("name", SHIPPED)
def test_a_clone_of_a_shipped_probe_lints_as_well_and_passes_its_copied_tests(
    runner: RunnerClient, tmp_path: Path, name: str
) -> None:
    catalogue = load_catalogue()
    source = catalogue.find(f"org.pps.{name}")
    assert source is not None
    copy = clone_probe(source, ProbeName(f"org.example.{name}-two"), tmp_path / f"{name}-two")
    ours, theirs = (lint_probe(path, catalogue, 300) for path in (copy, source.run.parent))
    assert [fault.removeprefix(str(copy)) for fault in ours] == [
        fault.removeprefix(str(source.run.parent)) for fault in theirs
    ]
    definition = read_probe(copy).definition
    assert definition is not None
    assert (definition.name, definition.aliases, definition.version) == (f"org.example.{name}-two", (), "1")
    assert len(load_cases(copy)) == len(load_cases(source.run.parent))
    for case in load_cases(copy):
        outcome = run_case(case, definition, runner)
        assert outcome.problems == (), f"{case.name}: {outcome.result.summary}\n{outcome.result.details}"


def test_a_clone_speaks_of_itself_everywhere_and_keeps_all_else(runner: RunnerClient, tmp_path: Path) -> None:
    copy = clone_probe(sample(tmp_path), NEW, tmp_path / "se.eos")
    document = tomllib.loads((copy / "probe.toml").read_text())
    before = tomllib.loads(METADATA)
    assert document["probe"] == {
        **{key: value for key, value in before["probe"].items() if key != "aliases"},
        "name": NEW,
        "version": "1",
        "metrics": ["org.example.se.eos.put"],
    }
    assert {key: value for key, value in document.items() if key != "probe"} == {
        key: value for key, value in before.items() if key != "probe"
    }
    assert (copy / "README.md").read_text() == README.replace("# se.sample", "# se.eos")
    program = RUN.replace("org.test.se.sample", NEW).replace("se.sample", "se.eos")
    assert (copy / "run").read_text() == program
    assert (copy / "run").stat().st_mode & 0o777 == 0o755
    assert lint_probe(copy, load_catalogue(), 300) == ()
    definition = read_probe(copy).definition
    assert definition is not None
    assert [run_case(case, definition, runner).problems for case in load_cases(copy)] == [(), ()]


def test_a_plain_word_for_a_name_is_replaced_where_it_is_the_name_only(tmp_path: Path) -> None:
    source = write_sample(tmp_path, name="sample", metadata=METADATA.replace("org.test.se.sample", "org.test.sample"))
    definition = read_probe(source).definition
    assert definition is not None
    copy = clone_probe(definition, NEW, tmp_path / "se.eos")
    assert (copy / "run").read_text() == RUN  # which says "se.sample", of which "sample" is a part


def test_further_files_come_along_and_links_and_caches_do_not(tmp_path: Path) -> None:
    source = sample(tmp_path)
    directory = source.run.parent
    (directory / "data").mkdir()
    (directory / "data" / "list.txt").write_text("se.sample stays in data\n")
    (directory / "secret").symlink_to("/etc/hostname")
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "x.pyc").write_bytes(b"")
    copy = clone_probe(source, NEW, tmp_path / "se.eos")
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert names == ["README.md", "data/list.txt", "probe.toml", "run", "tests/bad.case", "tests/fine.case"]
    assert (copy / "data" / "list.txt").read_text() == "se.sample stays in data\n"


@pytest.mark.parametrize("kind", ["directory", "empty", "file", "dangling"])
def test_what_is_there_is_never_written_over(tmp_path: Path, kind: str) -> None:
    source, target = sample(tmp_path), tmp_path / "se.eos"
    match kind:
        case "directory":
            write_sample(tmp_path, "se.eos")
        case "empty":
            target.mkdir()
        case "file":
            target.write_text("mine")
        case "dangling":
            target.symlink_to("/no/such")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AgentError, match="is there already"):
        clone_probe(source, NEW, target)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_probe_whose_name_cannot_be_set_leaves_nothing_behind(tmp_path: Path) -> None:
    metadata = 'probe = { name = "org.test.se.sample", version = "1" }\n'
    source = sample(tmp_path / "from", metadata=metadata)
    with pytest.raises(AgentError, match=r"its name is not set in a table \[probe\]"):
        clone_probe(source, NEW, tmp_path / "se.eos")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from"]


def test_a_clone_under_way_is_no_probe_of_the_site(tmp_path: Path) -> None:
    write_sample(tmp_path, ".se.eos.0123.tmp")
    assert load_catalogue([tmp_path], shipped=False).definitions == ()


def test_a_place_in_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="is no directory"):
        clone_probe(sample(tmp_path), NEW, tmp_path / "gone" / "se.eos")


def test_the_shipped_probes_are_found_here() -> None:
    assert SHIPPED
    assert all((shipped_directory() / name / "run").exists() for name in SHIPPED)
