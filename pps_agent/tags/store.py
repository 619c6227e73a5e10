"""The tags of a site's subclusters: ``<base>/<subcluster>/<vo>/<vo>.list``, the format other tools share.

Readers need no lock, since a list is replaced as a whole; writers hold one lock for all lists.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.tags import disk, listing
from pps_agent.tags.errors import HalfWrittenError, TagError, TagFileError, TagRefusedError, UnknownTargetError
from pps_wire import names
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo

LOCK_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a change does to one list. An unchanged list has neither ``added`` nor ``removed``."""

    subcluster: Subcluster
    path: Path
    added: tuple[Tag, ...] = ()
    removed: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class TagChange:
    """What a change does (or, in a dry run, would do), over all its lists.

    ``present`` are tags asked for that stood in every list already, ``absent`` those to be removed
    that stood in none.
    """

    added: tuple[Tag, ...] = ()
    present: tuple[Tag, ...] = ()
    removed: tuple[Tag, ...] = ()
    absent: tuple[Tag, ...] = ()
    files: tuple[FileChange, ...] = ()


@dataclass(frozen=True, slots=True)
class _Edit:
    change: FileChange
    before: bytes | None
    after: bytes


class TagStore:
    """The tag lists below ``base`` for the subclusters of this site.

    The base directory must exist; a subcluster or VO directory that does not is "no tags", and is
    created by the first tag. Input from the files is untrusted.
    """

    def __init__(self, base: Path, subclusters: tuple[Subcluster, ...], lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self._base = base
        self._subclusters = subclusters
        self._lock_timeout_s = lock_timeout_s

    @property
    def subclusters(self) -> tuple[Subcluster, ...]:
        """The subclusters this store may speak of."""
        return self._subclusters

    def tags(self, subcluster: Subcluster) -> frozenset[Tag]:
        """Give every valid tag of every VO. Raises: TagError, also when one list cannot be read."""
        return frozenset(tag for vo in self.vos(subcluster) for tag in self.list_tags(vo, subcluster))

    def vos(self, subcluster: Subcluster) -> tuple[Vo, ...]:
        """Give the VOs that have a directory of their own, sorted. Raises: TagError."""
        self._check_target(subcluster)
        found = []
        for name in disk.list_directories(self._base / subcluster):
            with contextlib.suppress(WireError):  # a directory of somebody else, e.g. lost+found
                found.append(names.parse_vo(name))
        return tuple(found)

    def list_tags(self, vo: Vo, subcluster: Subcluster) -> tuple[Tag, ...]:
        """Give the valid tags of one VO in file order. Raises: TagError."""
        self._check_target(subcluster)
        return listing.parse_tags(disk.load_list(self._path(vo, subcluster)) or b"", vo)

    def add(
        self, vo: Vo, tags: Iterable[Tag], subclusters: Iterable[Subcluster] | None = None, *, dry_run: bool = False
    ) -> TagChange:
        """Add tags to one VO's list of each subcluster (None: all), in all of them or in none.

        Tags that are there stay as they are: a list that holds all of them keeps bytes and mtime.
        Raises: TagRefusedError (syntax, another VO, case variant), UnknownTargetError, TagFileError
        (nothing changed), HalfWrittenError.
        """
        wanted = _checked(vo, tags)
        targets = self._targets(subclusters)
        with self._writing(dry_run):
            edits = [self._plan_add(vo, wanted, target) for target in targets]
            if not dry_run:
                self._write(edits)
        changes = tuple(edit.change for edit in edits)
        added = tuple(tag for tag in wanted if any(tag in change.added for change in changes))
        return TagChange(added=added, present=tuple(tag for tag in wanted if tag not in added), files=changes)

    def remove(
        self,
        vo: Vo,
        tags: Iterable[Tag],
        subclusters: Iterable[Subcluster] | None = None,
        *,
        missing_ok: bool = False,
        dry_run: bool = False,
    ) -> TagChange:
        """Remove tags from one VO's list of each subcluster (None: all), in all of them or in none.

        A tag that stands in none of the lists is refused, unless ``missing_ok``.
        Raises: as ``add``.
        """
        unwanted = _checked(vo, tags)
        targets = self._targets(subclusters)
        with self._writing(dry_run):
            edits = [self._plan_remove(vo, unwanted, target) for target in targets]
            changes = tuple(edit.change for edit in edits)
            removed = tuple(tag for tag in unwanted if any(tag in change.removed for change in changes))
            absent = tuple(tag for tag in unwanted if tag not in removed)
            if absent and not missing_ok:
                places = ", ".join(targets)
                raise TagRefusedError(f"not tagged {' '.join(absent)} on {places}: see `pps-agent tag list`")
            if not dry_run:
                self._write(edits)
        return TagChange(removed=removed, absent=absent, files=changes)

    def _plan_add(self, vo: Vo, wanted: tuple[Tag, ...], subcluster: Subcluster) -> _Edit:
        path = self._path(vo, subcluster)
        before = disk.load_list(path)
        content = before or b""
        present = set(listing.parse_tags(content, vo))
        added = tuple(tag for tag in wanted if tag not in present)
        tokens = [*listing.parse_tokens(content), *self._tokens_of_others(vo, subcluster)] if added else []
        for tag in added:
            variant = listing.case_variant(tag, tokens)
            if variant:
                raise TagRefusedError(
                    f"{tag} differs from {variant} of {subcluster} in letter case only, which would stop the"
                    f" information system from taking any tag: use {variant}, or remove it first"
                )
        return _Edit(FileChange(subcluster, path, added=added), before, listing.with_tags(content, added))

    def _plan_remove(self, vo: Vo, unwanted: tuple[Tag, ...], subcluster: Subcluster) -> _Edit:
        path = self._path(vo, subcluster)
        before = disk.load_list(path)
        content = before or b""
        present = set(listing.parse_tags(content, vo))
        removed = tuple(tag for tag in unwanted if tag in present)
        return _Edit(FileChange(subcluster, path, removed=removed), before, listing.without_tags(content, removed))

    def _tokens_of_others(self, vo: Vo, subcluster: Subcluster) -> list[bytes]:
        return [
            token
            for other in self.vos(subcluster)
            if other != vo
            for token in listing.parse_tokens(disk.load_list(self._path(other, subcluster)) or b"")
        ]

    def _write(self, edits: list[_Edit]) -> None:
        """Write all changed lists, or put back what was written and raise."""
        with contextlib.ExitStack() as undo:
            for edit in edits:
                if edit.after == (edit.before or b""):
                    continue
                path = edit.change.path
                try:
                    undo.callback(disk.remove_directories, disk.make_directories(path.parent, self._base))
                    disk.save_list(path, edit.after)
                except TagFileError as exc:
                    raise TagFileError(f"{exc} (no list was changed: the ones written before are put back)") from exc
                undo.callback(_restore, path, edit.before)
            undo.pop_all()

    @contextlib.contextmanager
    def _writing(self, dry_run: bool) -> Iterator[None]:
        if dry_run:
            self._check_base()
            yield
        else:
            with disk.locked(self._base, self._lock_timeout_s):
                yield

    def _targets(self, subclusters: Iterable[Subcluster] | None) -> tuple[Subcluster, ...]:
        targets = self._subclusters if subclusters is None else tuple(dict.fromkeys(subclusters))
        for target in targets:
            self._check_target(target)
        return targets

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

    def _path(self, vo: Vo, subcluster: Subcluster) -> Path:
        return self._base / subcluster / vo / f"{vo}.list"


def _checked(vo: Vo, tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Give the tags once each, in order, after checking them against the VO and against one another."""
    checked: dict[Tag, None] = {}
    try:
        for tag in tags:
            checked[names.parse_tag(tag, names.parse_vo(vo))] = None
    except WireError as exc:
        raise TagRefusedError(str(exc)) from exc
    tokens = [tag.encode("ascii") for tag in checked]
    for tag in checked:
        variant = listing.case_variant(tag, tokens)
        if variant:
            raise TagRefusedError(f"{tag} and {variant} differ in letter case only: choose one of them")
    return tuple(checked)


def _restore(path: Path, before: bytes | None) -> None:
    try:
        if before is None:
            path.unlink()
        else:
            disk.save_list(path, before)
    except (TagError, OSError) as exc:
        raise HalfWrittenError(
            f"a later list could not be written, and {path} could not be put back ({exc}): compare it with the others"
        ) from exc
