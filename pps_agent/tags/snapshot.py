"""All tags of a site at one moment, for programs that publish them: whole, in time, and on trouble the last good ones.

Such a program is run every few minutes by an information system that takes silence for "no tags" and half a list for a
whole one. So each list that cannot be read, and all of them when the file system does not answer, is given as it was
when it last could be; what is over meanwhile is left out all the same.

The last good lists are kept in a file of the account that publishes, ``<cache>/tags/<uid>/<name>.json``. Its time of
change is when it was last in use: no tag that was over by then comes back when the clock is set back.
"""

import json
import threading
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from pps_agent.tags.errors import TagError
from pps_agent.tags.keeper import Keeper
from pps_agent.tags.life import Life, Lives, parse_lives, render_lives
from pps_agent.tags.listing import parse_tags
from pps_agent.tags.lists import TagLists
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo

LIMIT_S: Final = 1.5
"""Publishers are to answer within two seconds."""


class Shown(NamedTuple):
    """One tag of one subcluster. ``listed``: it stands in a list, so that jobs are sent to it."""

    vo: Vo
    tag: Tag
    life: Life | None = None
    listed: bool = True


class Snapshot(NamedTuple):
    """What is to be published, by subcluster, sorted by tag.

    ``problems``: what kept newer tags away; ``not_kept``: why these will not be there when there are problems.
    ``lost``: the VOs whose lists could not all be read; None: which VOs there are is not known either.
    """

    tags: Mapping[Subcluster, tuple[Shown, ...]]
    problems: tuple[str, ...] = ()
    not_kept: str = ""
    lost: frozenset[Vo | None] = frozenset()

    def is_known(self, tag: str) -> bool:
        """Tell whether a tag that is not among these is really gone."""
        return None not in self.lost and not any(tag.startswith(f"VO-{vo}-") for vo in self.lost)


class _Seen:
    """What could be read: lists by subcluster and VO, what is known of tags by VO, and what could not be read."""

    def __init__(self) -> None:
        self.lists: dict[Subcluster, dict[Vo, tuple[Tag, ...]]] = {}
        self.lives: dict[Vo, Lives] = {}
        self.lost: list[tuple[Subcluster | None, Vo | None]] = []
        self.problems: list[str] = []


def take_snapshot(store: TagLists, cache: Path | None, name: str = "all", limit_s: float = LIMIT_S) -> Snapshot:
    """Give all tags. Raises nothing.

    ``cache``: the directory of the last good lists, None: there are none; ``name``: whose they are, the same for the
    same subclusters only.
    """
    keeper = None if cache is None else Keeper(cache, name)
    seen = _read_in_time(store, limit_s)
    used_at = keeper.used_at() if keeper else 0.0
    not_kept = ""
    if keeper is not None and not seen.problems:
        not_kept = keeper.keep(_render(seen), max(used_at, store.now_s(Lives())))
    elif keeper is not None:
        _fill(seen, _load(keeper), store.subclusters)
    tags = {subcluster: tuple(_show(store, seen, subcluster, used_at)) for subcluster in store.subclusters}
    return Snapshot(tags, tuple(dict.fromkeys(seen.problems)), not_kept, frozenset(vo for _, vo in seen.lost))


def _read_in_time(store: TagLists, limit_s: float) -> _Seen:
    """Read in a thread, which is left behind where the file system does not answer; what it has read counts."""
    found: list[_Seen] = []
    passes = [_Seen()]
    thread = threading.Thread(target=lambda: found.append(_read(store, passes)), daemon=True)
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    late = _copy(passes[-1])
    late.lost.append((None, None))
    late.problems.append(f"the tag lists could not be read within {limit_s:g} s: does their file system hang?")
    return late


def _copy(seen: _Seen) -> _Seen:
    """Give what was read so far; the thread may go on meanwhile, so each copy is one step of the interpreter's."""
    copy = _Seen()
    copy.lists = {subcluster: dict(lists) for subcluster, lists in list(seen.lists.items())}
    copy.lives, copy.lost, copy.problems = dict(seen.lives), list(seen.lost), list(seen.problems)
    return copy


def _read(store: TagLists, passes: list[_Seen]) -> _Seen:
    """Read all lists; when they were changed meanwhile, once more, so that the lists belong together."""
    for _ in range(3):
        seen, before = _Seen(), _marks(store)
        passes.append(seen)
        for vo, subclusters in _plan_reading(store, seen):
            for subcluster in subclusters:
                _read_list(store, vo, subcluster, seen)
        if _marks(store) == before:
            break
    return seen


def _marks(store: TagLists) -> tuple[object, ...]:
    try:
        return tuple((vo, store.ledger(vo).mark()) for vo in store.known_vos())
    except TagError:
        return ()


def _plan_reading(store: TagLists, seen: _Seen) -> list[tuple[Vo, list[Subcluster]]]:
    """Give what is to be read, the VO with the fewest bytes first: a long list keeps no other one from being read."""
    wanted: dict[Vo, list[Subcluster]] = {}
    for subcluster in store.subclusters:
        seen.lists[subcluster] = {}
        try:
            for vo in {*store.vos(subcluster), *store.known_vos()}:
                wanted.setdefault(vo, []).append(subcluster)
        except (TagError, OSError) as exc:
            seen.problems.append(str(exc))
            seen.lost.append((subcluster, None))
    return sorted(wanted.items(), key=lambda item: (store.size_bytes(*item), item[0]))


def _read_list(store: TagLists, vo: Vo, subcluster: Subcluster, seen: _Seen) -> None:
    try:
        tags = store.standing(vo, subcluster)
        if vo not in seen.lives:
            seen.lives[vo] = store.lives(vo)
        seen.lists[subcluster][vo] = tags  # last: what stands here may be taken while the next one is read
    except (TagError, OSError) as exc:
        seen.problems.append(str(exc))
        seen.lost.append((subcluster, vo))


def _fill(seen: _Seen, kept: _Seen, subclusters: tuple[Subcluster, ...]) -> None:
    """Put what was kept in the place of what could not be read."""
    for subcluster, vo in seen.lost:
        for target in subclusters if subcluster is None else (subcluster,):
            lists = seen.lists.setdefault(target, {})
            for owner, tags in kept.lists.get(target, {}).items():
                if vo in (None, owner):
                    lists.setdefault(owner, tags)
                    seen.lives.setdefault(owner, kept.lives.get(owner, Lives()))


def _show(store: TagLists, seen: _Seen, subcluster: Subcluster, used_at: float) -> list[Shown]:
    shown = []
    for vo, tags in seen.lists.get(subcluster, {}).items():
        lives = seen.lives.get(vo, Lives())
        known, now_s = lives.of(subcluster), max(store.now_s(lives), used_at)
        if not known:
            shown += [Shown(vo, tag) for tag in tags]
            continue
        listed = frozenset(tags)
        for tag in {*tags, *known}:
            life = known.get(tag)
            if life is None or not life.is_over(now_s):
                shown.append(Shown(vo, tag, life, listed=tag in listed))
    shown.sort(key=attrgetter("tag"))
    return shown


def _render(seen: _Seen) -> bytes:
    lists = {
        subcluster: {vo: " ".join(tags) for vo, tags in sorted(found.items())}
        for subcluster, found in sorted(seen.lists.items())
    }
    lives = {vo: render_lives(lives).decode() for vo, lives in sorted(seen.lives.items()) if lives.tags}
    return json.dumps({"format": 1, "lists": lists, "lives": lives}).encode()


def _load(keeper: Keeper) -> _Seen:
    """Give what was kept; nothing where that cannot be understood."""
    try:
        return _parse(keeper.load())
    except (WireError, ValueError, KeyError, TypeError, AttributeError):
        return _Seen()


def _parse(content: bytes) -> _Seen:
    document: dict[str, Any] = json.loads(content)
    seen = _Seen()
    seen.lists = {
        Subcluster(subcluster): {Vo(vo): parse_tags(text.encode(), Vo(vo)) for vo, text in found.items()}
        for subcluster, found in document["lists"].items()
    }
    seen.lives = {Vo(vo): parse_lives(text.encode(), Vo(vo)) for vo, text in document["lives"].items()}
    return seen
