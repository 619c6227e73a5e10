"""Which release of each component is current, and which ones were before.

::

    <root>/generations/<n>/<component> -> ../../releases/<id>
    <root>/current -> generations/<n>                        replaced in one atomic step

A generation never changes once it has its number, but for links to releases that were removed.
Every function that changes something is called with the store's lock held. All raise OSError.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from pps_agent.disk import remove_tree
from pps_agent.files import replace_link, sync_directory
from pps_wire.errors import WireError
from pps_wire.names import Component, ReleaseId, parse_component, parse_release_id

KEPT_GENERATIONS: Final = 10

_TO_RELEASE: Final = "../../releases/"


class Generations:
    """The generations of the store at ``root``; ``is_installed`` tells whether a release is still there."""

    def __init__(self, root: Path, is_installed: Callable[[ReleaseId], bool]) -> None:
        self.directory = root / "generations"
        self._current = root / "current"
        self._is_installed = is_installed

    def current(self) -> dict[Component, ReleaseId]:
        """Give the current release of each component; empty when nothing was switched yet."""
        return _read_generation(self._current)

    def earlier(self, component: Component) -> Iterator[ReleaseId]:
        """Give the installed releases that were current before the present one, newest first, each once."""
        number = self._current_number()
        numbers = [known for known in self._numbers() if number is None or known < number]
        seen = {_read_generation(self._current).get(component)}
        for known in sorted(numbers, reverse=True):
            release = _read_generation(self.directory / str(known)).get(component)
            if release is not None and release not in seen and self._is_installed(release):
                yield release
            seen.add(release)

    def previous(self, spurned: Collection[ReleaseId] = ()) -> dict[Component, ReleaseId]:
        """Give what a rollback of each component would go back to; never one of ``spurned``."""
        names = {name for number in self._numbers() for name in _read_generation(self.directory / str(number))}
        found = ((name, next((r for r in self.earlier(name) if r not in spurned), None)) for name in sorted(names))
        return {component: release for component, release in found if release is not None}

    def switch(self, component: Component, release: ReleaseId | None) -> int:
        """Make ``release`` (or none) the current one of its component; give the generation's number.

        The other components stay as they are, but for those whose release is gone.
        """
        before = self.current()
        after = {key: value for key, value in before.items() if key != component and self._is_installed(value)}
        if release is not None:
            after[component] = release
        number = self._current_number()
        if number is None or before != after:
            number = max(self._numbers(), default=0) + 1
            self._write(number, after)
            replace_link(self._current, f"generations/{number}")
        self.prune()
        return number

    def prune(self) -> int:
        """Delete generations beyond KEPT_GENERATIONS, and what died half-written; give how many those were.

        However many switches other components saw, each keeps the generation a rollback would need.
        """
        current = self._current_number()
        needed = {current, *self._rollback_numbers()}
        old = [number for number in sorted(self._numbers())[:-KEPT_GENERATIONS] if number not in needed]
        dead = [*(self.directory / str(number) for number in old), *self.directory.glob(".new-*")]
        dead += self._current.parent.glob(f".{self._current.name}.*.tmp")
        for path in dead:
            remove_tree(path)
        return len(dead)

    def drop_dead_links(self) -> int:
        """Delete links of earlier generations to releases that are gone; give how many those were."""
        current = self._current_number()
        dropped = 0
        for number in self._numbers():
            directory = self.directory / str(number)
            dead = [name for name, release in _read_generation(directory).items() if not self._is_installed(release)]
            if number == current or not dead:
                continue
            for name in dead:
                (directory / name).unlink(missing_ok=True)
            sync_directory(directory)
            dropped += len(dead)
        return dropped

    def _numbers(self) -> list[int]:
        try:
            return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]
        except FileNotFoundError:
            return []

    def _rollback_numbers(self) -> set[int]:
        targets = self.previous()
        found: dict[Component, int] = {}
        for number in sorted(self._numbers()):
            for component, release in _read_generation(self.directory / str(number)).items():
                if targets.get(component) == release:
                    found[component] = number
        return set(found.values())

    def _current_number(self) -> int | None:
        try:
            name = self._current.readlink().name
        except OSError:
            return None
        return int(name) if name.isdecimal() and (self.directory / name).is_dir() else None

    def _write(self, number: int, links: Mapping[Component, ReleaseId]) -> None:
        new = self.directory / f".new-{secrets.token_hex(4)}"
        new.mkdir(mode=0o755)
        try:
            for component, release in links.items():
                (new / component).symlink_to(f"{_TO_RELEASE}{release}")
            sync_directory(new)
            new.rename(self.directory / str(number))
        except OSError:
            with contextlib.suppress(OSError):
                remove_tree(new)
            raise
        sync_directory(self.directory)


def _read_generation(directory: Path) -> dict[Component, ReleaseId]:
    """Read a generation's links; what is no link to a release is passed over."""
    links: dict[Component, ReleaseId] = {}
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return links
    for entry in entries:
        with contextlib.suppress(WireError, OSError):
            target = os.fspath(entry.readlink())
            if target.startswith(_TO_RELEASE):
                links[parse_component(entry.name)] = parse_release_id(target.removeprefix(_TO_RELEASE))
    return links
