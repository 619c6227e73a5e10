"""Runs probes by the timetable: asks what is due, has it run, judges, remembers, reports, publishes.

One thread at a time uses a prober, but for ``hand_over``, ``has_news`` and ``stop``.
"""

import os
import select
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pps_agent.errors import SiteError
from pps_agent.log import Log
from pps_agent.probes.agenda import Agenda, Job
from pps_agent.probes.attempts import advance
from pps_agent.probes.desk import Desk
from pps_agent.probes.dispatch import Dispatcher, Errand
from pps_agent.probes.exporter import Exporter
from pps_agent.probes.preparation import Preparation, is_plain, prepare, provision_of
from pps_agent.probes.running import OpenRun
from pps_agent.probes.slots import Instant, Key, Past
from pps_agent.probes.spool_watch import SpoolWatch
from pps_agent.probes.timetable import Due, Timetable
from pps_agent.probes.untested import missed, moment, skipped, untested
from pps_agent.results import past_of
from pps_agent.state import ProbeResult
from pps_wire.errors import WireError
from pps_wire.report import Cause

IDLE_S: Final = 1.0
"""What is due later than this is left to the daemon's clock."""
TOGETHER_S: Final = 0.05
"""Starts and answers within this time are worked at together: each waking costs more than the work itself."""
_LONGEST_WAIT_S: Final = 5.0
_ENDED: Final = "lost: the agent ended while it ran, or before its result was on disk"


def read_clocks() -> Instant:
    """Give the moment on both clocks; the steady one goes on while the machine sleeps."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class Prober:
    """The hands of the timetable. ``on_change`` is called when a release's hard state has become another one.

    ``exporter`` keeps the newest results for Prometheus.
    """

    def __init__(
        self, agenda: Agenda, log: Log, on_change: Callable[[], None], exporter: Exporter | None = None
    ) -> None:
        self._log, self._on_change, self._exporter = log, on_change, exporter
        self._spool = SpoolWatch(log)
        self._handed: Agenda | None = agenda
        self._agenda = agenda
        self._desk: Desk | None = None
        self._dispatcher = Dispatcher(agenda.settings.probes, agenda.settings.paths.state)
        self._timetable = Timetable(agenda.agent, running=1, heavy=1)
        self._plain: dict[Key, Preparation] = {}
        self._children: dict[Key, Past] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll, self._polled = select.poll(), -1
        self._poll.register(self._wake, select.POLLIN)
        self._stopping = self._has_changed = False

    # --- for other threads

    @property
    def has_news(self) -> bool:
        """Whether an agenda was handed over and not taken yet."""
        return self._handed is not None

    def hand_over(self, agenda: Agenda) -> None:
        """Have another agenda taken over, keeping history and runs under way."""
        self._handed = agenda
        self._rouse()

    def stop(self) -> None:
        """Have all runs ended, and ``run`` return."""
        self._stopping = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    # --- the loop

    def run(self) -> float | None:
        """Work until nothing is under way and nothing is due soon; give the seconds until something is.

        None: nothing ever will be, or all has been stopped. Raises: SiteError when state.db cannot be read.
        """
        if self._desk is None:
            self._desk = Desk(self._agenda.settings, self._log, self._exporter)
        while not self._stopping:
            now = read_clocks()
            self._take_over(now, self._desk)
            due_s = self._timetable.next_due()
            if due_s is not None and due_s <= now.steady_s:
                self._begin(self._timetable.take_due(now, TOGETHER_S / 2), now, self._desk)
            for errand, results in self._dispatcher.collect():
                self._end_run(errand, results, now, self._desk)
            self._take_spooled(now, self._desk)
            self._commit(now, self._desk)
            wait_s = self._find_wait(now, self._desk)
            is_idle = not self._dispatcher.errands and not self._desk.waiting and self._handed is None
            if is_idle and (wait_s is None or wait_s > IDLE_S):
                self._desk.snapshots.write(now, running=0, is_idle=True)
                return wait_s
            self._sleep(_LONGEST_WAIT_S if wait_s is None else min(wait_s, _LONGEST_WAIT_S))
        self._give_up(self._desk)
        return None

    def close(self) -> None:
        """End all runs without a word, and close everything."""
        self._dispatcher.close()
        if self._desk is not None:
            self._desk.close()
        wake, self._wake = self._wake, -1
        os.close(wake)

    def _find_wait(self, now: Instant, desk: Desk) -> float | None:
        dues = (self._timetable.next_due(), desk.due_s(), self._spool.due_s())
        times = [at_s for at_s in dues if at_s is not None]
        return max(0.0, min(times) - now.steady_s) if times else None

    def _sleep(self, wait_s: float) -> None:
        """Wait for another thread's word, for the time to come, and for answers if another run waits for its place."""
        runner = self._dispatcher.fileno() if self._timetable.places.waiting else -1
        if runner != self._polled:
            if self._polled >= 0:
                self._poll.unregister(self._polled)
            if runner >= 0:
                self._poll.register(runner, select.POLLIN)
            self._polled = runner
        if self._dispatcher.errands and runner < 0:
            wait_s = min(wait_s, TOGETHER_S)
        for descriptor, _ in self._poll.poll(wait_s * 1000):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)

    # --- agenda

    def _take_over(self, now: Instant, desk: Desk) -> None:
        """Go on by the agenda that was handed over, if one was."""
        agenda, self._handed = self._handed, None
        if agenda is None:
            return
        settings, before = agenda.settings, self._agenda.settings
        self._agenda = agenda
        if settings.probes != before.probes:  # perhaps another runner: the runs of this one come to no end
            self._lose(self._dispatcher.close(), "the settings of the runner were changed while it ran", now, desk)
            self._dispatcher = Dispatcher(settings.probes, settings.paths.state)
        is_first = not desk.is_in_use
        newest = desk.take_over(agenda)
        counted = ((key, desk.find_counted(key, seen)) for key, seen in newest.items())
        history = {key: past_of(seen) for key, seen in counted if seen is not None}
        self._timetable.places.limit(running=settings.probes.running, heavy=settings.probes.heavy)
        circles = self._timetable.merge((job.entry for job in agenda.jobs.values()), history, now)
        for way in circles.values():
            reason = f"{' depends on '.join(step.metric for step in way)}: correct depends_on of one of them"
            self._log.warning("probe.refused", reason=reason)
        self._plain = {
            key: prepare(job.definition, agenda.environments[key.release], provision_of(settings))
            for key, job in agenda.jobs.items()
            if is_plain(job.definition)
        }
        self._spool.take_over(agenda, desk.results)
        if is_first:
            self._recover(now, desk)

    def _recover(self, now: Instant, desk: Desk) -> None:
        """Tell of the runs that an earlier daemon left open, and have them run again."""
        for run in desk.find_left_open():
            result = untested(run.key, Cause.LOST, _ENDED, moment(run.started_s))
            before = desk.results.newest_counted(*run.key)
            if before is not None:
                result = replace(result, attempt=before.attempt, hard=before.hard)
            desk.add(result, self._profile(run.key), now)
            self._timetable.ask(run.key, now)

    # --- runs

    def _begin(self, due: Due, now: Instant, desk: Desk) -> None:
        at = moment(now.wall_s)
        for miss in due.misses:
            desk.snapshots.misfires += miss.slots
            result = missed(miss.key, miss.slots, miss.reason, at)
            desk.add(replace(result, attempt=miss.attempt, hard=miss.hard), self._profile(miss.key), now)
        for skip in due.skips:
            result = skipped(skip.key, skip.parent, at)
            desk.add(replace(result, attempt=skip.attempt, hard=skip.hard), self._profile(skip.key), now)
        for start in due.starts:
            desk.snapshots.note_lag(start.late_s)
            self._launch(start.key, now, desk)
        desk.note_starts(OpenRun(start.key, now.wall_s) for start in due.starts)

    def _launch(self, key: Key, now: Instant, desk: Desk) -> None:
        """Ask for one run; where that is not possible its result is known at once."""
        job, at = self._agenda.jobs[key], moment(now.wall_s)
        env = self._agenda.environments[key.release]
        preparation = self._plain.get(key) or prepare(job.definition, env, provision_of(self._agenda.settings))
        mark = "" if key.release is None else desk.mark_of(key.release)
        try:
            if reason := self._agenda.find_change(key):
                cause = Cause.FAULT
            elif reason := preparation.reason:
                cause = Cause.REQUIREMENT
            else:
                self._dispatcher.send(job, env, preparation, now, mark)
                return
        except SiteError as exc:
            cause, reason = Cause.LOST, str(exc)
        except WireError as exc:
            cause, reason = Cause.FAULT, f"it cannot be asked for: {exc.problem}"
        result = untested(key, cause, reason, at, digest=job.definition.digest)
        self._settle(result, job, mark, now, desk)

    def _end_run(self, errand: Errand, results: tuple[ProbeResult, ...], now: Instant, desk: Desk) -> None:
        own, *others = results
        self._settle(own, errand.job, errand.mark, now, desk)
        for result in others:
            desk.add(self._count_child(result, errand, desk), errand.job.entry.profile, now, errand.mark)

    def _settle(self, result: ProbeResult, job: Job, mark: str, now: Instant, desk: Desk) -> None:
        settled = self._timetable.settle(job.key, result.status, result.cause, now)
        self._has_changed = self._has_changed or (settled.is_change and job.key.release is not None)
        if (settled.attempt, settled.hard) != (1, True):
            result = replace(result, attempt=settled.attempt, hard=settled.hard)
        desk.add(result, job.entry.profile, now, mark)

    def _count_child(self, result: ProbeResult, errand: Errand, desk: Desk) -> ProbeResult:
        """Give a further metric's result with its attempt and state; it shares the attempts of its probe."""
        key, entry = Key(result.probe, result.release), errand.job.entry
        before = self._children.get(key)
        if before is None and (seen := desk.results.newest_counted(*key)) is not None:
            before = past_of(seen)
        previous = before if before is not None and before.profile == entry.profile else None
        attempt, hard = advance(previous, entry.max_attempts, result.status, result.cause)
        self._children[key] = Past(errand.started.wall_s, result.status, attempt, hard, entry.profile)
        is_change = hard and (previous is None or previous.status is not result.status)
        self._has_changed = self._has_changed or (is_change and key.release is not None)
        return replace(result, attempt=attempt, hard=hard)

    def _take_spooled(self, now: Instant, desk: Desk) -> None:
        """Take what other programs left."""
        for spooled in self._spool.look(now):
            result = spooled.result
            fresh_s = (spooled.fresh_until - result.started_at).total_seconds()
            desk.snapshots.expect(Key(result.probe, result.release), int(fresh_s))
            if spooled.is_known:
                desk.snapshots.note((result,))
            else:
                desk.add(result, "", now)

    def _lose(self, errands: list[Errand], reason: str, now: Instant, desk: Desk) -> None:
        for errand in errands:
            at, digest = moment(errand.started.wall_s), errand.job.definition.digest
            result = untested(errand.key, Cause.LOST, f"lost: {reason}", at, digest=digest)
            self._settle(result, errand.job, errand.mark, now, desk)

    def _give_up(self, desk: Desk) -> None:
        """End all runs, put on disk what is known of them, and publish it."""
        now = read_clocks()
        self._lose(self._dispatcher.close(), "the agent was stopped while it ran", now, desk)
        self._commit(now, desk, at_once=True)
        desk.snapshots.write(now, running=0, is_idle=True)  # nothing comes after it that would bring the last results

    def _commit(self, now: Instant, desk: Desk, *, at_once: bool = False) -> None:
        """Put results on disk when it is time, and tell those who wait for them."""
        errands = self._dispatcher.errands.values()
        open_runs = (OpenRun(errand.key, errand.started.wall_s) for errand in errands)
        if (
            desk.commit(now, open_runs, at_once=at_once or self._has_changed or self._is_quiet(now))
            and self._has_changed
        ):
            self._has_changed = False
            self._on_change()
        desk.snapshots.write(now, running=len(errands))

    def _is_quiet(self, now: Instant) -> bool:
        """Tell whether no result is to come within the time that a group would wait for it."""
        due_s = self._timetable.next_due()
        return not self._dispatcher.errands and (due_s is None or due_s > now.steady_s + IDLE_S)

    def _profile(self, key: Key) -> str:
        job = self._agenda.jobs.get(key)
        return "" if job is None else job.entry.profile
