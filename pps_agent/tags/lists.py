"""The tags of a site's subclusters, as whoever looks at them sees them.

Readers need no lock, since a list is replaced as a whole and a change that was begun is read as if it were finished.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pps_agent.tags import disk, listing
from pps_agent.tags.errors import TagFileError, UnknownTargetError
from pps_agent.tags.intent import apply_edit, find_edit
from pps_agent.tags.ledger import DIRECTORY, Ledger
from pps_agent.tags.life import Lives
from pps_wire import names
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo


class TagLists:
    """The tag lists below ``base`` for some subclusters: ``<base>/<subcluster>/<vo>/<vo>.list``.

    What stands in the global list ``<global_base>/<vo>/<vo>.list`` counts for every subcluster. The base directory must
    exist; a subcluster or VO directory that does not is "no tags". Input from the files is untrusted.
    """

    def __init__(
        self,
        base: Path,
        subclusters: tuple[Subcluster, ...],
        *,
        global_base: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._base, self._global_base = base, global_base
        self._subclusters = subclusters
        self._clock = clock

    @property
    def subclusters(self) -> tuple[Subcluster, ...]:
        """The subclusters that this may speak of."""
        return self._subclusters

    def tags(self, subcluster: Subcluster) -> frozenset[Tag]:
        """Give every valid tag of every VO that stands in the files, those whose time is over included.

        Raises: TagError, also when one list cannot be read.
        """
        return frozenset(tag for vo in self.vos(subcluster) for tag in self.standing(vo, subcluster))

    def vos(self, subcluster: Subcluster) -> tuple[Vo, ...]:
        """Give the VOs that have a directory of their own, here or globally, sorted. Raises: TagError."""
        self._check_target(subcluster)
        directories = disk.list_directories(self._base / subcluster)
        if self._global_base is not None:
            directories += disk.list_directories(self._global_base)
        found = set()
        for name in directories:
            with contextlib.suppress(WireError):  # a directory of somebody else, e.g. lost+found
                found.add(names.parse_vo(name))
        return tuple(sorted(found))

    def list_tags(self, vo: Vo, subcluster: Subcluster) -> tuple[Tag, ...]:
        """Give the valid tags of one VO in file order, without those whose time is over. Raises: TagError."""
        lives = self.lives(vo)
        own, now_s = lives.of(subcluster), self.now_s(lives)
        over = {tag for tag, life in own.items() if life.is_over(now_s)}
        standing = self.standing(vo, subcluster)
        return tuple(tag for tag in standing if tag not in over) if over else standing

    def announced(self, subcluster: Subcluster) -> frozenset[Tag]:
        """Give every valid tag of every VO whose time is not over. Raises: TagError, also when one cannot be read."""
        return frozenset(tag for vo in self.vos(subcluster) for tag in self.list_tags(vo, subcluster))

    def lives(self, vo: Vo) -> Lives:
        """Give what is known of a VO's tags. Raises: TagFileError."""
        ledger = Ledger(self._base, vo)
        intent = ledger.intent()
        return ledger.lives() if intent is None or intent.lives is None else intent.lives

    def size_bytes(self, vo: Vo, subclusters: Iterable[Subcluster]) -> int:
        """Give about how much there is to read for a VO's tags."""
        lists = [self._path(vo, where) for where in self._lists(tuple(subclusters))]
        return sum(disk.size_bytes(path) for path in (*lists, *self.ledger(vo).paths))

    def known_vos(self) -> tuple[Vo, ...]:
        """Give the VOs that have a ledger, sorted. Raises: TagError."""
        self._check_base()
        found = []
        for name in disk.list_directories(self._base / DIRECTORY):
            with contextlib.suppress(WireError):
                found.append(names.parse_vo(name))
        return tuple(found)

    def ledger(self, vo: Vo) -> Ledger:
        """Give what is written down about a VO's tags."""
        return Ledger(self._base, vo)

    def now_s(self, lives: Lives) -> float:
        """Give the time by which tags expire: no earlier than that of the last change, so that none comes back."""
        return max(self._clock(), lives.written_at)

    def standing(self, vo: Vo, subcluster: Subcluster) -> tuple[Tag, ...]:
        """Give the valid tags of one VO's lists, in file order, those whose time is over included. Raises: TagError."""
        self._check_target(subcluster)
        intent = Ledger(self._base, vo).intent()
        found: dict[Tag, None] = {}
        for where in (subcluster, None) if self._global_base is not None else (subcluster,):
            content = disk.load_list(self._path(vo, where)) or b""
            found |= dict.fromkeys(listing.parse_tags(apply_edit(content, find_edit(intent, where)), vo))
        return tuple(found)

    def _lists(self, targets: tuple[Subcluster, ...]) -> tuple[Subcluster | None, ...]:
        return targets if self._global_base is None else (*targets, None)

    def _check_target(self, subcluster: Subcluster) -> None:
        if subcluster not in self._subclusters:
            known = ", ".join(self._subclusters) or "none (set site.subclusters)"
            raise UnknownTargetError(f"{subcluster!r} is not a subcluster of this site; known: {known}")
        self._check_base()

    def _check_base(self) -> None:
        # A base that is not there (not mounted, mistyped) tells nothing about tags: never "no tags".
        if not self._base.is_dir():
            raise TagFileError(
                f"the tag directory {self._base} does not exist: create it, or set paths.tags to where the lists are"
            )

    def _path(self, vo: Vo, where: Subcluster | None) -> Path:
        """Give the path of a list; ``where`` None is the global one."""
        if where is not None:
            return self._base / where / vo / f"{vo}.list"
        if self._global_base is None:
            raise TagFileError("this site names no global lists: set paths.global_tags")
        return self._global_base / vo / f"{vo}.list"
