"""What others get of a working prober: check_pps, Prometheus, and results that came by the spool."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pps_agent.check_pps import answer
from pps_agent.probes.exporter import Exporter
from tests.probes.conftest import WriteProbe
from tests.probes.test_prober import Bench, run_once, soon

METRIC = "org.example.tape"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    (tmp_path / "spool").mkdir()
    probes = replace(bench.settings.probes, spool=tmp_path / "spool", textfile=tmp_path / "pps.prom")
    bench.settings = replace(bench.settings, probes=probes)
    return bench


def leave(bench: Bench, text: str, name: str = f"3600_{METRIC}.nagios") -> None:
    file = bench.base / "spool" / name
    file.write_text(text)
    then = time.time() - 5
    os.utime(file, (then, then))


def ask(bench: Bench, metric: str, *arguments: str) -> tuple[int, str]:
    code, raw = answer([metric, "--file", str(bench.published / "results.jsonl"), *arguments])
    return code, raw.decode()


def work(bench: Bench, exporter: Exporter | None, *definitions: object) -> None:
    prober = bench.prober(*definitions)  # type: ignore[arg-type]
    prober._exporter = exporter
    run_once(prober)


def test_check_pps_reads_what_the_prober_published(bench: Bench, write_probe: WriteProbe) -> None:
    work(bench, None, write_probe("echo 'half full|used=50%;80;90'; echo \"more | 'ü'\"; exit 1", **soon()))
    assert ask(bench, "org.test.it") == (1, "WARNING - half full|used=50%;80;90\n")
    code, text = ask(bench, "org.test.it", "-vv")
    assert (code, text.splitlines()[1]) == (1, "more ¦ 'ü'")
    assert "attempt 1, hard, cause verdict" in text
    assert ask(bench, "org.test.it", "--max-age", "0")[0] == 3


def test_a_status_that_the_probe_says_itself_is_told_once(bench: Bench, write_probe: WriteProbe) -> None:
    work(bench, None, write_probe("echo 'CRL CRITICAL - no list|lists=0'; exit 2", **soon()))
    assert ask(bench, "org.test.it") == (2, "CRITICAL - CRL: no list|lists=0\n")


def test_a_result_from_the_spool_goes_where_the_agents_own_go(bench: Bench) -> None:
    leave(bench, "CRITICAL - no drive|drives=0\n")
    exporter = Exporter()
    work(bench, exporter)
    assert bench.rows() == [(METRIC, 2, "verdict", 1, 1, "CRITICAL - no drive")]
    assert [(body["probe"], body["status"], body["perfdata"]) for body in bench.reports()] == [(METRIC, 2, "drives=0")]
    assert ask(bench, METRIC) == (2, "CRITICAL - no drive|drives=0\n")
    assert f'pps_probe_status{{metric="{METRIC}"}} 2\n' in exporter.render()


def test_a_new_start_publishes_what_the_spool_still_holds_and_records_it_once(bench: Bench) -> None:
    leave(bench, "OK - 3 drives\n")
    work(bench, None)
    (bench.published / "results.jsonl").unlink()
    work(bench, None)
    assert ask(bench, METRIC) == (0, "OK - 3 drives\n")
    assert (len(bench.rows()), len(bench.reports())) == (1, 1)


def test_a_file_in_the_spool_does_not_speak_for_a_probe(bench: Bench, write_probe: WriteProbe) -> None:
    leave(bench, "OK - all is well\n", "3600_org.test.it.nagios")
    work(bench, None, write_probe("echo broken; exit 2", **soon()))
    assert [row[:2] for row in bench.rows()] == [("org.test.it", 2)]
    assert [event["event"] for event in bench.log] == ["spool.refused"]


def test_the_file_for_node_exporter_has_results_and_the_agents_figures(bench: Bench, write_probe: WriteProbe) -> None:
    work(bench, Exporter(), write_probe("echo 'fine|free=3GB'", **soon()))
    text = (bench.base / "pps.prom").read_text()
    assert 'pps_probe_status{metric="org.test.it"} 0\n' in text
    assert 'pps_probe_value{metric="org.test.it",label="free",unit="GB"} 3.0\n' in text
    assert "pps_agent_outbox_records 1\n" in text
    assert 'pps_agent_info{version="0.1.0",site="TEST-SITE",group="default"} 1\n' in text


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nothing(bench: Bench, write_probe: WriteProbe) -> None:
    probes = replace(bench.settings.probes, textfile=bench.base / "none" / "pps.prom")
    bench.settings = replace(bench.settings, probes=probes)
    work(bench, Exporter(), write_probe("echo fine", **soon()))
    assert ask(bench, "org.test.it")[0] == 0
    assert [event["event"] for event in bench.log] == ["results.unpublished"]
