"""What Prometheus gets of a running daemon: the newest of each metric, at a port and as a file."""

import http.client
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pps_agent.errors import SiteError
from pps_agent.probes.exporter import Exporter
from pps_agent.probes.exposition import AgentFigures
from pps_agent.probes.metrics_server import serve_metrics
from pps_agent.state import ProbeResult
from pps_wire.names import ProbeName
from pps_wire.report import Status

AT = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)
FIGURES = AgentFigures(version="0.1.0", site="EXAMPLE-SITE", group="default")


def result(name: str, status: Status = Status.OK) -> ProbeResult:
    return ProbeResult(ProbeName(name), None, status, "said", "", AT, 0.1)


def test_the_newest_result_of_each_metric_counts():
    exporter = Exporter()
    for status in (Status.OK, Status.CRITICAL):
        exporter.note(result("org.pps.a", status), 600)
    exporter.note(result("org.pps.b"), 600)
    text = exporter.render()
    assert 'pps_probe_status{metric="org.pps.a"} 2\n' in text
    assert f'pps_probe_fresh_until_timestamp_seconds{{metric="org.pps.b"}} {AT.timestamp() + 600}\n' in text


def test_metrics_that_are_no_longer_run_disappear():
    exporter = Exporter()
    exporter.note(result("org.pps.a"), 600)
    exporter.note(result("org.pps.b"), 600)
    exporter.forget_others([(ProbeName("org.pps.b"), None)])
    assert "org.pps.a" not in exporter.render()


def test_the_file_holds_what_the_port_serves(tmp_path: Path):
    exporter = Exporter()
    exporter.note(result("org.pps.a"), 600)
    exporter.note_figures(FIGURES)
    exporter.save(tmp_path / "pps.prom", 0.0)
    with serve_metrics(0, exporter.render) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/metrics")
        assert connection.getresponse().read().decode() == (tmp_path / "pps.prom").read_text()
        connection.close()
    assert "pps_agent_info" in exporter.render()


def test_a_file_that_cannot_be_written_is_the_administrators_and_the_port_goes_on(tmp_path: Path):
    exporter = Exporter()
    exporter.note_figures(FIGURES)
    with pytest.raises(SiteError):
        exporter.save(tmp_path / "none" / "pps.prom", 0.0)
    assert "pps_agent_info" in exporter.render()


def test_results_may_be_noted_while_others_read():
    exporter = Exporter()
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(exporter.render().count("pps_probe_status{"))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        exporter.note(result(f"org.pps.m{number}"), 600)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert exporter.render().count("pps_probe_status{") == 300


def test_the_file_is_written_a_few_times_a_minute_or_when_there_is_nothing_else_to_do(tmp_path: Path):
    exporter, file = Exporter(), tmp_path / "pps.prom"
    written = []
    for now_s, is_idle in ((0.0, False), (5.0, False), (6.0, True), (7.0, True), (10.0, False), (17.0, False)):
        if now_s != 7.0:
            exporter.note_figures(FIGURES)
        if exporter.is_due(now_s, is_idle=is_idle):
            exporter.save(file, now_s)
        written.append(file.exists())
        file.unlink(missing_ok=True)
    assert written == [True, False, True, False, False, True]
