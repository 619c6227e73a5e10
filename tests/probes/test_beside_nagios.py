"""Our reading of plugins' output beside the real thing: Debian's monitoring plugins, and Nagios itself."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pps_agent.probes.output import read_text
from pps_agent.probes.parse import PluginOutput, parse_plugin_output, show_text
from pps_agent.probes.perfdata import parse_perfdata, scan_perfdata
from pps_agent.probes.render import render_nagios
from pps_wire.report import Status
from tests.probes.nagios import Reading, missing_nagios, read_by_nagios
from tests.probes.test_render import CHILD, OWN
from tests.support.services import need

PLUGINS = Path("/usr/lib/nagios/plugins")
CASES = Path(__file__).parent / "cases"


@pytest.fixture(scope="module")
def listener() -> Iterator[str]:
    """Give the port of a TCP server on loopback that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def run_plugin(command: str) -> tuple[int, bytes]:
    need("" if (PLUGINS / "check_dummy").exists() else "monitoring-plugins-basic is not installed")
    name, *arguments = command.split()
    ran = subprocess.run([PLUGINS / name, *arguments], capture_output=True, timeout=60, check=False)
    return ran.returncode, ran.stdout


@pytest.mark.parametrize(
    ("command", "labels"),
    [
        ("check_dummy 0 fine", []),
        ("check_dummy 1 slow", []),
        ("check_dummy 2 broken", []),
        ("check_dummy 3 why", []),
        ("check_load -w 900,900,900 -c 900,900,900", ["load1", "load5", "load15"]),
        ("check_load -r -w 0 -c 0", ["load1", "scaled_load1", "load5", "scaled_load5", "load15", "scaled_load15"]),
        ("check_disk -w 1 -c 1 -p /", ["/"]),
        ("check_procs -w 1:90000 -c 1:90000", ["procs"]),
        ("check_procs -m CPU -w 9999 -c 9999", ["procs", "procs_warn", "procs_crit"]),
        ("check_users -w 900 -c 900", ["users"]),
        ("check_file_age -f /etc/passwd -w 1 -c 1", ["age", "size"]),
        ("check_cluster -s -d 0,0,1 -w @9: -c @9:", []),
        ("check_cluster -s -d 2,2 -w 0 -c 1", []),
    ],
)
def test_a_plugin_of_debian_says_the_status_it_exits_with_and_follows_the_grammar(
    command: str, labels: list[str]
) -> None:
    exit_code, stdout = run_plugin(command)
    said = read_text(stdout)
    assert (said.status, said.notes) == (Status(exit_code), ())
    perf = scan_perfdata(said.perfdata)
    assert [datum.label for datum in perf.data] == labels
    assert all(datum.value is not None for datum in perf.data)


def test_a_plugin_that_measures_time_gives_it_in_seconds(listener: str) -> None:
    exit_code, stdout = run_plugin(f"check_tcp -H 127.0.0.1 -p {listener} -w 30 -c 60")
    said = read_text(stdout)
    assert (exit_code, said.status, said.notes) == (0, Status.OK, ())
    (time,) = parse_perfdata(said.perfdata)
    assert (time.label, time.unit, time.minimum) == ("time", "s", 0.0)
    assert time.warn is not None
    assert (time.warn.low, time.warn.high) == (0.0, 30.0)


def test_a_plugin_without_a_status_word_has_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    exit_code, stdout = run_plugin(f"check_tcp -H 127.0.0.1 -p {port}")
    assert (exit_code, read_text(stdout).status) == (2, None)


SAME = {
    "one": b"OK - fine\n",
    "no_newline": b"OK - fine",
    "blanks": b"  OK   -  fine  \n",
    "perfdata": b"OK - fine|time=1s;2;3;0;9\n",
    "perfdata_spaced": b"OK - fine | a=1 b=2 \n",
    "several_bars": b"OK|a=1 'b | c'=2\n",
    "further": b"OK - fine\none\ntwo\n",
    "further_indented": b"OK - fine\n  one\n\n\ttwo  \nthree\n",
    "both": b"DISK OK - free|/=2643MB;5948;5958;0;5968\n/ 15272 MB\n/home 6 MB | /boot=68MB\n/home=69357MB\n",
    "second_only": b"OK\nmore | a=1\nb=2 c=3\n",
    "second_at_start": b"OK\n|a=1\n",
    "utf_8": "OK - größer ≥ 1 µs|größe=1µs\nmehr: ä\n".encode(),
    "not_utf_8": b"OK - caf\xe9 \xff\nmore \xfe\n",
    "control": b"OK - \x1b[31mred\x07\nmore \x1b[0m\n",
    "backslash": b"OK - C:\\temp\\new \\xff\nmore \\ \\n\n",
    "quotes": b"OK - it's \"fine\"|'it''s'=1\n",
}  # fmt: skip
DIFFERENT = {
    "bar_in_long_text": b"OK - x|a=1\nran: ps | grep probe\nmore\n",
    "blank_first": b"\n\nOK - late\n",
    "carriage_return": b"OK - fine\r\nmore\r\n",
    "nul": b"OK - \0 hidden\nmore\n",
}


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """Give what Nagios reads in all outputs of this module, in what plugins print, and in our own text."""
    need(missing_nagios())
    outputs = SAME | DIFFERENT | {"ours": render_nagios([OWN, CHILD]).encode()}
    return read_by_nagios(tmp_path_factory.mktemp("nagios"), outputs)


def as_ours(reading: Reading) -> PluginOutput:
    """Give what Nagios read as a value of ours."""
    summary, details, perfdata = (show_text(part.decode("utf-8", "surrogateescape")) for part in reading)
    perf = scan_perfdata(perfdata)
    return PluginOutput(" ".join(summary.split()), details.strip("\n"), perf.data, perf.text, perf.refused)


@pytest.mark.parametrize("name", SAME)
def test_nagios_reads_the_same(readings: dict[str, Reading], name: str) -> None:
    assert as_ours(readings[name]) == parse_plugin_output(SAME[name])


def test_where_we_differ_we_lose_less(readings: dict[str, Reading]) -> None:
    theirs = {name: as_ours(readings[name]) for name in DIFFERENT}
    ours = {name: parse_plugin_output(output) for name, output in DIFFERENT.items()}
    assert theirs["bar_in_long_text"].details == "ran: ps "
    assert ours["bar_in_long_text"].details == "ran: ps | grep probe\nmore"
    assert theirs["blank_first"].summary == "(No output returned from plugin)"
    assert ours["blank_first"].summary == "OK - late"
    assert (theirs["nul"].summary, ours["nul"].summary) == ("OK -", "OK - \\x00 hidden")
    assert ours["carriage_return"] == PluginOutput("OK - fine", "more")


def test_nagios_reads_what_we_write_as_we_meant_it(readings: dict[str, Reading]) -> None:
    theirs = as_ours(readings["ours"])
    assert theirs.summary == "WARNING - XROOT: put took 7 s"
    assert theirs.details == "org.pps.se.xroot.get: OK - fine\nput  7 s\nlog: a ¦ b\n\\x5cx1b[1m"
    assert (theirs.perftext, theirs.refused) == ("put=7s;5;10 'a ¦ b'=1", ())
