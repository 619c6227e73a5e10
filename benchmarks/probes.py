"""``probe-…``: what scheduled probes cost beside other schedulers, from the timetable to history and outbox."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from benchmarks.daemon import Agent
from benchmarks.measure import Claim, claim_at_most
from benchmarks.schedulers import (
    INTERVAL_S,
    METRICS,
    Load,
    Peer,
    compile_program,
    cpu_s,
    measure_floor,
    measure_nrpe,
    rss_mib,
    serve_icinga,
    serve_nagios,
)

_ROUNDS: Final = 3
_WINDOW_S: Final = 20.0
_NAGIOS: Final = "Nagios 4 as Debian configures it"
_GROWTH_RUNS: Final = 100_000
_GROWTH_INTERVAL_S: Final = 3


def measure_cpu() -> Iterator[Claim]:
    """Measure ``probe-cpu``: processor time of a scheduled check, the check's own included; medians of rounds."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        base = Path(scratch)
        check = compile_program("plugin", base)
        base.chmod(0o755)
        taken: dict[str, list[float]] = {}
        parts: dict[str, list[float]] = {}
        for number in range(_ROUNDS):
            with serve_nagios(base / f"nagios{number}", Load(check, INTERVAL_S)) as nagios:
                taken.setdefault("nagios", []).append(_peer_ms(nagios))
            with serve_icinga(base / f"icinga{number}", Load(check, INTERVAL_S)) as icinga:
                taken.setdefault("icinga", []).append(_peer_ms(icinga))
            agent = Agent(base / f"agent{number}", Load(check, INTERVAL_S))
            with agent.running():
                daemon, runner = _agent_ms(agent)
            taken.setdefault("agent", []).append(daemon + runner)
            parts.setdefault("daemon", []).append(daemon)
            own, child = measure_floor(base, check)
            parts.setdefault("bare C loop", []).append(own)
            parts.setdefault("the check", []).append(child)
            taken.setdefault("plain", []).append(measure_nrpe(base / f"plain{number}", check, tls=False))
            taken.setdefault("tls", []).append(measure_nrpe(base / f"tls{number}", check, tls=True))
        value = statistics.median(taken["agent"])
        shares = {name: statistics.median(times) for name, times in parts.items()}
        limits = {
            "nagios": (_NAGIOS, 1.0),
            "icinga": ("Icinga 2", 0.6),
            "plain": ("NRPE", 0.2),
            "tls": ("NRPE, TLS", 0.06),
        }
        for name, (peer, limit) in limits.items():
            peer_value = statistics.median(taken[name])
            yield claim_at_most(
                f"probe-cpu {name}", value, peer_value, unit="ms", peer=peer, limit=limit, physical=shares
            )


def _peer_ms(peer: Peer) -> float:
    peer.await_start(METRICS)
    pids = peer.pids
    before, count = cpu_s(pids), len(peer.starts_s())
    time.sleep(_WINDOW_S)
    after, more = cpu_s(pids), len(peer.starts_s())
    return (after - before) * 1e3 / (more - count)


def _agent_ms(agent: Agent) -> tuple[float, float]:
    """Give milliseconds a check of the daemon, and of the runner with the check itself."""
    agent.await_results(METRICS)
    pids = agent.pids
    before, count = [cpu_s([pid]) for pid in pids], agent.count()
    time.sleep(_WINDOW_S)
    after, more = [cpu_s([pid]) for pid in pids], agent.count()
    spent = [(late - early) * 1e3 / (more - count) for early, late in zip(before, after, strict=True)]
    return spent[0], sum(spent[1:])


def measure_burst() -> Iterator[Claim]:
    """Measure ``probe-burst``: as many metrics due at once; none is lost, and how late the latest hundredth starts."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        base = Path(scratch)
        check = compile_program("plugin", base)
        base.chmod(0o755)
        late: dict[str, list[float]] = {"agent": [], "nagios": []}
        lost = 0
        for number in range(_ROUNDS):
            with serve_nagios(base / f"nagios{number}", Load(check, 3600, at_once=True)) as nagios:
                nagios.await_start(METRICS)
                late["nagios"].append(_spread_s(nagios.starts_s()))
            agent = Agent(base / f"agent{number}", Load(check, 3600, at_once=True))
            with agent.running():
                agent.await_results(METRICS)
            rows = agent.query("SELECT probe, at, cause FROM probe_result")
            times = [datetime.fromisoformat(str(at)).timestamp() for _, at, _ in rows]
            late["agent"].append(_spread_s(times))
            lost += METRICS - len({probe for probe, _, cause in rows if cause == "verdict"})
        value, peer_value = statistics.median(late["agent"]), statistics.median(late["nagios"])
        yield Claim("probe-burst lost", lost, "runs", "none", 0, lost, "0", lost == 0)
        yield claim_at_most(
            "probe-burst lateness p99", value * 1e3, peer_value * 1e3, unit="ms", peer=_NAGIOS, limit=2.0
        )


def _spread_s(times: list[float]) -> float:
    ordered = sorted(times)
    return ordered[len(ordered) * 99 // 100] - ordered[0]


def measure_memory() -> Iterator[Claim]:
    """Measure ``probe-memory``: resident memory of daemon and runner; what it grows by over a hundred thousand runs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        base = Path(scratch)
        check = compile_program("plugin", base)
        base.chmod(0o755)
        agent = Agent(base / "agent", Load(check, INTERVAL_S))
        with agent.running():
            agent.await_results(10 * METRICS)
            sizes = [rss_mib([pid]) for pid in agent.pids]
        shares = dict(zip(("daemon", "runner"), sizes, strict=True))
        yield claim_at_most(
            *("probe-memory", sum(sizes), 60.0), unit="MiB", peer="the promise", limit=1.0, physical=shares
        )
        agent = Agent(base / "growing", Load(check, _GROWTH_INTERVAL_S))
        with agent.running():
            agent.await_results(10 * METRICS)
            first, count = rss_mib(agent.pids), agent.count()
            agent.await_results(count + _GROWTH_RUNS, within_s=20 * _GROWTH_RUNS / METRICS)
            grown, more = rss_mib(agent.pids) - first, agent.count() - count
        note = f"{more} runs"
        yield Claim(
            "probe-memory growth", round(grown, 2), "MiB", "none", 0, round(grown, 2), "<= 1", grown <= 1, {}, note
        )


def measure_reload() -> Iterator[Claim]:
    """Measure ``probe-reload``: processor time of a reload in which a tenth of the metrics goes or comes; none lost."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        base = Path(scratch)
        check = compile_program("plugin", base)
        base.chmod(0o755)
        agent = Agent(base / "agent", Load(check, 3600), splay_s=20)
        spent = []
        with agent.running():
            agent.await_results(METRICS)
            _await_quiet(agent)
            for number in range(2 * _ROUNDS):
                for touched in range(number, METRICS, 10):
                    agent.write_probe(touched)
                # A tenth goes, and comes again with the next reload.
                agent.configure("*" if number % 2 else "*[1-9]")
                before = cpu_s(agent.pids[:1])
                agent.reload()
                _await_quiet(agent)
                spent.append(cpu_s(agent.pids[:1]) - before)
        rows = agent.query("SELECT count(*), count(DISTINCT probe) FROM probe_result WHERE cause = 'verdict'")
        value = statistics.median(spent)
        yield claim_at_most("probe-reload", value, 0.3, unit="s CPU", peer="the promise", limit=1.0)
        doubled = int(str(rows[0][0])) - METRICS
        yield Claim("probe-reload lost or doubled", doubled, "runs", "none", 0, doubled, "0", doubled == 0)


def _await_quiet(agent: Agent) -> None:
    """Wait until the daemon has hardly used the processor for a second."""
    last = -1.0
    while (now := cpu_s(agent.pids[:1])) > last + 0.02:
        last = now
        time.sleep(1.0)
