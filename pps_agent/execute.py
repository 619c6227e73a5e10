"""Carries out one decided action. Expected errors become failed outcomes; bugs keep flying."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

from pps_agent.environment.compose import compose
from pps_agent.environment.save import load_variables, write_environment
from pps_agent.environment.values import Captured
from pps_agent.errors import EXIT_OK, AgentError, SiteError, exit_code_of
from pps_agent.history import History
from pps_agent.jobs import Jobs
from pps_agent.probes.catalogue import Catalogue, load_catalogue
from pps_agent.probes.client import RunnerClient, connect_runner, start_runner
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
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import ProbeName, ReleaseId, Tag, Vo
from pps_wire.report import Status

Facts = Mapping[str, object]


class Executor:
    """The hands of one round: holds the runner open from the first probe to ``close``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        tags: TagStore,
        history: History,
        jobs: Jobs,
        captured: Captured | Unknown,
        offered: ReleaseSet | Unknown,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tags = tags
        self._history = history
        self._jobs = jobs
        self._captured = captured
        self._offered = offered
        self._resources = contextlib.ExitStack()
        self._runner: RunnerClient | None = None
        probes = settings.probes
        # What holds until a runner was met; then what it says.
        self.single_user = probes.socket is None and not (probes.user and os.geteuid() == 0)

    def execute(self, action: Action) -> Outcome:
        """Perform one action and tell what came of it. Raises nothing that is expected to go wrong."""
        started = time.monotonic()
        at = datetime.now(UTC)
        results: tuple[ProbeResult, ...] = ()
        facts: Facts = {}
        error, code = "", EXIT_OK
        try:
            if isinstance(action, Probe):
                results = self._probe(action)
            else:
                facts = self._perform(action, at)
        except (AgentError, WireError) as exc:
            # A tag file's fault has a code of its own at the tag commands only.
            error, code = str(exc), SiteError.exit_code if isinstance(exc, SiteError) else exit_code_of(exc)
        except OSError as exc:
            error, code = f"{exc}; check space, owner and mode there", SiteError.exit_code
        return Outcome(action, at, time.monotonic() - started, error, code, facts, results)

    def close(self) -> None:
        """Stop the runner, if one was started."""
        self._resources.close()

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
            case AddTags(_, subcluster, tags):
                return self._change_tags(tags, lambda vo, tag: self._tags.add(vo, [tag], [subcluster]))
            case RemoveTags(_, subcluster, tags):
                return self._change_tags(
                    tags, lambda vo, tag: self._tags.remove(vo, [tag], [subcluster], missing_ok=True)
                )
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

    def _change_tags(self, tags: tuple[tuple[Vo, Tag], ...], change: Callable[[Vo, Tag], object]) -> Facts:
        for vo, tag in tags:
            change(vo, tag)
        return {"tags": len(tags)}

    def _probe(self, action: Probe) -> tuple[ProbeResult, ...]:
        installed = self._find_installed(action.release)
        environment = self.probe_environment(action.release, installed.release.version)
        results = self.run_probes(action.probes, action.release, environment)
        for result in results:
            self._history.add_result(result, installed.profile)
        return results

    def run_probes(
        self, names: tuple[ProbeName, ...], release: ReleaseId | None, environment: Mapping[str, str]
    ) -> tuple[ProbeResult, ...]:
        """Run probes side by side, contained, and give their verdicts; one that is not installed is UNKNOWN.

        A result bears the name it was asked for by, which may be the probe's alias.
        """
        found = {name: self._catalogue.find(name) for name in names}
        known = {name: definition for name, definition in found.items() if definition is not None}
        ran = self._open_runner().run_all(tuple(known.values()), environment, release) if known else ()
        results = [replace(result, probe=name) for name, result in zip(known, ran, strict=True)]
        missing = [_not_installed(name, release) for name in found if name not in known]
        return (*results, *missing)

    def probe_environment(self, release: ReleaseId, version: str) -> dict[str, str]:
        """Give the environment a release's probes run in: the composed one and the site's probe settings."""
        variables = load_variables(self._store.path(release))
        return variables | {
            "PPS_SITE": self._settings.site.name,
            "PPS_VO": self._settings.site.vos[0],
            "PPS_RELEASE_VERSION": version,
            **self._settings.probes.env,
        }

    @cached_property
    def _catalogue(self) -> Catalogue:
        return load_catalogue(self._settings.paths.probes)

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


def _not_installed(name: ProbeName, release: ReleaseId | None) -> ProbeResult:
    summary = f"the probe {name} is not installed here: see pps-agent probe list and paths.probes"
    return ProbeResult(name, release, Status.UNKNOWN, summary, "", datetime.now(UTC), 0.0)
