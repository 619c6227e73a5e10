"""A probe's own tests: read strictly, run contained, judged plainly."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.errors import ConfigError
from pps_agent.probes.case_file import Case, parse_case
from pps_agent.probes.cases import CaseOutcome, load_cases, run_case
from pps_agent.probes.catalogue import load_catalogue
from pps_agent.probes.client import RunnerClient, start_runner
from pps_agent.probes.definition import ProbeDefinition
from pps_wire.report import Status
from tests.probes.conftest import WriteProbe, ends_within, needs_root
from tests.probes.test_lint import SHIPPED


def case_of(text: str) -> Case:
    return parse_case(text.encode(), "x", "x.case")


def faults_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        case_of(text)
    return "\n".join(caught.value.faults)


def outcome_of(runner: RunnerClient, probe: ProbeDefinition, text: str) -> CaseOutcome:
    return run_case(case_of(text), probe, runner)


EXPECT_OK = '[expect]\nstatus = "OK"\n'


# --- reading ---------------------------------------------------------------------------------------


def test_a_case_is_read_whole() -> None:
    case = case_of(
        '[env]\nA = "{dir}/x"\n[files]\n"tree/VERSION" = "6.1"\n[commands]\nxrdcp = "exit 3"\n'
        '[expect]\nstatus = "CRITICAL"\nsummary = "a.c"\ndetails = "more"\nperfdata = ["time"]\n'
    )
    assert (case.status, case.env, case.files) == (Status.CRITICAL, {"A": "{dir}/x"}, {"tree/VERSION": "6.1"})
    assert (case.commands, case.perfdata) == ({"xrdcp": "exit 3"}, ("time",))
    assert case.summary is not None
    assert case.summary.search("abc")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expect.status: must be one of OK, WARNING, CRITICAL, UNKNOWN"),
        ("x", "x.case: not readable as TOML"),
        ("\xff", "not readable as TOML"),
        (EXPECT_OK + "[envv]\n", "unknown key 'envv'; known are env, files, commands, servers, expect"),
        (EXPECT_OK + "sumary = 'x'\n", "unknown key 'sumary'; known are status, summary"),
        (EXPECT_OK + "summary = '('\n", "expect.summary: is no regular expression"),
        (EXPECT_OK + "summary = 3\n", "expect.summary: is no regular expression: not a text"),
        (EXPECT_OK + "perfdata = 'time'\n", "expect.perfdata: must be a list"),
        ("expect = 3", "expect: must be a table"),
        (EXPECT_OK + "[files]\na.b = 'x'\n", 'files.a: must be a text; a name with dots stands in quotes: "a.x"'),
        (EXPECT_OK + "[files]\n'../x' = ''\n", "files: '../x' must be a relative path that stays inside"),
        (EXPECT_OK + "[files]\n'/etc/x' = ''\n", "must be a relative path that stays inside"),
        (EXPECT_OK + "[files]\na = ''\n'a/b' = ''\n", "files: 'a' is a file and a directory"),
        (EXPECT_OK + "[commands]\n'../x' = ''\n", "commands.../x: is no name"),
        (EXPECT_OK + "[env]\n'A B' = ''\n", "env.A B: is no name"),
    ],
)
def test_what_is_wrong_with_a_case_is_told(text: str, words: str) -> None:
    assert words in faults_of(text)


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: (EXPECT_OK + text).encode()))
def test_any_bytes_are_a_case_or_faults(content: bytes) -> None:
    try:
        case = parse_case(content, "x", "x.case")
    except ConfigError as exc:
        faults = list(exc.faults)
    else:
        faults = []
        assert case.name == "x"
    assert all(fault.startswith("x.case: ") for fault in faults)


def test_all_faults_of_all_cases_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name in "ab":
        (tmp_path / "tests" / f"{name}.case").write_text("x = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_cases(tmp_path)
    assert len(caught.value.faults) == 4


def test_a_probe_without_tests_has_no_case(tmp_path: Path) -> None:
    assert load_cases(tmp_path) == ()


# --- running ---------------------------------------------------------------------------------------


def test_a_probe_gets_the_cases_variables_and_files_and_nothing_else(
    runner: RunnerClient, write_probe: WriteProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPS_LEAKED", "yes")
    probe = write_probe('cat "$A/sub/x" "$B/y"; "$A/hello"; env | grep -c LEAKED; true')
    files = '"sub/x" = "OK - "\ny = "it "\nhello = "#!/bin/sh\\necho works"\n'
    text = f'[env]\nA = "{{dir}}"\nB = "{{tree}}"\n[files]\n{files}'
    outcome = outcome_of(runner, probe, text + EXPECT_OK + "summary = '^OK - it works$'\ndetails = '^0$'\n")
    assert outcome.problems == ()


def test_fake_commands_take_the_place_of_real_ones(runner: RunnerClient, write_probe: WriteProbe) -> None:
    probe = write_probe('ls; echo "exit $?"', commands=("ls", "pps-no-such-command"))
    text = '[commands]\nls = "echo OK - fake; exit 5"\npps-no-such-command = ""\n' + EXPECT_OK
    assert outcome_of(runner, probe, text + "summary = 'fake'\ndetails = 'exit 5'\n").problems == ()
    lacking = outcome_of(runner, probe, EXPECT_OK)
    assert lacking.problems == ("is UNKNOWN, expected OK",)
    assert "pps-no-such-command is not in PATH" in lacking.result.summary


def test_a_case_may_lead_path_itself(runner: RunnerClient, write_probe: WriteProbe) -> None:
    text = '[env]\nPATH = "{dir}/bin:/usr/bin:/bin"\n[files]\n"bin/tool" = "#!/bin/sh\\necho OK - mine"\n'
    assert outcome_of(runner, write_probe("tool"), text + EXPECT_OK + "summary = 'mine'\n").problems == ()


def test_every_difference_is_told(runner: RunnerClient, write_probe: WriteProbe) -> None:
    probe = write_probe("echo 'CRITICAL - no | time=1s'; exit 2")
    text = EXPECT_OK + "summary = 'yes'\ndetails = 'more'\nperfdata = ['time', 'size', 'rate']\n"
    assert outcome_of(runner, probe, text).problems == (
        "is CRITICAL, expected OK",
        "summary has nothing like 'yes'",
        "details has nothing like 'more'",
        "performance data lacks size, rate",
    )


def test_a_probe_cannot_spoil_the_files_of_its_case(
    runner: RunnerClient, write_probe: WriteProbe, tmp_path: Path
) -> None:
    probe = write_probe('echo "OK - $A"')
    outcome = outcome_of(runner, probe, '[env]\nA = "{dir}"\n[files]\nx = ""\n' + EXPECT_OK)
    assert not Path(outcome.result.summary.removeprefix("OK - ")).exists()


@needs_root
def test_cases_run_as_the_probes_user_who_reads_the_files_and_writes_none(write_probe: WriteProbe) -> None:
    probe = write_probe('echo "$(id -u) $(cat "$A/x")"; touch "$A/x" 2>/dev/null && exit 2; exit 0')
    with start_runner("nobody") as runner:
        outcome = outcome_of(
            runner, probe, '[env]\nA = "{dir}"\n[files]\nx = "read"\n' + EXPECT_OK + "summary = 'read'\n"
        )
    assert outcome.problems == ()
    assert not outcome.result.summary.startswith(f"{os.geteuid()} ")


def test_servers_are_started_first_tell_their_variable_and_end_with_the_probe(write_probe: WriteProbe) -> None:
    probe = write_probe('echo "$A and $B"; kill -0 "${A#pid }" && exit 0', variables={"A": "needed"})
    servers = '[servers]\nA = "echo pid $$; exec sleep 600"\nB = "#!/bin/sh\\nprintf second"\n'
    with start_runner() as runner:
        outcome = outcome_of(runner, probe, servers + EXPECT_OK + "summary = '^pid [0-9]+ and second$'\n")
    assert outcome.problems == (), outcome.result
    pid = int(outcome.result.summary.split()[1])
    assert ends_within(pid, 10)


@pytest.fixture(scope="module")
def shared_runner() -> Iterator[RunnerClient]:
    with start_runner() as client:
        yield client


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_probe_passes_its_cases(shared_runner: RunnerClient, name: str) -> None:
    definition = load_catalogue().find(f"org.pps.{name}")
    assert definition is not None
    outcomes = [run_case(case, definition, shared_runner) for case in load_cases(definition.run.parent)]
    failed = [f"{one.case.name}: {one.problems}: {one.result.summary}" for one in outcomes if one.problems]
    assert failed == []
