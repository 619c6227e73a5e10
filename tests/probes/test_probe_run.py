"""``pps-agent probe run`` as a scheduler calls it: exit codes, options, forms, limits."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pps_agent.probes.wlcg import parse_records
from pps_wire.report import Status
from tests.probes.conftest import ends_within, processes_with
from tests.support.site import Answer, SmallSite

ARGUMENTS = """
host = { variable = "PPS_T_HOST", form = "host", option = "-H", help = "where" }
port = { variable = "PPS_T_PORT", form = "port", option = "-p", help = "which" }
slow = { variable = "PPS_T_WARN", form = "range", option = "-w", help = "seconds" }
mood = { variable = "PPS_T_MOOD", form = "word", help = "how it feels" }
"""
Write = Callable[..., None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SmallSite:
    """A site whose repository nobody serves: a probe by hand needs none."""
    base = tmp_path_factory.mktemp("plugin")
    (base / "probes").mkdir()
    paths = {"store": "store", "state": "state", "cache": "cache", "tags": "tags", "probes": [str(base / "probes")]}
    probes = {"env": {"PPS_T_MARK": str(base)}}
    return SmallSite(base / "site", "http://127.0.0.1:9", b"{}", paths=paths, probes=probes)


@pytest.fixture(scope="module")
def write(site: SmallSite) -> Write:
    """Give a function that writes a probe org.test.<word>."""

    def write_probe(word: str, body: str, more: str = "", arguments: str = "") -> None:
        directory = site.base.parent / "probes" / word
        directory.mkdir()
        (directory / "probe.toml").write_text(
            f'[probe]\nname = "org.test.{word}"\nversion = "1"\nsummary = "a test"\nwhere = "head"\n{more}\n'
            f"[arguments]\n{arguments}"
        )
        run = directory / "run"
        run.write_text(f"#!/bin/sh\n{body}\n")
        run.chmod(0o755)

    write_probe("says", 'echo "DISK OK - fine|free=3GB;2;1"; echo "more | detail"; echo err >&2')
    write_probe("env", 'echo "CRITICAL - $PPS_T_HOST $PPS_T_PORT $PPS_T_WARN $PPS_T_MOOD"; exit 2', "", ARGUMENTS)
    write_probe("hangs", "sleep 600", "timeout_s = 300")
    write_probe("stays", "trap '' TERM; while :; do sleep 600; done", "timeout_s = 300")
    write_probe("floods", 'i=0; echo "WARNING - much"; head -c 60000 /dev/zero | tr "\\0" "x"; exit 1')
    write_probe("crashes", "kill -SEGV $$")
    write_probe("exits", "exit 77")
    write_probe(
        "several",
        """printf '[{"status":"OK","summary":"all"},'
printf '{"metric":"org.test.several.put","status":"CRITICAL","summary":"no"}]'; exit 2""",
        'metrics = ["org.test.several.put"]',
    )
    return write_probe


def run(site: SmallSite, *arguments: str) -> Answer:
    return site.run("probe", "run", *arguments)


def test_without_v_it_says_one_line_with_measurements(site, write):
    answer = run(site, "org.test.says")
    assert (answer.code, answer.stdout) == (0, "OK - DISK: fine|free=3GB;2;1\n")


def test_with_v_the_details_follow_and_with_vv_what_the_run_took(site, write):
    answer = run(site, "org.test.says", "-v")
    assert answer.stdout == "OK - DISK: fine|free=3GB;2;1\nmore ¦ detail\nstderr:\nerr\n"
    twice = run(site, "org.test.says", "-vv").stdout
    assert twice.startswith(answer.stdout.rstrip("\n"))
    assert "(verdict, exit 0, " in twice


def test_common_options_become_the_variables_that_the_probe_names(site, write):
    answer = run(site, "org.test.env", "-H", "se01.example.org", "-p", "1094", "-w", "10:20", "--set", "mood=calm")
    assert (answer.code, answer.stdout) == (2, "CRITICAL - se01.example.org 1094 10:20 calm\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-H", "a;reboot"), "host: 'a;reboot' is not a host"),
        (("-u", "x"), "takes no option -u; it takes: -H, -p, -w"),
        (("--set", "moood=calm"), "did you mean mood?"),
        (("--set", "mood"), "write ARGUMENT=VALUE"),
        (("--nonsense",), "No such option"),
        (("-t", "0"), "Invalid value for '-t'"),
        (("-t", "soon"), "Invalid value for '-t'"),
        (("two", "names"), "unexpected extra argument"),
        (("--as", "xml"), "Invalid value for '--as'"),
        (("--release", "none-1-x86_64-glibc2.36"), "is not installed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_unknown_and_says_why_on_stdout(site, write, arguments, complaint):
    answer = run(site, "org.test.env", *arguments)
    assert (answer.code, answer.stdout.startswith("UNKNOWN - "), complaint in answer.stdout) == (3, True, True), answer


def test_no_name_and_an_unknown_name_say_where_to_look(site, write):
    assert (run(site).code, "pps-agent probe list" in run(site).stdout) == (3, True)
    assert "did you mean org.test.says?" in run(site, "org.test.sayss").stdout


@pytest.mark.parametrize("option", ["-h", "--help", "-V", "--version"])
def test_help_and_version_exit_as_those_of_monitoring_plugins(site, option):
    answer = run(site, option)
    assert (answer.code, answer.stderr, bool(answer.stdout)) == (3, "", True)


def test_help_for_a_probe_says_what_it_takes(site, write):
    text = run(site, "org.test.env", "-h").stdout
    assert "  -H HOST  where\n" in text
    assert "  --set mood= WORD  how it feels\n" in text


def test_a_broken_settings_file_is_unknown(site, tmp_path):
    (tmp_path / "agent.toml").write_text("[site\n")
    done = subprocess.run(
        [sys.executable, "-m", "pps_agent", "--config", str(tmp_path / "agent.toml"), "probe", "run", "x"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.startswith("UNKNOWN - ")) == (3, True)


@pytest.mark.parametrize("word", ["crashes", "exits"])
def test_a_probe_that_gives_no_verdict_is_unknown(site, write, word):
    assert run(site, f"org.test.{word}").code == 3


@pytest.mark.parametrize("word", ["hangs", "stays"])
def test_a_probe_that_hangs_is_told_and_ended_for_the_callers_sake(site, write, word):
    answer = run(site, f"org.test.{word}", "-t", "8")
    assert (answer.code, answer.stdout.count("\n")) == (3, 1), answer
    assert answer.stdout.startswith(("UNKNOWN - timed out after", "UNKNOWN - no result within 8 s"))
    left = processes_with(f"PPS_T_MARK={site.base.parent}")
    assert [ends_within(pid, 10) for pid in left] == [True] * len(left)


def test_output_stays_below_what_argo_takes(site, write):
    answer = run(site, "org.test.floods", "-v")
    assert (answer.code, answer.stdout.startswith("WARNING - much"), len(answer.stdout.encode()) < 16_384) == (
        1,
        True,
        True,
    )
    assert "bytes left out" in answer.stdout


def test_further_metrics_are_told_below_the_probes_own(site, write):
    answer = run(site, "org.test.several", "-v")
    assert (answer.code, "org.test.several.put: CRITICAL - no" in answer.stdout) == (2, True)


def test_wlcg_tuples_name_the_host_that_was_tested(site, write):
    answer = run(site, "org.test.env", "-H", "se01.example.org", "--as", "wlcg")
    (record,) = parse_records(answer.stdout.encode())
    assert (answer.code, record.status, record.metric) == (2, Status.CRITICAL, "org.test.env")
    assert (record.host_name, record.site_name, record.vo_name) == ("se01.example.org", "TEST-SITE", "dteam")


def test_json_is_one_document_for_all_metrics(site, write):
    answer = run(site, "org.test.several", "--as", "json")
    assert [(item["metric"], item["status"]) for item in json.loads(answer.stdout)] == [
        ("org.test.several", "CRITICAL"),
        ("org.test.several.put", "CRITICAL"),
    ]


def test_a_call_that_fails_answers_in_the_form_that_was_asked_for(site):
    answer = run(site, "org.test.none", "--as", "json")
    assert (answer.code, json.loads(answer.stdout)["status"]) == (3, "UNKNOWN")
    (record,) = parse_records(run(site, "org.test.none", "--as", "wlcg").stdout.encode())
    assert record.status is Status.UNKNOWN


def test_a_full_disk_under_stdout_is_unknown(site, write):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(site.command("probe", "run", "org.test.says"), stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_closed_stdout_is_unknown_and_no_traceback(site, write):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *site.command("probe", "run", "org.test.says")]
    done = subprocess.run(command, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_fault_of_the_program_is_unknown_and_its_traceback_goes_to_stderr(site, write):
    # The first thing the command does with a name is broken here, as by a bug.
    code = (
        "import sys; from pps_agent.cli import probe_run; probe_run.open_probes = lambda *_: 1 / 0\n"
        "from pps_agent.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "--config", str(site.config), "probe", "run", "org.test.says"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert (done.returncode, done.stdout.startswith("UNKNOWN - a fault of pps-agent: ZeroDivisionError")) == (3, True)
    assert "Traceback" in done.stderr


def test_the_answer_comes_before_the_callers_time_is_over_its_own_start_counted():
    code = (
        "import signal, time; from pps_agent.cli.plugin import limit_time, process_age_s;"
        "time.sleep(1); limit_time(60); left_s = signal.getitimer(signal.ITIMER_REAL)[0];"
        "print(process_age_s() >= 1, 0 < left_s <= 58.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_no_alarm_is_left_that_could_end_an_interpreter_that_is_ending():
    code = (
        "import signal; from pps_agent.cli.plugin import limit_time, say;"
        "limit_time(60); say('said\\n'); print(signal.getitimer(signal.ITIMER_REAL))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "said\n(0.0, 0.0)\n"
