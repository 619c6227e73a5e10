"""The site as one settings file describes it: opens its parts and looks at them."""

import contextlib
import sqlite3
import threading
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from pps_agent.database import open_database
from pps_agent.environment.capture import capture
from pps_agent.environment.values import Captured
from pps_agent.errors import AgentError, SiteError
from pps_agent.execute import Executor
from pps_agent.history import History
from pps_agent.jobs import Expected, Jobs, Published
from pps_agent.memory import Memory
from pps_agent.node import describe_nodes
from pps_agent.observe import Production, observe
from pps_agent.policy import Circumstances, await_trees, desire
from pps_agent.production import observe_production
from pps_agent.retention import find_kept
from pps_agent.settings import Settings
from pps_agent.sight import Look, Sight
from pps_agent.state import ReleaseSet, Unknown
from pps_agent.store import Store
from pps_agent.tags.areas import NOWHERE, SiteTags, find_areas, open_all, open_former
from pps_wire.errors import WireError
from pps_wire.names import Subcluster


class Site:
    """One site. A state.db that cannot be opened is told when it is needed: some things go without it."""

    def __init__(self, settings: Settings, config: Path) -> None:
        self.settings = settings
        self.store = Store(settings.paths.store, settings.store.trees)
        self.tags = open_all(settings)
        self.jobs = Jobs(config)
        self.stopping = threading.Event()
        """Set from another thread: give up waiting for nodes, the program is to end."""
        self.fault: SiteError | None = None
        """Why state.db could not be opened."""
        self._database: sqlite3.Connection | None = None
        try:
            self._database = open_database(settings.paths.state / "state.db", settings.paths.journal)
        except SiteError as exc:
            self.fault = exc

    def close(self) -> None:
        """Close state.db."""
        if self._database is not None:
            self._database.close()

    @property
    def database(self) -> sqlite3.Connection:
        """state.db. Raises: SiteError when it could not be opened."""
        if self._database is None:
            raise SiteError(str(self.fault)) from self.fault
        return self._database

    @cached_property
    def history(self) -> History:
        """What is remembered in state.db. Raises: SiteError when it could not be opened."""
        return History(self.database)

    def recall(self) -> Memory | Unknown:
        """Give all that is remembered."""
        try:
            return self.history.recall()
        except SiteError as exc:
            return Unknown(str(exc))

    def look(self, *, offline: bool) -> Sight:
        """Look at everything once and change nothing (but the kept metadata, when not ``offline``).

        Raises: SiteError when state.db cannot be read.
        """
        memory = self.history.recall()
        offered, _ = self.jobs.refresh(offline=offline)
        return self.see(self.look_out(offered), datetime.now(UTC), memory)

    def look_out(self, offered: ReleaseSet | Unknown) -> Look:
        """Make the costly looks that a round makes once, beside the one at the repository."""
        captured = capture(self.settings.environment.profile, self.settings.environment.timeout_s)
        return Look(offered, captured, self.look_published(Expected()).tags, self._look_production(captured))

    def see(self, look: Look, at: datetime, memory: Memory | Unknown | None = None) -> Sight:
        """Look at all that changes while a round acts, and give what the site wants in view of everything."""
        memory = self.recall() if memory is None else memory
        profile = look.captured if isinstance(look.captured, Unknown) else look.captured.fingerprint
        former, vos = open_former(self.settings, self._former(memory)), self.settings.site.vos
        observed = observe(self.store, self.tags, former, vos, memory, profile, look.published)
        around = self._circumstances(look, memory, at)
        resolve = memory if isinstance(memory, Unknown) else memory.resolve
        nodes = describe_nodes(self.settings.group)
        kept = find_kept(observed)
        desired = desire(look.offered, observed.installed, self.settings, resolve, nodes, at, around, kept)
        if not isinstance(look.offered, Unknown):
            desired = await_trees(desired, self.store.awaited([offer.release for offer in look.offered.offers]))
        return Sight(look.offered, desired, observed, memory, at)

    def all_tags(self, memory: Memory | Unknown) -> SiteTags:
        """Give the tag lists of the present subclusters and of former ones."""
        return open_all(self.settings, self._former(memory))

    def look_published(self, expected: Expected) -> Published:
        """Look at the information systems, waiting for what is expected."""
        return self.jobs.published(expected) if self.is_published() else Published(None)

    def is_published(self) -> bool:
        """Tell whether the settings name a server that shows tags."""
        return any(area.servers for area in find_areas(self.settings))

    def _former(self, memory: Memory | Unknown) -> tuple[Subcluster, ...]:
        """Give the subclusters that this site once tagged and serves no more."""
        served = () if isinstance(memory, Unknown) else memory.served
        return tuple(sorted({subcluster for subcluster, _ in served} - set(self.settings.subclusters)))

    def executor(self, captured: Captured | Unknown, offered: ReleaseSet | Unknown, tags: SiteTags) -> Executor:
        """Give the hands of one round. Raises: SiteError when state.db could not be opened."""
        return Executor(self.settings, self.store, tags, self.history, self.jobs, captured, offered, self.stopping)

    def _look_production(self, captured: Captured | Unknown) -> Production:
        sources = self.settings.production
        if not sources:
            return {}
        try:
            executor = self.executor(captured, Unknown("not asked"), NOWHERE)
            with contextlib.closing(executor):
                return observe_production(sources, captured, executor.run_command)
        except (AgentError, WireError) as exc:
            return {component: Unknown(str(exc)) for component in sources}

    def _circumstances(self, look: Look, memory: Memory | Unknown, at: datetime) -> Circumstances:
        zone = ZoneInfo(self.settings.policy.time_zone) if self.settings.policy.time_zone else None
        local = at.astimezone(zone)
        if isinstance(memory, Unknown):
            return Circumstances(local=local, production=look.production)
        return Circumstances(local, memory.waited_s(at), look.production, memory.production, memory.served)
