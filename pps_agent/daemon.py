"""``pps-agent run``: APScheduler starts the rounds; signals end or reload them.

The only module that knows APScheduler, which is untyped. Its defaults drop late jobs silently;
here a late job runs once (``coalesce``), however late (``misfire_grace_time=None``), never twice at
a time (``max_instances=1``).
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.schedulers.background import BackgroundScheduler

from pps_agent.database import open_database
from pps_agent.errors import AgentError, ConfigError
from pps_agent.identity import load_identity
from pps_agent.log import Log
from pps_agent.outbox import Outbox
from pps_agent.reconcile import Site
from pps_agent.report import send_outbox
from pps_agent.settings import Settings
from pps_agent.settings_file import load_settings

_JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}


class Daemon:
    """Rounds and reports by the clock, over the settings as they are now."""

    def __init__(self, config: Path, settings: Settings, log: Log) -> None:
        self._config = config
        self._settings = settings
        self._log = log
        self._busy = threading.Lock()
        self._scheduler: Any = BackgroundScheduler(timezone=UTC, job_defaults=_JOB_DEFAULTS)
        # APScheduler would tell a skipped slot as a line of plain text among ours.
        logging.getLogger("apscheduler").addHandler(logging.NullHandler())
        self._scheduler.add_listener(self._note_skipped, EVENT_JOB_MAX_INSTANCES)

    def start(self) -> None:
        """Start the clock; the first round comes at once."""
        self._schedule(first_round=True)
        self._scheduler.start()
        self._log.info("daemon.started", site=self._settings.site.name, interval_s=self._settings.daemon.interval_s)

    def stop(self) -> None:
        """Let what is under way come to its end, then stop."""
        self._scheduler.shutdown(wait=True)
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
        self._log.info("settings.reloaded")

    def run_round(self) -> None:
        """Run one round. Whatever goes wrong ends this round, never the daemon."""
        try:
            with self._busy, contextlib.closing(Site(self._settings, self._config)) as site:
                site.run_round(self._log)
        except AgentError as exc:
            self._log.error("round.failed", error=str(exc))
        except Exception:  # noqa: BLE001 - the one place: a bug is logged whole and costs one round
            self._log.exception("round.crashed")

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
        identity = load_identity(settings)
        if identity is None or not settings.collector.url:
            return
        with contextlib.closing(open_database(settings.paths.state / "state.db")) as database:
            outbox = Outbox(database, identity.agent, identity.site)
            if outbox.waiting():
                sent = send_outbox(outbox, identity, settings.collector, datetime.now(UTC))
                self._log.info("report.sent", records=sent.acknowledged, wire_bytes=sent.wire_bytes)

    def _note_skipped(self, event: Any) -> None:
        """Make a slot visible whose predecessor was still running."""
        self._log.warning("slot.skipped", job=event.job_id, reason="the one before is still running")

    def _schedule(self, *, first_round: bool) -> None:
        settings = self._settings
        interval_s, report_s = settings.daemon.interval_s, settings.daemon.report_interval_s
        # Jitter, so that a thousand sites started by one announcement do not come together for ever.
        rounds = {"trigger": "interval", "seconds": interval_s, "jitter": max(1, interval_s // 10)}
        if first_round:
            rounds["next_run_time"] = datetime.now(UTC)
        self._scheduler.add_job(self.run_round, id="round", replace_existing=True, **rounds)
        self._scheduler.add_job(
            self.send_reports, "interval", seconds=report_s, id="report", replace_existing=True, jitter=1
        )


def run_daemon(config: Path, log: Log) -> int:
    """Run until SIGTERM or SIGINT; SIGHUP reloads. Raises: ConfigError when it cannot start."""
    daemon = Daemon(config, load_settings(config).settings, log)
    # Handlers and a queue, not blocked signals: children would inherit the mask and outlive a SIGTERM.
    arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: arrived.put(received))
    daemon.start()
    _notify("READY=1")
    while arrived.get() == signal.SIGHUP:
        _notify("RELOADING=1")
        daemon.reload()
        _notify("READY=1")
    _notify("STOPPING=1")
    daemon.stop()
    return 0


def _notify(state: str) -> None:
    """Tell systemd, when it is there to be told. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notifier.sendall(state.encode())
