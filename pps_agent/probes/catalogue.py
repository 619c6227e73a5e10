"""The probes a site has: shipped ones, its own, and those a release carries. One bad probe stops no other.

A probe is a directory with ``probe.toml`` (see ``definition_file.py``) and a program ``run``. One that
somebody else could change, that is not as it was installed or approved, or that claims another's name is
refused: it is kept in the catalogue with the reason, and asking for it gives that reason.

What "as it was installed" means: a directory with ``SHA256SUMS`` is judged by that list. A site's own
directory without one is judged by the digests in state.db: the agent notes a probe's when it first runs it,
``pps-agent probe approve`` notes the one that is there now. A release's probes are judged by its manifest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from pps_agent.probes.definition import ProbeDefinition
from pps_agent.probes.directory import METADATA, PROGRAM, Read, find_unsafe_way, foreign_hand, mark_of, read_probe
from pps_agent.probes.sums import MAX_SUMS_BYTES, SUMS, find_difference, parse_sums
from pps_wire.names import ProbeName

INSTALLED: Final = Path("/usr/libexec/pps-agent/probes")


class Origin(Enum):
    """Where a probe came from."""

    SHIPPED = "shipped"
    SITE = "site"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Refused:
    """A probe that is there and must not run. ``names``: what it claims to be called; ``digest``: '' if not read."""

    path: Path
    names: tuple[str, ...]
    faults: tuple[str, ...]
    digest: str = ""
    origin: Origin = Origin.SITE

    def is_called(self, name: str) -> bool:
        """Tell whether this is the probe meant; one whose metadata cannot be read is known by its directory."""
        return name in self.names or name == self.path.name or (not self.names and name.endswith(f".{self.path.name}"))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All probes, in the order of their names; ``faults`` are those of whole directories.

    ``unrecorded``: site probes whose digest no record holds, since they were never run here. ``reads``: what was
    read of each directory.
    """

    definitions: tuple[ProbeDefinition, ...] = ()
    refused: tuple[Refused, ...] = ()
    faults: tuple[str, ...] = ()
    origins: Mapping[ProbeName, Origin] = field(default_factory=dict)
    unrecorded: frozenset[ProbeName] = frozenset()
    reads: Mapping[Path, Read] = field(default_factory=dict, repr=False)
    _by_name: Mapping[str, ProbeDefinition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", _names(self.definitions))

    def find(self, name: str) -> ProbeDefinition | None:
        """Give the probe with this name or alias, or None when there is none that may run."""
        return self._by_name.get(name)

    def closest(self, name: str) -> str:
        """Give the name or alias nearest to a mistyped one; empty when none is near."""
        import difflib  # only on the way to an error

        return next(iter(difflib.get_close_matches(name, self._by_name, 1)), "")

    def why_not(self, name: str) -> str:
        """Tell why there is no probe of this name to run, and what to do."""
        for refused in self.refused:
            if refused.is_called(name):
                more = f" (and {len(refused.faults) - 1} more: see pps-agent probe lint)" * (len(refused.faults) > 1)
                return f"the probe {name} is refused: {refused.faults[0]}{more}"
        close = self.closest(name)
        hint = f"; did you mean {close}?" if close else ""
        return f"the probe {name} is not installed here: see pps-agent probe list and paths.probes{hint}"

    def all_faults(self) -> tuple[str, ...]:
        """Give every fault of every directory and probe."""
        return (*self.faults, *(fault for refused in self.refused for fault in refused.faults))

    def merge(self, carried: "Catalogue") -> "Catalogue":
        """Add the probes that a release carries. One with a name that is taken is refused: the installed one stays."""
        kept, refused = list(self.definitions), [*self.refused, *carried.refused]
        origins, taken = dict(self.origins), dict(self._by_name)
        for definition in carried.definitions:
            if clash := _find_clash(definition, taken):
                refused.append(_refuse(definition, clash, Origin.RELEASE))
            else:
                kept.append(definition)
                origins[definition.name] = Origin.RELEASE
                taken |= _names((definition,))
        kept.sort(key=lambda definition: definition.name)
        faults = (*self.faults, *carried.faults)
        reads = {**self.reads, **carried.reads}
        return Catalogue(tuple(kept), tuple(refused), faults, origins, self.unrecorded, reads)

    def find_change(self, definition: ProbeDefinition) -> str:
        """Tell what happened to a probe's files since they were read; empty when nothing did. A few stat(2)."""
        read = self.reads.get(definition.run.parent)
        if read is None or mark_of(read.path) == read.mark:
            return ""
        return f"the probe {definition.name} is refused: {read.path} was changed since it was read, a moment ago"


def shipped_directory() -> Path:
    """Give the directory of the probes that come with the program: beside it in a clone, else the package's."""
    beside = Path(__file__).resolve().parents[2] / "probes"
    return beside if beside.is_dir() else INSTALLED


def load_catalogue(
    directories: Iterable[Path] = (),
    *,
    approved: Mapping[ProbeName, str] | None = None,
    shipped: bool = True,
    previous: Catalogue | None = None,
) -> Catalogue:
    """Read the shipped probes and those below these directories, a site's own. Raises nothing: faults are kept.

    ``approved``: the digests on record of site probes. ``previous``: an earlier catalogue; what looks as it
    did then is not read again.
    """
    gathered = _Gathered(dict(approved or {}), previous.reads if previous else {})
    if shipped:
        gathered.add_directory(shipped_directory(), Origin.SHIPPED)
    for directory in directories:
        gathered.add_directory(directory, Origin.SITE)
    return gathered.catalogue()


class _Gathered:
    """What was found so far: the first probe of a name keeps it."""

    def __init__(self, approved: Mapping[ProbeName, str], known: Mapping[Path, Read]) -> None:
        self._approved, self._known = approved, known
        self._definitions: dict[ProbeName, ProbeDefinition] = {}
        self._taken: dict[str, ProbeDefinition] = {}
        self._origins: dict[ProbeName, Origin] = {}
        self._refused: list[Refused] = []
        self._faults: list[str] = []
        self._unrecorded: set[ProbeName] = set()
        self._reads: dict[Path, Read] = {}

    def catalogue(self) -> Catalogue:
        definitions = tuple(self._definitions[name] for name in sorted(self._definitions))
        refused, faults = tuple(self._refused), tuple(self._faults)
        return Catalogue(definitions, refused, faults, self._origins, frozenset(self._unrecorded), self._reads)

    def add_directory(self, directory: Path, origin: Origin) -> None:
        faults: list[str] = []
        paths = _probe_directories(directory, faults)
        sums = _load_sums(directory, faults) if paths else None
        if paths:
            faults.extend(_directory_faults(directory, origin))
        self._faults.extend(faults)
        for path in paths:
            read = self._read(path)
            self._reads[path] = read
            problems = [*read.faults, *(f"{path}: {fault}" for fault in faults[:1])]
            if sums is not None and not problems and (difference := _compare(sums, read)):
                problems.append(f"{directory}: {difference}")
            self._add(read, problems, origin, recorded=origin is not Origin.SITE or sums is not None)

    def _read(self, path: Path) -> Read:
        known = self._known.get(path)
        return known if known is not None and known.mark and known.mark == mark_of(path) else read_probe(path)

    def _add(self, read: Read, problems: list[str], origin: Origin, *, recorded: bool) -> None:
        definition = read.definition
        digest = definition.digest if definition else ""
        if definition is not None and not recorded and (fault := self._digest_fault(definition)):
            problems.append(fault)
        if definition is not None and (clash := _find_clash(definition, self._taken)):
            problems.append(clash)
        if definition is None or problems:
            self._refused.append(Refused(read.path, read.names, tuple(problems), digest, origin))
            return
        self._definitions[definition.name] = definition
        self._origins[definition.name] = origin
        self._taken |= dict.fromkeys((definition.name, *definition.aliases), definition)
        if not recorded and definition.name not in self._approved:
            self._unrecorded.add(definition.name)

    def _digest_fault(self, definition: ProbeDefinition) -> str:
        approved = self._approved.get(definition.name, definition.digest)
        if approved == definition.digest:
            return ""
        digests = f"its digest is {definition.digest[:16]}…, approved was {approved[:16]}…"
        return (
            f"{definition.run.parent}: was changed: {digests};"
            f" look at what it does now, then pps-agent probe approve {definition.name}"
        )


def _probe_directories(directory: Path, faults: list[str]) -> list[Path]:
    try:
        found = sorted(path.parent for path in directory.glob(f"[!.]*/{METADATA}"))
        if not directory.is_dir():
            faults.append(f"{directory}: no such directory: correct paths.probes or install the probes")
    except OSError as exc:
        faults.append(f"{directory}: {exc.strerror}: let the agent's user read it")
        return []
    return found


def _directory_faults(directory: Path, origin: Origin) -> list[str]:
    """Give what lets others change any probe below it; the shipped ones lie beside the program itself."""
    try:
        own = foreign_hand(directory)
        return [own] if own else list(find_unsafe_way(directory)) if origin is Origin.SITE else []
    except OSError as exc:
        return [f"{exc.filename}: {exc.strerror}: let the agent's user read it"]


def _load_sums(directory: Path, faults: list[str]) -> dict[str, str] | None:
    path = directory / SUMS
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_SUMS_BYTES + 1)
        if fault := foreign_hand(path):
            faults.append(fault)
    except FileNotFoundError:
        return None
    except OSError as exc:
        faults.append(f"{path}: {exc.strerror}: let the agent's user read it, or remove it")
        return None
    if len(content) > MAX_SUMS_BYTES:
        faults.append(f"{path}: larger than {MAX_SUMS_BYTES} bytes: make the list anew")
    return parse_sums(content, faults)


def _compare(sums: Mapping[str, str], read: Read) -> str:
    return find_difference(sums, read.path.name, {METADATA: read.metadata_sha256, PROGRAM: read.program_sha256})


def _names(definitions: Iterable[ProbeDefinition]) -> dict[str, ProbeDefinition]:
    return {name: definition for definition in definitions for name in (definition.name, *definition.aliases)}


def _find_clash(definition: ProbeDefinition, taken: Mapping[str, ProbeDefinition]) -> str:
    for name in (definition.name, *definition.aliases):
        if name in taken:
            other = taken[name].run.parent
            return f"{definition.run.parent}: {name} is also the name of {other}: rename or remove one"
    return ""


def _refuse(definition: ProbeDefinition, fault: str, origin: Origin) -> Refused:
    names = (definition.name, *definition.aliases)
    return Refused(definition.run.parent, names, (fault,), definition.digest, origin)
