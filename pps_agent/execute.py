"""Carries out one decided action. Expected errors become failed outcomes; bugs keep flying."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

from pps_agent.environment.compose import compose
from pps_agent.environment.save import load_variables, write_environment
from pps_agent.environment.values import Captured
from pps_agent.errors import EXIT_OK, AgentError, SiteError, exit_code_of
from pps_agent.history import History
from pps_agent.jobs import Jobs
from pps_agent.node_probing import NodeProbing
from pps_agent.probes.carried import load_carried
from pps_agent.probes.catalogue import Catalogue, load_catalogue
from pps_agent.probes.client import RunnerClient, connect_runner, start_runner
from pps_agent.probes.definition import DAY_S, ProbeDefinition, Where
from pps_agent.probes.executors.local import LocalExecutor
from pps_agent.probes.executors.values import NodeTask
from pps_agent.probes.parse import MAX_SUMMARY_CHARS, clean_line
from pps_agent.probes.preparation import provision_of, shared_environment
from pps_agent.probes.protocol import RunResponse
from pps_agent.probes.quorum import Combined, combine
from pps_agent.probes.slots import Key
from pps_agent.probes.untested import skipped
from pps_agent.settings import Settings
from pps_agent.state import (
    Action,
    AddTags,
    Compose,
    Drain,
    Install,
    Installed,
    Offer,
    Outcome,
    Probe,
    ProbeResult,
    ReleaseSet,
    Remove,
    RemoveTags,
    Switch,
    Undrain,
    Unknown,
)
from pps_agent.store import Store
from pps_agent.tags.areas import SiteTags
from pps_agent.tags.change import Request
from pps_agent.tags.errors import TagError
from pps_agent.tags.life import Life, TagState
from pps_wire.errors import WireError
from pps_wire.names import ProbeName, ReleaseId
from pps_wire.report import Cause, Status

Facts = Mapping[str, object]
Done = tuple[Facts, tuple[ProbeResult, ...]]


class Executor:
    """The hands of one round: holds the runner open from the first probe to ``close``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        tags: SiteTags,
        history: History,
        jobs: Jobs,
        captured: Captured | Unknown,
        offered: ReleaseSet | Unknown,
        stopping: threading.Event | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tags = tags
        self._history = history
        self._jobs = jobs
        self._captured = captured
        self._offered = offered
        self._resources = contextlib.ExitStack()
        self._nodes = NodeProbing(settings, stopping or threading.Event())
        self._resources.callback(self._nodes.close)
        self._runner: RunnerClient | None = None
        self._carried: dict[ReleaseId, Catalogue] = {}
        probes = settings.probes
        # What holds until a runner was met; then what it says.
        self.single_user = probes.socket is None and not (probes.user and os.geteuid() == 0)

    def begin(self, actions: Iterable[Action]) -> None:
        """Hand in the node probes of these actions together, so that no release waits for another's jobs.

        What keeps one of them from beginning is told when that one is executed.
        """
        for action in () if self._nodes.is_local else actions:
            if isinstance(action, Probe):
                with contextlib.suppress(AgentError, WireError, OSError):
                    known, _ = self._find_probes(self._split(action, datetime.now(UTC))[0], action.release)
                    version = self._find_installed(action.release).release.version
                    environment = self.probe_environment(action.release, version)
                    self._nodes.begin([d for d in known.values() if d.where is Where.NODE], action.release, environment)

    def node_task(self, release: ReleaseId) -> NodeTask:
        """Give the task that a release's node probes are, for whoever wants to see it. Raises: SiteError."""
        description = self._find_installed(release).release
        known, _ = self._find_probes(description.probes, release)
        environment = self.probe_environment(release, description.version)
        return self._nodes.prepare([d for d in known.values() if d.where is Where.NODE], release, environment).task

    def execute(self, action: Action) -> Outcome:
        """Perform one action and tell what came of it. Raises nothing that is expected to go wrong."""
        return _attempt(
            action, lambda at: self._probe(action, at) if isinstance(action, Probe) else self._do(action, at)
        )

    def close(self) -> None:
        """Stop the runner, if one was started."""
        self._resources.close()

    def _do(self, action: Action, at: datetime) -> Done:
        return self._perform(action, at), ()

    def _perform(self, action: Action, at: datetime) -> Facts:
        match action:
            case Install(release):
                # First forgotten: killed in between, an old pass must not speak for the new tree.
                self._history.forget_results(release)
                return self._jobs.install(self._find_offer(release))
            case Compose(release):
                return self._compose(release)
            case Switch(component, release):
                return {"generation": self._store.switch(component, release)}
            case AddTags():
                # First remembered: whatever happens then, the list is known as one to clear one day.
                self._history.note_served([(action.subcluster, vo) for vo, _ in action.tags])
                return self._announce(action)
            case RemoveTags():
                return remove_tags(self._tags, action)
            case Drain(release):
                self._history.start_drain(release, at)
            case Undrain(release):
                self._history.end_drain(release)
            case Remove(release):
                self._store.remove(release)
                self._history.forget_results(release)
                self._history.end_drain(release)
            case Probe():
                raise AssertionError("probes give results, not facts")
        return {}

    def _compose(self, release: ReleaseId) -> Facts:
        if isinstance(self._captured, Unknown):
            raise SiteError(f"the site's profile cannot be read: {self._captured.reason}")
        installed = self._find_installed(release)
        composed = compose(self._captured, installed.release.environment, self._store.tree(release))
        write_environment(self._store.path(release), composed, self._captured.fingerprint)
        return {"inherited": len(self._captured.variables)}

    def _find_offer(self, release: ReleaseId) -> Offer:
        if isinstance(self._offered, Unknown):
            raise SiteError(f"{release} cannot be installed: {self._offered.reason}")
        return next(offer for offer in self._offered.offers if offer.release.id == release)

    def _find_installed(self, release: ReleaseId) -> Installed:
        installed = self._store.look(release)
        if installed is None:
            raise SiteError(f"{release} vanished from the store meanwhile; the next round installs it again")
        return installed

    def _announce(self, action: AddTags) -> Facts:
        expires_at = self._find_installed(action.release).release.expires_at
        life = Life(TagState.VERIFIED, action.release, expires_at.timestamp() if expires_at else None)
        request = Request(reason=f"all probes of {action.release} pass", person=False)
        for vo, tag in action.tags:
            self._tags.add(vo, tag, action.subcluster, life=life, request=request)
        return {"tags": len(action.tags)}

    def _probe(self, action: Probe, at: datetime) -> Done:
        installed = self._find_installed(action.release)
        self._note_digests(action.probes)
        environment = self.probe_environment(action.release, installed.release.version)
        known, find = self._history.recorded, self.catalogue(action.release).find
        due, held_up = self._split(action, at)
        ran = self.run_probes(due, action.release, environment)
        untested = [skipped(Key(name, action.release), parent, at) for name, parent in held_up.items()]
        results = tuple(
            result if result.host else known.count(result, installed.profile, find) for result in (*ran, *untested)
        )
        for result in sorted(results, key=lambda result: not result.host):  # what they amount to comes last
            self._history.add_result(result, installed.profile)
        return {}, results

    def _split(self, action: Probe, at: datetime) -> tuple[tuple[ProbeName, ...], Mapping[ProbeName, Key]]:
        """Give the probes that may run, and by what each of the others is held up."""
        find = self.catalogue(action.release).find
        held_up = self._history.recorded.find_held_up(action.probes, action.release, find, at)
        return tuple(name for name in action.probes if name not in held_up), held_up

    def run_probes(
        self,
        names: tuple[ProbeName, ...],
        release: ReleaseId | None,
        environment: Mapping[str, str],
        *,
        within_s: int = DAY_S,
    ) -> tuple[ProbeResult, ...]:
        """Run probes, each where it belongs, and give their verdicts; one that is not installed is UNKNOWN.

        None lasts longer than ``within_s``, whatever its own limit. A result bears the name it was asked for by,
        which may be the probe's alias. After those of the probes come the results of further metrics that they
        reported, then what single nodes said (with ``host``).
        """
        known, refused = self._find_probes(names, release, within_s)
        remote = {} if self._nodes.is_local else {n: d for n, d in known.items() if d.where is Where.NODE}
        here = {name: definition for name, definition in known.items() if name not in remote}
        seen = [self._run_here(tuple(here.values()), release, environment)]
        if remote:
            seen.append(self._nodes.run(tuple(remote.values()), release, environment))
        asked = zip((*here, *remote), [result for part in seen for result in part.own], strict=True)
        results = {name: replace(result, probe=name) for name, result in asked}
        results |= {name: _refused(name, release, reason) for name, reason in refused.items()}
        further = [result for part in seen for result in part.further]
        return (*(results[name] for name in dict.fromkeys(names)), *further, *(r for p in seen for r in p.by_node))

    def _run_here(
        self, definitions: tuple[ProbeDefinition, ...], release: ReleaseId | None, environment: Mapping[str, str]
    ) -> Combined:
        """Run probes side by side on this machine, contained."""
        if not definitions:
            return Combined(())
        limit_s = self._settings.probes.timeout_s
        task = NodeTask(release=release, definitions=definitions, files={}, env=environment, max_timeout_s=limit_s)
        answers = LocalExecutor(self._open_runner, provision_of(self._settings)).run(task)
        return combine(definitions, release, answers, 1, datetime.now(UTC))

    def _find_probes(
        self, names: tuple[ProbeName, ...], release: ReleaseId | None, within_s: int = DAY_S
    ) -> tuple[dict[ProbeName, ProbeDefinition], dict[ProbeName, str]]:
        """Give the probes of these names that may run, and of each other one why it may not."""
        catalogue = self.catalogue(release)
        known: dict[ProbeName, ProbeDefinition] = {}
        refused: dict[ProbeName, str] = {}
        for name in names:
            definition = catalogue.find(name)
            if definition is None or (change := catalogue.find_change(definition)):
                refused[name] = change if definition is not None else catalogue.why_not(name)
            else:
                known[name] = replace(definition, timeout_s=max(1, min(definition.timeout_s, within_s)))
        return known, refused

    def run_command(self, argv: tuple[str, ...], env: Mapping[str, str], timeout_s: float) -> RunResponse | str:
        """Run one command, contained as a probe is; a reason instead of an answer where none comes.

        Raises: SiteError when the settings name another user for such things and it would be the agent's own.
        """
        runner = self._open_runner()
        probes = self._settings.probes
        names_another = probes.socket is not None or (bool(probes.user) and os.geteuid() == 0)
        if names_another and runner.runner_uid in (os.geteuid(), self._settings.paths.state.stat().st_uid):
            raise SiteError(
                f"the runner has the agent's own uid {runner.runner_uid}: give it another account,"
                " see probes.user and pps-agent-runner.service"
            )
        return runner.run_command(argv, env, min(timeout_s, float(probes.timeout_s)))

    def probe_environment(self, release: ReleaseId, version: str) -> dict[str, str]:
        """Give the environment a release's probes run in: the composed one and the site's probe settings."""
        return shared_environment(self._settings, load_variables(self._store.path(release)), version)

    def catalogue(self, release: ReleaseId | None = None) -> Catalogue:
        """Give the installed probes, and with a release those that it carries; read once. Raises: SiteError."""
        if release is None:
            return self._installed_probes
        if release not in self._carried:
            self._carried[release] = self._installed_probes.merge(load_carried(self._store, release))
        return self._carried[release]

    def probe_faults(self) -> tuple[str, ...]:
        """Give what is wrong with probes of the catalogues that were read; each once."""
        loaded = [*self._carried.values()] or ([self._installed_probes] if "_installed_probes" in vars(self) else [])
        return tuple(dict.fromkeys(fault for catalogue in loaded for fault in catalogue.all_faults()))

    @cached_property
    def _installed_probes(self) -> Catalogue:
        return load_catalogue(self._settings.paths.probes, approved=self._history.approvals())

    def _note_digests(self, names: tuple[ProbeName, ...]) -> None:
        """Put the digests of site probes on record before the agent first runs them: a later change is refused."""
        catalogue = self._installed_probes
        found = (catalogue.find(name) for name in names)
        if new := [probe for probe in found if probe is not None and probe.name in catalogue.unrecorded]:
            self._history.approve(new, "first run", datetime.now(UTC), anew=False)

    def _open_runner(self) -> RunnerClient:
        """Give the round's runner; one that a probe killed is replaced, so that it costs that probe only."""
        if self._runner is None or self._runner.is_lost:
            probes = self._settings.probes
            self._runner = self._resources.enter_context(
                connect_runner(probes.socket, max_timeout_s=probes.timeout_s)
                if probes.socket is not None
                else start_runner(probes.user, state=self._settings.paths.state, max_timeout_s=probes.timeout_s)
            )
            self.single_user = self._runner.single_user
        return self._runner


def _refused(name: ProbeName, release: ReleaseId | None, reason: str) -> ProbeResult:
    summary = clean_line(reason)[:MAX_SUMMARY_CHARS]
    return ProbeResult(name, release, Status.UNKNOWN, summary, "", datetime.now(UTC), 0.0, cause=Cause.FAULT)


def untag(tags: SiteTags, action: RemoveTags) -> Outcome:
    """Perform one removal of tags, for which neither store nor state.db is needed."""
    return _attempt(action, lambda _: (remove_tags(tags, action), ()))


def remove_tags(tags: SiteTags, action: RemoveTags) -> Facts:
    """Remove an action's tags; those that are gone already are no error. Raises: TagError."""
    for vo, tag in action.tags:
        request = Request(reason=action.reason, person=False)
        tags.remove(vo, tag, action.subcluster, request=request)
    return {"tags": len(action.tags)}


def _attempt(action: Action, perform: Callable[[datetime], Done]) -> Outcome:
    """Perform one action and tell what came of it; what is expected to go wrong becomes a failed outcome."""
    started = time.monotonic()
    at = datetime.now(UTC)
    done: Done = ({}, ())
    error, code = "", EXIT_OK
    try:
        done = perform(at)
    except (AgentError, WireError) as exc:
        # A tag file's fault has a code of its own at the tag commands only.
        error, code = str(exc), SiteError.exit_code if isinstance(exc, TagError) else exit_code_of(exc)
    except OSError as exc:
        error, code = f"{exc}; check space, owner and mode there", SiteError.exit_code
    return Outcome(action, at, time.monotonic() - started, error, code, *done)
