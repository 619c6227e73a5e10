"""``pps-agent run`` and those who read its results: check_pps, Prometheus, other programs' files in the spool."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.site import Running, SmallSite

PATIENCE_S = 60


def wait_until(is_so: Callable[[], bool], running: Running) -> None:
    """Wait until something is so, while the daemon lives."""
    for _ in range(PATIENCE_S * 20):
        if is_so():
            return
        assert running.process.poll() is None
        threading.Event().wait(0.05)
    raise AssertionError("it never came about")


def read_metrics(port: int) -> str:
    """Give what the port serves; nothing while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except ConnectionError:
        return ""
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def check(site: SmallSite, metric: str) -> tuple[int, str]:
    program = Path(sys.executable).with_name("check_pps")
    command = [program, metric, "--file", str(site.base / "published" / "results.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_probes_and_spool_reach_check_pps_and_prometheus_and_a_reload_moves_the_port(site: SmallSite) -> None:
    directory, spool = site.base / "probes" / "disk", site.base / "spool"
    directory.mkdir(parents=True)
    spool.mkdir()
    (directory / "probe.toml").write_text(
        '[probe]\nname = "org.test.disk"\nversion = "1"\nsummary = "a test"\nwhere = "head"\ninterval_s = 1\n'
    )
    (directory / "run").write_text("#!/bin/sh\necho 'half full|used=50%'; exit 1\n")
    (directory / "run").chmod(0o755)
    (spool / "600_org.example.tape.json").write_text(json.dumps({"v": 1, "status": "CRITICAL", "summary": "no drive"}))
    first, second = free_port(), free_port()
    probes = {"publish": str(site.base / "published"), "enabled": ["org.test.*"], "spool": str(spool)}
    site.configure(paths={"probes": [str(site.base / "probes")]}, probes={**probes, "metrics_port": first})
    running = site.start("run")
    disk, tape = 'pps_probe_status{metric="org.test.disk"} 1\n', 'pps_probe_status{metric="org.example.tape"} 2\n'
    wait_until(lambda: disk in (text := read_metrics(first)) and tape in text, running)
    assert 'pps_probe_value{metric="org.test.disk",label="used",unit="%"} 50.0\n' in read_metrics(first)
    wait_until(lambda: check(site, "org.example.tape") == (2, "CRITICAL - no drive\n"), running)
    assert check(site, "org.test.disk") == (1, "WARNING - half full|used=50%\n")
    site.configure(probes={"metrics_port": second})
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: tape in read_metrics(second), running)
    assert read_metrics(first) == ""
    code, rest = running.stop()
    assert (code, "Traceback" in rest) == (0, False)
    assert read_metrics(second) == ""
    assert site.processes() == []
