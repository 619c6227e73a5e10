"""``pps-agent run``: APScheduler starts the rounds; signals end or reload them.

The only module that knows APScheduler, which is untyped. Its defaults drop late jobs silently;
here a late job runs once (``coalesce``), however late (``misfire_grace_time=None``), never twice at
a time (``max_instances=1``).
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from pps_agent.database import open_database
from pps_agent.errors import AgentError, ConfigError, SiteError
from pps_agent.footprint import share_one_heap
from pps_agent.history import History
from pps_agent.identity import load_identity
from pps_agent.jobs import Expected, Jobs
from pps_agent.listener import RequestListener
from pps_agent.log import Log
from pps_agent.news import News, untag_condemned, untag_news
from pps_agent.outbox import Outbox
from pps_agent.policy import find_news
from pps_agent.probe_work import LONGEST_PAUSE_S, ProbeWork
from pps_agent.propagation import PropagationWatch
from pps_agent.reconcile import run_round
from pps_agent.round import Scope
from pps_agent.settings import DaemonSettings, Settings
from pps_agent.settings_file import load_settings
from pps_agent.signals import await_signal, notify, receive_signals
from pps_agent.site import Site
from pps_agent.tags.areas import find_areas

_JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
_PROBES: Final = {"executor": "probes", "max_instances": 2, "seconds": LONGEST_PAUSE_S}
_LOOK_AT_CLOCK_S: Final = 30.0
_JUMP_S: Final = 1.0


class _Threads(BasePoolExecutor):  # type: ignore[misc]
    """Threads for jobs, which can be waited for without the scheduler's locks: jobs take those themselves."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count)
        super().__init__(self._threads)

    def join(self) -> None:
        """Wait until all jobs have come to their end."""
        self._threads.shutdown(wait=True)


class Daemon:
    """Rounds and reports by the clock, over the settings as they are now."""

    def __init__(self, config: Path, settings: Settings, log: Log) -> None:
        self._config = config
        self._settings = settings
        self._log = log
        self._busy = threading.Lock()
        self._under_way = threading.Event()
        self._news: News | None = None
        self._probes = ProbeWork(log, self._follow_change)
        self._listener = RequestListener(config, log, self._follow_request)
        self._propagation = PropagationWatch(config, log, self._note_propagation)
        self._again = False
        self._offset_s = _offset_s()
        # Probes have a thread of their own: a second start waits there for the end of the first, so that none is lost.
        self._threads = {"default": _Threads(10), "probes": _Threads(1)}
        self._scheduler: Any = BackgroundScheduler(timezone=UTC, job_defaults=_JOB_DEFAULTS, executors=self._threads)
        # APScheduler would tell a skipped slot as a line of plain text among ours.
        logging.getLogger("apscheduler").addHandler(logging.NullHandler())
        self._scheduler.add_listener(self._note_skipped, EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Start the clock; the first round comes at once."""
        self._schedule(first_round=True)
        self._scheduler.start()
        self._listener.follow(self._settings)
        self._log.info("daemon.started", site=self._settings.site.name, interval_s=self._settings.daemon.interval_s)

    def stop(self) -> None:
        """End the probes, let what else is under way come to its end, then stop; jobs on nodes are cancelled."""
        self._listener.stop()
        self._propagation.stop()
        self._under_way.set()
        self._probes.stop()
        self._scheduler.shutdown(wait=False)
        for threads in self._threads.values():
            threads.join()
        self._probes.close()
        self._log.info("daemon.stopped")

    def reload(self) -> None:
        """Read the settings anew; faulty ones are refused and the present ones stay."""
        try:
            settings = load_settings(self._config).settings
        except ConfigError as exc:
            self._log.error("settings.refused", faults=list(exc.faults))
            return
        self._settings = settings
        self._schedule(first_round=False)
        self._listener.follow(settings)
        self._log.info("settings.reloaded")

    def follow_clock(self) -> None:
        """Look at the clock: jobs are due by time of day, and must not wait an hour because it was set back by one."""
        offset_s = _offset_s()
        jump_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(jump_s) > _JUMP_S:
            self._log.warning("clock.jumped", jump_s=round(jump_s, 1))
            for job in self._scheduler.get_jobs():
                job.modify(next_run_time=job.next_run_time + timedelta(seconds=jump_s))
        self._scheduler.wakeup()

    def run_round(self) -> None:
        """Run one round. Whatever goes wrong ends this round, never the daemon."""
        self._attempt("round", self._run_round)
        if self._again:
            self._again = False
            self._hasten("round")

    def run_probes(self) -> None:
        """Run the probes that are due, then see to it that the next ones are run in time."""
        wait_s = LONGEST_PAUSE_S

        def work() -> None:
            nonlocal wait_s
            wait_s = self._probes.run()

        self._attempt("probes", work)
        self._hasten("probes", wait_s)
        if self._probes.has_news:  # since a moment ago
            self._hasten("probes")

    def gather_probes(self) -> None:
        """Look up anew what probes run by themselves."""
        try:
            with contextlib.closing(Site(self._settings, self._config)) as site:
                self._probes.gather(site)
        except AgentError as exc:
            self._log.error("probes.failed", error=str(exc))
            return
        self._hasten("probes")

    def untag_condemned(self) -> None:
        """Untag beside a round under way, which may be installing for hours, what the newest verdicts condemn."""
        try:
            with contextlib.closing(Site(self._settings, self._config)) as site:
                self._follow_untagging(site, untag_condemned(site, self._log))
        except AgentError as exc:
            self._log.warning("news.missed", error=str(exc))

    def _run_round(self) -> None:
        with self._busy, contextlib.closing(Site(self._settings, self._config)) as site:
            self._under_way = site.stopping
            seen = run_round(site, self._log, Scope(waits=False))
            self._follow_tags(site, seen.expected)
            now = datetime.now(UTC)
            self._news = find_news(seen.offered, self._settings.repository.trust_grace_s, now) or self._news
            self._probes.note_round(seen, now)
            self._probes.gather(site)
        self._hasten("probes")

    def _attempt(self, job: str, work: Callable[[], None]) -> None:
        """Do a job's work. Whatever goes wrong costs this time, never the daemon."""
        try:
            work()
        except AgentError as exc:
            self._log.error("round.failed", error=str(exc))
        except Exception:  # noqa: BLE001 - the one place: a bug is logged whole
            if job == "round":
                self._log.exception("round.crashed")
            else:
                self._log.exception("probes.crashed")
                self._probes.close()

    def _follow_change(self) -> None:
        """Have a release's new state acted on at once."""
        if self._busy.locked():
            self._again = True
            self._scheduler.add_job(self.untag_condemned, id="untag", replace_existing=True)
        else:
            self._hasten("round")

    def _follow_request(self) -> None:
        """Have the result of a probe that was asked for seen by the prober, and by a round where it is news."""
        self._scheduler.add_job(self.gather_probes, id="gather", replace_existing=True)
        self._hasten("round")

    def _hasten(self, job: str, wait_s: float = 0.0) -> None:
        """Have a job run after this time."""
        with contextlib.suppress(JobLookupError):
            self._scheduler.modify_job(job, next_run_time=datetime.now(UTC) + timedelta(seconds=wait_s))

    def look_for_news(self) -> None:
        """Ask the repository for news between rounds: untag at once what they call for, and start a round for the rest.

        A round under way is not waited for: it may be installing for hours, and saw older metadata.
        """
        try:
            with contextlib.closing(Site(self._settings, self._config)) as site:
                news, expected = untag_news(site, self._news, self._log)
                self._follow_untagging(site, expected)
        except AgentError as exc:
            self._log.warning("news.missed", error=str(exc))
            return
        if news == self._news:
            return
        self._news = news
        self._log.info("news.seen")
        if not self._busy.locked():
            self._hasten("round")

    def keep_ldif(self) -> None:
        """Bring the files that BDIIs read by themselves up to date: somebody may have changed tags by hand."""
        try:
            problems = Jobs(self._config).keep_ldif()
        except AgentError as exc:
            problems = (str(exc),)
        for problem in problems:
            self._log.warning("ldif.old", reason=problem)

    def _follow_untagging(self, site: Site, expected: Expected) -> None:
        """Have what was untagged between rounds leave the files of BDIIs at once too."""
        if expected.absent:
            self._hasten("ldif")
            self._follow_tags(site, expected)

    def _follow_tags(self, site: Site, expected: Expected | None) -> None:
        """Have it measured how long a change of tags takes to be shown."""
        if site.is_published() and expected is not None and (expected.present or expected.absent):
            self._propagation.follow(expected)

    def _note_propagation(self, delay_s: float) -> None:
        paths = self._settings.paths
        try:
            with contextlib.closing(open_database(paths.state / "state.db", paths.journal)) as database:
                History(database).note_propagation(delay_s, datetime.now(UTC))
        except SiteError as exc:
            self._log.warning("tags.shown", error=str(exc))

    def send_reports(self) -> None:
        """Try to empty the outbox between rounds; a round under way does it at its end."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._send()
        except AgentError as exc:
            self._log.warning("report.delayed", error=str(exc))
        finally:
            self._busy.release()

    def _send(self) -> None:
        settings = self._settings
        if load_identity(settings) is None or not settings.collector.url:
            return
        with contextlib.closing(open_database(settings.paths.state / "state.db", settings.paths.journal)) as database:
            if not Outbox(database, "", settings.site.name).waiting():
                return
        sent = Jobs(self._config).report()
        self._log.info("report.sent", records=sent.acknowledged, wire_bytes=sent.wire_bytes)

    def _note_skipped(self, event: Any) -> None:
        """Make a slot visible whose predecessor was still running. Probes see to themselves."""
        if event.job_id != "probes":
            self._log.warning("slot.skipped", job=event.job_id, reason="the one before is still running")

    def _schedule(self, *, first_round: bool) -> None:
        rhythm = find_rhythm(self._settings.daemon)
        if any(area.ldif for area in find_areas(self._settings)) and self._settings.policy.mode != "observe":
            rhythm["ldif"] = _every(self._settings.daemon.refresh_interval_s)
        works = {
            "round": self.run_round,
            "news": self.look_for_news,
            "report": self.send_reports,
            "ldif": self.keep_ldif,
        }
        for name, work in works.items():
            if name in rhythm:
                first = {"next_run_time": datetime.now(UTC)} if name == "round" and first_round else {}
                self._scheduler.add_job(work, "interval", id=name, replace_existing=True, **rhythm[name], **first)
            elif self._scheduler.get_job(name) is not None:
                self._scheduler.remove_job(name)
        if self._scheduler.get_job("probes") is None:
            self._scheduler.add_job(self.run_probes, "interval", id="probes", **_PROBES)
        self._scheduler.add_job(self.gather_probes, id="gather", replace_existing=True)


def find_rhythm(daemon: DaemonSettings) -> dict[str, Mapping[str, int]]:
    """Give each job's interval and jitter, in seconds, as APScheduler's interval trigger takes them.

    Jitter, so that a thousand sites started by one announcement do not come together for ever. Rounds that are
    at least as frequent as looks for news make those needless.
    """
    rhythm = {"round": _every(daemon.interval_s), "report": {"seconds": daemon.report_interval_s, "jitter": 1}}
    if daemon.refresh_interval_s < daemon.interval_s:
        rhythm["news"] = _every(daemon.refresh_interval_s)
    return rhythm


def _every(interval_s: int) -> Mapping[str, int]:
    return {"seconds": interval_s, "jitter": max(1, interval_s // 10)}


def run_daemon(config: Path, log: Log) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reloads. Raises: ConfigError when it cannot start."""
    share_one_heap()
    daemon = Daemon(config, load_settings(config).settings, log)
    arrived = receive_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    daemon.start()
    notify("READY=1")
    while (number := await_signal(arrived, _LOOK_AT_CLOCK_S)) is None or number == signal.SIGHUP:
        if number is None:
            daemon.follow_clock()
            continue
        notify("RELOADING=1")
        daemon.reload()
        notify("READY=1")
    notify("STOPPING=1")
    daemon.stop()
    return 0


def _offset_s() -> float:
    """Give by how much the wall clock is ahead of the steady one, which goes on while the machine sleeps."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
