"""``check_pps``: what a scheduler gets from the published results, whatever is in the file."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.check_pps import HELP, MAX_OUTPUT_BYTES, CannotTellError, answer, cut_perfdata, parse_arguments
from pps_agent.probes.cached import find_results, parse_flat_object, parse_utc_time

METRIC = "org.pps.sys.disk"
RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"
Publish = Callable[..., Path]


def line(**changed: object) -> str:
    """Give one line as the daemon publishes it: fresh, OK, of the production client."""
    now = datetime.now(UTC)
    fields = {
        "metric": METRIC,
        "release": "",
        "status": "OK",
        "cause": "verdict",
        "summary": "12 GB free",
        "perfdata": "free=12GB;2;1;0",
        "at": (now - timedelta(seconds=30)).isoformat(),
        "fresh_until": (now + timedelta(seconds=600)).isoformat(),
        "attempt": 1,
        "hard": True,
        "details": "first\nsecond",
        "duration_s": 0.25,
    }
    return json.dumps(fields | changed, separators=(",", ":"), ensure_ascii=False)


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Give a function that writes results and gives the file."""

    def write(*lines: str | bytes) -> Path:
        file = tmp_path / "results.jsonl"
        file.write_bytes(b"".join((part if isinstance(part, bytes) else part.encode()) + b"\n" for part in lines))
        return file

    return write


def ask(file: Path, *arguments: str) -> tuple[int, str]:
    code, raw = answer([METRIC, "--file", str(file), *arguments])
    return code, raw.decode()


def test_a_fresh_result_is_told_in_one_line_with_its_performance_data(publish):
    assert ask(publish(line())) == (0, "OK - 12 GB free|free=12GB;2;1;0\n")


@pytest.mark.parametrize(("status", "code"), [("OK", 0), ("WARNING", 1), ("CRITICAL", 2), ("UNKNOWN", 3)])
def test_the_exit_code_is_the_status(publish, status, code):
    assert ask(publish(line(status=status, perfdata=""))) == (code, f"{status} - 12 GB free\n")


def test_details_come_when_asked_for_and_the_run_itself_when_asked_twice(publish):
    file = publish(line(status="CRITICAL", attempt=2, hard=False, perfdata=""))
    assert ask(file, "-v") == (2, "CRITICAL - 12 GB free\nfirst\nsecond\n")
    assert ask(file, "-vv") == (2, "CRITICAL - 12 GB free\nfirst\nsecond\n(30 s ago, attempt 2, soft, cause verdict)\n")


def test_a_result_past_its_freshness_is_unknown_and_says_what_it_was(publish):
    now = datetime.now(UTC)
    old = line(at=(now - timedelta(seconds=900)).isoformat(), fresh_until=(now - timedelta(seconds=300)).isoformat())
    code, text = ask(publish(old))
    assert (code, text.startswith("UNKNOWN - the result is 900 s old and good for 600 s")) == (3, True)
    assert "(it was OK: 12 GB free)" in text


def test_max_age_makes_the_limit_shorter_and_never_longer(publish):
    assert ask(publish(line()), "--max-age", "29")[0] == 3
    assert ask(publish(line()), "--max-age=600")[0] == 0
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert ask(publish(line(fresh_until=past)), "--max-age", "99999")[0] == 3


def test_a_result_that_nothing_renews_is_good_for_a_day(publish):
    now = datetime.now(UTC)
    assert ask(publish(line(fresh_until=None, at=(now - timedelta(hours=23)).isoformat())))[0] == 0
    assert ask(publish(line(fresh_until=None, at=(now - timedelta(hours=25)).isoformat())))[0] == 3


def test_a_result_from_the_future_is_unknown(publish):
    ahead = datetime.now(UTC) + timedelta(hours=1)
    code, text = ask(publish(line(at=ahead.isoformat(), fresh_until=(ahead + timedelta(hours=1)).isoformat())))
    assert (code, "correct this machine's clock" in text) == (3, True)


def test_the_production_clients_result_is_told_unless_a_release_is_named(publish):
    file = publish(line(), line(release=RELEASE, status="CRITICAL", summary="broken"))
    assert ask(file)[0] == 0
    assert ask(file, "--release", RELEASE) == (2, "CRITICAL - broken|free=12GB;2;1;0\n")
    code, text = ask(file, "--release", "other-1-x86_64-glibc2.36")
    assert (code, text) == (3, f"UNKNOWN - {METRIC} was not run on other-1-x86_64-glibc2.36; it was on {RELEASE}\n")


def test_a_probe_that_ran_on_releases_only_says_how_to_ask(publish):
    code, text = ask(publish(line(release=RELEASE)))
    assert (code, text) == (3, f"UNKNOWN - {METRIC} was run on releases only: add --worst, or --release {RELEASE}\n")


def test_the_worst_of_all_releases_names_its_release(publish):
    file = publish(line(), line(release=RELEASE, status="WARNING", summary="slow", perfdata=""))
    assert ask(file, "--worst") == (1, f"WARNING - [{RELEASE}] slow\n")


def test_a_name_that_begins_like_another_is_not_taken_for_it(publish):
    code, text = ask(publish(line(metric=f"{METRIC}s", status="CRITICAL")))
    assert (code, text.startswith(f"UNKNOWN - {publish()} has no result of {METRIC}:")) == (3, True)
    assert "was it due (pps-agent probe explain)" in text


def test_the_help_fits_a_terminal():
    assert max(map(len, HELP.splitlines())) <= 80


def test_a_missing_file_says_what_to_start(tmp_path):
    code, text = ask(tmp_path / "none")
    assert (code, text.startswith(f"UNKNOWN - {tmp_path}/none: is not there: start pps-agent.service")) == (3, True)


BAD_FILES = {
    "another program's text": b'{"metric":"org.pps.sys.disk",hello',
    "a list for a text": line(summary=["x"]).encode(),
    "a status that is none": line(status="FINE").encode(),
    "a time without a zone": line(at="2026-11-27T10:00:00").encode(),
    "a time that is none": line(at="nan").encode(),
    "no summary": line().replace('"summary":"12 GB free",', "").encode(),
    "bytes that are no text": line().encode().replace(b"12 GB", b"\xff\xfe"),
    "an endless number": line(attempt="X").encode().replace(b'"X"', b"1e999"),
    "half a line": line().encode()[:-40],
    "a line without end": b'{"metric":"org.pps.sys.disk","release":"' + b"x" * 3_000_000,
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_what_the_daemon_did_not_write_is_unknown_in_one_line(publish, content):
    code, text = ask(publish(content))
    assert (code, text.count("\n"), "not as pps-agent writes it" in text) == (3, 1, True)


def test_a_pipe_in_the_files_place_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "results.jsonl")
    assert ask(tmp_path / "results.jsonl")[0] == 3


def test_a_result_cannot_forge_a_line_or_performance_data(publish):
    file = publish(line(summary="fine\nCRITICAL: forged | load=9\x1b[31m", details="a|b=1", perfdata="x=1"))
    assert ask(file, "-v") == (0, "OK - fine CRITICAL: forged ¦ load=9 [31m|x=1\na¦b=1\n")


def test_output_stays_below_what_argo_takes(publish):
    long = line(details="ü" * 60_000, perfdata=" ".join(f"'a {number}'=1" for number in range(2000)))
    code, raw = answer([METRIC, "--file", str(publish(long)), "-v"])
    assert (code, len(raw) < 16_384, len(raw) > MAX_OUTPUT_BYTES - 8, raw[-7:]) == (0, True, True, b"\n[cut]\n")


@given(st.lists(st.sampled_from(["'a b'=1s;2;3", "x=2", "'it''s'=3%"]), min_size=1), st.integers(1, 200))
def test_performance_data_is_cut_between_two_values(data, limit):
    kept = cut_perfdata(" ".join(data), limit)
    assert kept in {" ".join(data[:count]) for count in range(len(data) + 1)}
    assert len(kept) <= limit


USAGE_ERRORS = [
    [],
    ["a.b", "c.d"],
    ["--nonsense", "a.b"],
    ["a.b", "--max-age"],
    ["a.b", "--max-age", "-5"],
    ["a.b", "-t", "soon"],
    ["a.b", "--worst", "--release", "x"],
]


@pytest.mark.parametrize("arguments", USAGE_ERRORS, ids=" ".join)
def test_a_usage_error_is_unknown_and_shows_the_usage(arguments):
    code, raw = answer(arguments)
    assert (code, raw.startswith(b"UNKNOWN - "), b"\nUsage: check_pps METRIC" in raw) == (3, True, True)


def test_common_options_are_understood_in_each_way_of_writing_them():
    asked = {"host": "ce01", "timeout": "10", "verbose": "vvv", "max-age": "5"}
    assert parse_arguments(["-H", "ce01", "-t10", "-vv", "--max-age=5", "a.b", "-v"]) == (asked, "a.b")
    assert parse_arguments(["--hostname=ce01", "--timeout", "10", "-vvv", "--max-age", "5", "--", "a.b"]) == (
        asked,
        "a.b",
    )


@pytest.mark.parametrize("option", ["-h", "--help", "-V", "--version"])
def test_help_and_version_exit_as_those_of_monitoring_plugins(option):
    code, raw = answer([option])
    assert (code, b"check_pps" in raw) == (3, True)


@given(
    st.lists(
        st.sampled_from(["a.b", "-v", "-vv", "-h", "-t", "5", "--release", "--worst", "--", "-", "--x=1", "", "-vx"])
    )
)
def test_any_arguments_give_a_metric_or_words_for_a_person(arguments):
    with contextlib.suppress(CannotTellError):
        assert parse_arguments(arguments)[1] in arguments


FLAT = st.dictionaries(
    st.text(), st.text() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1
)


@given(FLAT, st.booleans())
def test_a_flat_object_is_read_as_json_reads_it(value, ensure_ascii):
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=ensure_ascii)
    if not ensure_ascii and any("\ud800" <= char <= "\udfff" for char in text):
        return
    expected = json.loads(text.encode("utf-8", "surrogatepass"))
    assert parse_flat_object(text + "\n") == {
        key.encode("utf-16", "surrogatepass").decode("utf-16", "replace"): item for key, item in expected.items()
    }


@given(st.text(st.sampled_from('{}",:\\u0ntrefals1-[] \n')) | st.text())
def test_any_text_is_a_flat_object_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert parse_flat_object(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_utc_time_is_read_as_datetime_reads_it(at):
    assert parse_utc_time(at.isoformat()) == pytest.approx(at.timestamp(), abs=1e-5)
    assert parse_utc_time(at.isoformat().replace("+00:00", "Z")) == pytest.approx(at.timestamp(), abs=1e-5)


@given(st.text(st.sampled_from("0123456789-:.TZ+n ")) | st.text())
def test_any_text_is_a_time_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_utc_time(text), float)


@given(
    st.binary() | st.lists(st.sampled_from([line(), "x", line(attempt=0)])).map(lambda some: "\n".join(some).encode())
)
def test_any_file_gives_results_or_a_value_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any-results"
    file.write_bytes(content)
    with contextlib.suppress(ValueError, KeyError):
        assert all(result.metric == METRIC for result in find_results(str(file), METRIC))


def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("check_pps")
    return subprocess.run([program, *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_the_program_reads_the_file_of_its_environment(publish):
    done = run(METRIC, PPS_AGENT_RESULTS=str(publish(line(status="WARNING"))))
    assert (done.returncode, done.stdout, done.stderr) == (1, "WARNING - 12 GB free|free=12GB;2;1;0\n", "")


def test_the_program_imports_neither_json_nor_another_slow_library(publish):
    code = (
        "import sys; before = set(sys.modules); from pps_agent.check_pps import answer;"
        f" answer(['{METRIC}', '--file', '{publish(line())}', '-vv']); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pps_agent", "pps_agent.check_pps", "pps_agent.probes", "pps_agent.probes.cached"]


def test_a_full_disk_under_stdout_is_unknown_and_no_traceback(publish):
    with Path("/dev/full").open("wb") as full:
        program = Path(sys.executable).with_name("check_pps")
        command = [program, METRIC, "--file", str(publish(line()))]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_closed_stdout_is_unknown_and_no_traceback(publish):
    program = Path(sys.executable).with_name("check_pps")
    command = ["sh", "-c", 'exec "$@" >&-', "sh", program, METRIC, "--file", publish(line())]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_file_system_that_hangs_is_unknown_where_nobody_reads_too():
    code = (
        "import os, sys; from pps_agent import check_pps;"
        "sys.argv[1:] = ['-t', '1', 'x']; pipe = os.pipe();"
        "check_pps._find = lambda *_: os.read(pipe[0], 1); sys.exit(check_pps.main())"
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_file_system_that_hangs_is_told_before_the_time_is_over(publish):
    # The alarm comes while a read waits; a pipe that somebody holds open stands for the dead server.
    code = (
        "import os, sys; from pps_agent import check_pps;"
        "check_pps.find_results = lambda path, metric: os.read(os.pipe()[0], 1);"
        f"sys.argv[1:] = ['{METRIC}', '-t', '1']; sys.exit(check_pps.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.startswith("UNKNOWN - no answer in time")) == (3, True)


@pytest.mark.parametrize("metric", [METRIC, "org.pps.none"])
def test_no_alarm_is_left_that_could_end_an_interpreter_that_is_ending(publish, metric):
    code = (
        "import signal; from pps_agent.check_pps import answer;"
        f"answer(['{metric}', '--file', '{publish(line())}', '-t', '60']); print(signal.getitimer(signal.ITIMER_REAL))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0.0, 0.0)\n"
