"""Finding probes: strict metadata, all faults told, nothing that others can change, and no probe stops another."""

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.probes.catalogue import Catalogue, Origin, load_catalogue, shipped_directory
from pps_agent.probes.definition import DEFAULT_LIMITS, Where
from pps_agent.probes.definition_file import KEYS, parse_definition, parse_names
from pps_agent.probes.directory import read_probe
from pps_agent.probes.sums import parse_sums
from pps_wire.names import ProbeName
from tests.probes.conftest import needs_root

GOOD = '[probe]\nname = "org.test.one"\naliases = ["one"]\n'
ONE = ProbeName("org.test.one")


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


def named(name: str, *aliases: str) -> str:
    return f'[probe]\nname = "{name}"\naliases = [{", ".join(map(repr, aliases))}]\n'


def load(*directories: Path, approved: dict[ProbeName, str] | None = None) -> Catalogue:
    return load_catalogue(directories, shipped=False, approved=approved)


def names(catalogue: Catalogue) -> list[str]:
    return [definition.name for definition in catalogue.definitions]


def write_sums(directory: Path) -> None:
    done = subprocess.run(["sh", "-c", "sha256sum */probe.toml */run"], cwd=directory, check=True, capture_output=True)
    (directory / "SHA256SUMS").write_bytes(done.stdout)


# --- what is there ---------------------------------------------------------------------------------


def test_the_shipped_probes_load_without_a_fault_and_are_found_by_name_and_alias() -> None:
    catalogue = load_catalogue()
    directories = sorted(path.parent.name for path in shipped_directory().glob("*/probe.toml"))
    assert names(catalogue) == [f"org.pps.{name}" for name in directories]
    assert catalogue.all_faults() == ()
    for name in ("org.pps.wn.softver", "wn.softver", "org.sam.WN-SoftVer", "CE-sft-softver"):
        definition = catalogue.find(name)
        assert definition is not None
        assert definition.run == shipped_directory() / "wn.softver" / "run"
    assert catalogue.find("wn.sofver") is None
    assert catalogue.closest("wn.sofver") == "wn.softver"
    assert "did you mean wn.softver?" in catalogue.why_not("wn.sofver")


def test_a_definition_is_read_whole_and_the_rest_has_defaults(directory: Path) -> None:
    write(
        directory,
        "one",
        GOOD + 'timeout_s = 5\nwhere = "head"\n[requires]\ncommands = ["ls"]\n'
        '[requires.variables]\nA_B = "the address"\n[env]\nC = "more"\n[limits]\ncpu_s = 3\n',
    )
    (definition,) = load(directory).definitions
    assert (definition.timeout_s, definition.where, definition.interval_s) == (5, Where.HEAD, None)
    assert (definition.commands, definition.variables, definition.env) == (
        ("ls",),
        {"A_B": "the address"},
        {"C": "more"},
    )
    assert definition.limits == {**DEFAULT_LIMITS, "cpu_s": 3}


def test_a_sites_directory_adds_to_the_shipped_probes(directory: Path) -> None:
    write(directory, "one")
    catalogue = load_catalogue([directory])
    assert {"org.test.one", "org.pps.wn.env"} <= set(names(catalogue))
    assert catalogue.origins[ONE] is Origin.SITE
    assert catalogue.origins[ProbeName("org.pps.wn.env")] is Origin.SHIPPED


def test_what_begins_with_a_dot_is_work_under_way_and_no_probe(directory: Path) -> None:
    write(directory, ".one.tmp")
    assert load(directory) == Catalogue()


def test_a_directory_without_any_probe_is_no_fault(directory: Path) -> None:
    (directory / "notes").mkdir()
    assert load(directory).all_faults() == ()


# --- what is wrong ---------------------------------------------------------------------------------


def test_all_faults_of_all_probes_are_listed_with_path_and_line_and_the_good_one_stays(directory: Path) -> None:
    write(directory, "a", '[probe]\nname = "Bad Name"\ntimeout_s = "soon"\nwhere = "moon"\n')
    write(directory, "b", GOOD + "timout_s = 5\n")
    write(directory, "c", "[probe\n")
    write(directory, "d", '[probe]\nname = "org.test.d"\n[limits]\ncpu_s = 0\nnice = 3\n[extra]\n')
    write(directory, "good", named("org.test.good"))
    catalogue = load(directory)
    assert names(catalogue) == ["org.test.good"]
    text = "\n".join(catalogue.all_faults())
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


def test_who_asks_for_a_refused_probe_is_told_why(directory: Path) -> None:
    write(directory, "one", GOOD + "timout_s = 5\n")
    write(directory, "wn.two", "[probe\n")
    catalogue = load(directory)
    for name in ("org.test.one", "one"):
        assert catalogue.why_not(name).startswith(f"the probe {name} is refused: {directory}/one/probe.toml:4:")
    assert "is refused" in catalogue.why_not("org.test.wn.two")
    assert "is not installed here" in catalogue.why_not("org.test.three")


def test_a_name_or_alias_used_twice_stays_with_the_first(directory: Path) -> None:
    write(directory, "a")
    write(directory, "b", named("org.test.two", "one"))
    write(directory, "c", named("org.test.two"))
    catalogue = load(directory)
    assert names(catalogue) == ["org.test.one", "org.test.two"]
    assert catalogue.refused[0].path == directory / "b"
    assert catalogue.refused[0].faults == (
        f"{directory}/b: one is also the name of {directory}/a: rename or remove one",
    )


def test_a_site_cannot_take_a_shipped_name(directory: Path) -> None:
    write(directory, "mine", named("org.test.mine", "wn.env"))
    catalogue = load_catalogue([directory])
    found = catalogue.find("wn.env")
    assert found is not None
    assert found.run.parent == shipped_directory() / "wn.env"
    assert "wn.env is also the name of" in catalogue.why_not("org.test.mine")


@pytest.mark.parametrize("what", ["run", "probe.toml", "."])
def test_a_probe_that_others_can_write_is_refused(directory: Path, what: str) -> None:
    path = write(directory, "a") / what
    path.chmod(path.stat().st_mode | 0o002)
    write(directory, "b", named("org.test.two"))
    catalogue = load(directory)
    assert names(catalogue) == ["org.test.two"]
    (fault,) = catalogue.all_faults()
    assert "others can write it" in fault


def test_a_probe_directory_that_others_can_write_is_refused_with_all_in_it(directory: Path, tmp_path: Path) -> None:
    write(directory, "a")
    directory.chmod(0o777)
    other = tmp_path / "other"
    other.mkdir(0o755)
    write(other, "b", named("org.test.two"))
    catalogue = load(directory, other)
    assert names(catalogue) == ["org.test.two"]
    assert catalogue.faults == (f"{directory}: others can write it: chmod go-w it, and check what it does now",)
    assert "others can write it" in catalogue.why_not("one")


def test_a_way_to_the_probes_that_others_can_change_is_refused(tmp_path: Path) -> None:
    middle = tmp_path / "open"
    middle.mkdir()
    (middle / "probes").mkdir(0o755)
    write(middle / "probes", "a")
    middle.chmod(0o777)
    catalogue = load(middle / "probes")
    assert names(catalogue) == []
    assert "others can write it, and replace probes in it" in catalogue.faults[0]
    middle.chmod(0o1777)  # as /tmp: nobody renames what is another's
    assert names(load(middle / "probes")) == ["org.test.one"]


@pytest.mark.parametrize("what", ["run", "probe.toml"])
def test_a_link_in_place_of_a_file_is_refused(directory: Path, tmp_path: Path, what: str) -> None:
    path = write(directory, "a") / what
    path.rename(tmp_path / what)
    path.symlink_to(tmp_path / what)
    assert "is a symbolic link" in load(directory).why_not("one")


def test_a_linked_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "a").symlink_to(write(tmp_path, "elsewhere"))
    assert "is a symbolic link" in load(directory).why_not("one")


@needs_root
def test_a_probe_that_a_foreign_group_or_user_owns_is_refused(directory: Path) -> None:
    path = write(directory, "a") / "run"
    os.chown(path, 0, 65534)
    path.chmod(0o775)
    assert "others can write it" in load(directory).all_faults()[0]
    os.chown(path, 65534, 65534)
    path.chmod(0o755)
    assert "belongs to user 65534" in load(directory).all_faults()[0]


def test_a_probe_without_an_executable_run_is_refused(directory: Path) -> None:
    write(directory, "a", mode=0o644)
    (write(directory, "b", named("org.test.two")) / "run").unlink()
    faults = load(directory).all_faults()
    assert "is not executable" in faults[0]
    assert "b/run: No such file" in faults[1]


@pytest.mark.parametrize("what", ["probe.toml", "run"])
def test_a_pipe_in_place_of_a_file_is_refused_and_holds_up_nobody(directory: Path, what: str) -> None:
    path = write(directory, "a") / what
    path.unlink()
    os.mkfifo(path, 0o700)
    write(directory, "b", named("org.test.two"))
    catalogue = load(directory)
    assert names(catalogue) == ["org.test.two"]
    assert f"{path}: is no plain file" in catalogue.all_faults()[0]


def test_a_directory_that_is_not_there_is_a_fault_and_stops_no_other(directory: Path, tmp_path: Path) -> None:
    write(directory, "a")
    catalogue = load(tmp_path / "gone", directory)
    assert names(catalogue) == ["org.test.one"]
    assert catalogue.faults == (f"{tmp_path}/gone: no such directory: correct paths.probes or install the probes",)


# --- what was changed ------------------------------------------------------------------------------


def test_a_probe_on_record_runs_until_its_digest_is_another(directory: Path) -> None:
    path = write(directory, "one")
    first = load(directory)
    assert first.unrecorded == {ONE}
    (definition,) = first.definitions
    approved = {ONE: definition.digest}
    assert (names(load(directory, approved=approved)), load(directory, approved=approved).unrecorded) == ([ONE], set())
    (path / "run").write_text("#!/bin/sh\necho OK, whatever happens\n")
    changed = load(directory, approved=approved)
    assert names(changed) == []
    reason = changed.why_not("one")
    assert f"approved was {definition.digest[:16]}" in reason
    assert reason.endswith("then pps-agent probe approve org.test.one")


def test_a_change_of_metadata_counts_as_one_of_the_program(directory: Path) -> None:
    path = write(directory, "one")
    (definition,) = load(directory).definitions
    (path / "probe.toml").write_text(GOOD + 'where = "head"\n')
    assert "was changed" in load(directory, approved={ONE: definition.digest}).why_not("one")


def test_a_directory_with_a_list_of_sums_is_judged_by_it_and_needs_no_record(directory: Path) -> None:
    path = write(directory, "one")
    write(directory, "two", named("org.test.two"))
    write_sums(directory)
    whole = load(directory)
    assert (names(whole), whole.unrecorded) == ([ONE, "org.test.two"], set())
    (path / "run").write_text("#!/bin/sh\necho OK, whatever happens\n")
    write(directory, "three", named("org.test.three"))
    catalogue = load(directory)
    assert names(catalogue) == ["org.test.two"]
    assert "one/run was changed since it was installed" in catalogue.why_not("one")
    assert "three/probe.toml is not in SHA256SUMS" in catalogue.why_not("org.test.three")


def test_a_list_of_sums_that_is_none_refuses_what_it_should_vouch_for(directory: Path) -> None:
    write(directory, "one")
    (directory / "SHA256SUMS").write_text("no sums\n")
    catalogue = load(directory)
    assert names(catalogue) == []
    assert "SHA256SUMS:1: not a line of sha256sum" in catalogue.faults[0]


def test_a_list_of_sums_that_others_can_write_vouches_for_nothing(directory: Path) -> None:
    write(directory, "one")
    write_sums(directory)
    (directory / "SHA256SUMS").chmod(0o666)
    assert names(load(directory)) == []


def test_a_change_after_the_probe_was_read_is_seen_before_it_runs(directory: Path) -> None:
    path = write(directory, "one")
    catalogue = load(directory)
    (definition,) = catalogue.definitions
    assert catalogue.find_change(definition) == ""
    before = (path / "run").stat()
    (path / "run").write_text("#!/bin/sh\necho KO\n")
    os.utime(path / "run", ns=(before.st_atime_ns, before.st_mtime_ns))  # a change's own time cannot be set back
    assert "was changed since it was read" in catalogue.find_change(definition)


def test_reading_again_reads_only_what_looks_different(directory: Path) -> None:
    write(directory, "one")
    path = write(directory, "two", named("org.test.two"))
    first = load(directory)
    (path / "probe.toml").write_text(named("org.test.other"))
    second = load_catalogue([directory], shipped=False, previous=first)
    assert names(second) == ["org.test.one", "org.test.other"]
    assert second.find("one") is first.find("one")
    assert second.reads[directory / "one"] is first.reads[directory / "one"]


# --- any bytes -------------------------------------------------------------------------------------

_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["node", "heavy", "org.test.x", "03:15", "releases", "nagios", "atlas"])
)
_SHAPES = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def toml(value: object) -> str:
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return '"' + "".join(c if c.isalnum() or c in " ._-:" else f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml(key)} = {toml(inner)}' for key, inner in value.items())}}}"
    raise AssertionError(value)


@st.composite
def metadata(draw: st.DrawFn) -> bytes:
    """Metadata that is TOML, with known keys and any values in any of its tables."""
    lines = []
    for table in ("probe", "requires", "env", "secrets", "arguments", "limits"):
        known = [st.sampled_from(KEYS[table])] if table in KEYS else []
        keys = st.one_of(*known, st.sampled_from(["A_B", "PATH", "url", "x y", "name"]))
        lines.append(f"[{table}]")
        lines += [
            f"{toml(key)} = {toml(value)}" for key, value in draw(st.dictionaries(keys, _SHAPES, max_size=4)).items()
        ]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | metadata())
def test_any_metadata_is_a_definition_or_faults_that_name_the_file(content: bytes) -> None:
    faults: list[str] = []
    definition = parse_definition(content, Path("/x"), faults)
    assert (definition is None) == bool(faults)
    assert all(fault.startswith("/x/probe.toml") for fault in faults)
    if definition is not None:
        assert parse_names(content) == (definition.name, *definition.aliases)
        assert parse_definition(content, Path("/x"), []) == definition


@settings(deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_list_of_sums_is_sums_or_faults(content: bytes) -> None:
    faults: list[str] = []
    sums = parse_sums(content, faults)
    assert all(len(value) == 64 and "/" in path for path, value in sums.items())
    assert bool(sums) or bool(faults) or not content.decode("utf-8", "replace").strip()


def test_metadata_too_large_or_too_deep_is_a_fault() -> None:
    for content in (b"#" * 70_000, b"a = " + b"[" * 60_000):
        faults: list[str] = []
        assert parse_definition(content, Path("/x"), faults) is None
        assert len(faults) == 1


def test_thousands_of_faults_take_no_time_and_are_told_in_part() -> None:
    content = b"[probe]\n" + b"".join(b"k%d = 1\n" % number for number in range(5000))
    content += b"[env]\n" + b"".join(b"v%d = 1\n" % number for number in range(500))
    faults: list[str] = []
    began_s = time.process_time()
    assert parse_definition(content, Path("/x"), faults) is None
    assert (len(faults), time.process_time() - began_s < 2) == (100, True)


def test_a_probe_that_depends_on_itself_is_a_fault_with_or_without_an_interval() -> None:
    for more in ("", "interval_s = 60\n"):
        faults: list[str] = []
        assert parse_definition(f'{GOOD}depends_on = ["org.test.one"]\n{more}'.encode(), Path("/x"), faults) is None
        assert "a probe cannot depend on itself" in faults[0]


def test_the_digest_is_of_both_files(directory: Path) -> None:
    path = write(directory, "one")
    read = read_probe(path)
    assert read.definition is not None
    two = (hashlib.sha256((path / name).read_bytes()).digest() for name in ("probe.toml", "run"))
    assert read.definition.digest == hashlib.sha256(b"".join(two)).hexdigest()
