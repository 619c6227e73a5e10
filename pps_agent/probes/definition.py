"""What a probe says of itself: one value for each ``probe.toml``. Values only; ``definition_file.py`` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from enum import Enum
from pathlib import Path
from typing import Final

from pps_wire.names import ProbeName, Vo

DEFAULT_TIMEOUT_S: Final = 60
DEFAULT_RETRY_INTERVAL_S: Final = 300
DAY_S: Final = 86_400
DEFAULT_LIMITS: Final[Mapping[str, int]] = {
    "cpu_s": 120,
    "memory_bytes": 4 * 1024**3,
    "files": 1024,
    "file_bytes": 1024**3,
    "processes": 512,
    "directory_bytes": 1024**3,
}


class Where(Enum):
    """On which machine a probe runs."""

    NODE = "node"
    """Where jobs run."""
    HEAD = "head"
    """Where the agent runs."""


class Scope(Enum):
    """What a probe tests."""

    WN = "wn"
    UI = "ui"
    SERVICE = "service"
    SITE = "site"


class Weight(Enum):
    """How much a run takes of the machine or of a server; few heavy ones run at a time."""

    LIGHT = "light"
    HEAVY = "heavy"


class Format(Enum):
    """How a probe speaks on stdout."""

    AUTO = "auto"
    NAGIOS = "nagios"
    WLCG = "wlcg"
    JSON = "json"


class SecretForm(Enum):
    """How a secret reaches a probe. Never as an argument."""

    FILE = "file"
    """A file of the run's own directory, mode 0400; the variable holds its path."""
    ENVIRONMENT = "environment"


class Form(Enum):
    """What an argument of a caller may be."""

    HOST = "host"
    PORT = "port"
    URL = "url"
    NUMBER = "number"
    WORD = "word"
    PATH = "path"
    RANGE = "range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What a caller may set: the variable it becomes, its form, and the plugin option it answers to, or ''."""

    variable: str
    form: Form
    option: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDefinition:
    """One installed probe; the keys of ``probe.toml`` under their own names.

    ``run`` is the executable. ``commands``, ``variables`` (name → what it means) and, with ``needs_proxy``,
    a readable X509_USER_PROXY must be there, or the verdict is UNKNOWN without a start. ``interval_s`` None:
    it runs only when a release or a person asks. ``splay_s`` None: over the whole interval. ``metrics`` are
    what it may report beside itself. ``digest`` is the sha256 (hex) of ``probe.toml`` and ``run``, empty
    when nobody computed it.
    """

    name: ProbeName
    run: Path
    aliases: tuple[str, ...] = ()
    version: str = ""
    summary: str = ""
    service_type: str = ""
    where: Where = Where.NODE
    scope: Scope = Scope.WN
    vos: tuple[Vo, ...] = ()
    needs_proxy: bool = False
    depends_on: tuple[ProbeName, ...] = ()
    interval_s: int | None = None
    retry_interval_s: int = DEFAULT_RETRY_INTERVAL_S
    max_attempts: int = 1
    timeout_s: int = DEFAULT_TIMEOUT_S
    freshness_s: int | None = None
    at: time | None = None
    splay_s: int | None = None
    weight: Weight = Weight.LIGHT
    format: Format = Format.AUTO
    matrix: bool = False
    metrics: tuple[ProbeName, ...] = ()
    commands: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretForm] = field(default_factory=dict)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    digest: str = ""

    @property
    def needs_release(self) -> bool:
        """Whether it needs what only a release has, so that there is nothing to run it on for production."""
        return any(name.startswith("PPS_RELEASE") for name in self.variables)

    def fresh_for_s(self) -> int | None:
        """Give how long a result counts, in seconds; None when nothing renews it by itself."""
        if self.freshness_s is not None or self.interval_s is None:
            return self.freshness_s
        return 2 * self.interval_s + self.timeout_s
