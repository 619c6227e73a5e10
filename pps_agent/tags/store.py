"""Changes of the tags of a site's subclusters: in all lists or in none, under one lock for all of them.

What a list cannot hold (who, why, until when, for which release) is in the VO's ``Ledger``.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pps_agent.actor import observe_actor
from pps_agent.tags import audit, disk, listing
from pps_agent.tags.audit import Entry
from pps_agent.tags.change import (
    PLAIN,
    Edit,
    FileChange,
    Plan,
    Request,
    TagChange,
    check_tags,
    lives_after_add,
    lives_after_remove,
    refuse_absent,
    split_removed,
)
from pps_agent.tags.errors import HalfWrittenError, TagError, TagFileError, TagRefusedError
from pps_agent.tags.intent import MAX_LISTS, Intent, apply_edit
from pps_agent.tags.ledger import Ledger
from pps_agent.tags.life import Life, Lives
from pps_agent.tags.lists import TagLists
from pps_wire.names import Subcluster, Tag, Vo

LOCK_TIMEOUT_S: Final = 30.0
_TOLD: Final = 20
"""States that one line of the log names."""


class TagStore(TagLists):
    """The lists to change: directories that are missing are made by the first tag."""

    def __init__(
        self,
        base: Path,
        subclusters: tuple[Subcluster, ...],
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        *,
        global_base: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(base, subclusters, global_base=global_base, clock=clock)
        self._lock_timeout_s = lock_timeout_s

    def add(
        self,
        vo: Vo,
        tags: Iterable[Tag],
        subclusters: Iterable[Subcluster] | None = None,
        *,
        life: Life | None = None,
        request: Request = PLAIN,
    ) -> TagChange:
        """Add tags to one VO's list of each subcluster (None: all), in all of them or in none.

        ``life`` is what is to be known of them (None: nothing more). Tags that are there stay as they are: a list
        that holds all of them keeps bytes and mtime. Raises: TagRefusedError (syntax, another VO, case variant, a
        release whose probes have not passed), UnknownTargetError, TagFileError (nothing changed), HalfWrittenError.
        """
        wanted, targets = check_tags(vo, tags), self._targets(subclusters)
        with self._writing(vo, request) as lives:
            plan = Plan("add", [self._plan_add(vo, wanted, target) for target in targets])
            plan.lives = lives_after_add(lives, plan.edits, wanted, life, request, self.now_s(lives))
            self._carry_out(vo, plan, lives, request)
        changes = tuple(edit.change for edit in plan.edits)
        added = tuple(tag for tag in wanted if any(tag in change.added for change in changes))
        return TagChange(added=added, present=tuple(tag for tag in wanted if tag not in added), files=changes)

    def remove(
        self,
        vo: Vo,
        tags: Iterable[Tag],
        subclusters: Iterable[Subcluster] | None = None,
        *,
        missing_ok: bool = False,
        request: Request = PLAIN,
    ) -> TagChange:
        """Remove tags from one VO's list of each subcluster (None: all), in all of them or in none.

        A tag that stands in none of the lists is refused, and so is one of the global list unless all subclusters lose
        it. With ``missing_ok`` neither is: what must not stand goes from wherever it stands. Raises: as ``add``.
        """
        unwanted, targets = check_tags(vo, tags), self._targets(subclusters)
        with self._writing(vo, request) as lives:
            plan = Plan("remove", [self._plan_edit(vo, target, remove=unwanted) for target in self._lists(targets)])
            removed, absent = split_removed(plan, unwanted)
            if not missing_ok:
                refuse_absent(absent, targets)
                self._refuse_part_of_global(plan, targets)
            plan.lives = lives_after_remove(lives, unwanted, targets, request)
            self._carry_out(vo, plan, lives, request)
        return TagChange(removed=removed, absent=absent, files=tuple(edit.change for edit in plan.edits))

    def replace(
        self,
        vo: Vo,
        old: Tag,
        new: Tag,
        subclusters: Iterable[Subcluster] | None = None,
        *,
        request: Request = PLAIN,
    ) -> TagChange:
        """Put one tag in the place of another wherever that one stands, all at once. Raises: as ``add``."""
        (old,), (new,), targets = check_tags(vo, [old]), check_tags(vo, [new]), self._targets(subclusters)
        with self._writing(vo, request) as lives:
            before = [self._plan_edit(vo, where, remove=(old,)) for where in self._lists(targets)]
            holding = [edit.change.subcluster for edit in before if edit.change.removed]
            if not holding:
                refuse_absent((old,), targets)
            for target in targets:
                self._refuse_variants(vo, (new,), target, besides=old)
            edits = [self._plan_edit(vo, where, add=(new,), remove=(old,)) for where in holding]
            plan = Plan("replace", edits)
            self._refuse_part_of_global(plan, targets)
            plan.lives = lives.with_entries(targets, (old,), None)
            self._carry_out(vo, plan, lives, request)
        changes = tuple(edit.change for edit in plan.edits)
        is_new = any(new in change.added for change in changes)
        return TagChange(
            added=(new,) if is_new else (), present=() if is_new else (new,), removed=(old,), files=changes
        )

    def clean(self, vo: Vo, subclusters: Iterable[Subcluster] | None = None, *, request: Request = PLAIN) -> TagChange:
        """Take out one VO's tags whose time is over, and what is known of tags that stand nowhere and announce nothing.

        Raises: TagFileError (nothing changed), HalfWrittenError.
        """
        targets = self._targets(subclusters)
        with self._writing(vo, request) as lives:
            now_s, plan = self.now_s(lives), Plan("clean", lives=lives)
            for target in targets:
                over = tuple(tag for tag, life in lives.of(target).items() if life.is_over(now_s))
                edit = self._plan_edit(vo, target, remove=over)
                plan.edits.append(edit)
                plan.lives = plan.lives.with_entries((target,), over, None)
            self._carry_out(vo, plan, lives, request)
        changes = tuple(edit.change for edit in plan.edits)
        removed = dict.fromkeys(tag for change in changes for tag in change.removed)
        return TagChange(removed=tuple(removed), files=changes)

    def adopt(self, vo: Vo, subclusters: Iterable[Subcluster] | None = None, *, request: Request = PLAIN) -> TagChange:
        """Put on record which tags stand in a VO's lists, as set before us; the lists stay as they are.

        Raises: TagFileError.
        """
        targets = self._targets(subclusters)
        with self._writing(vo, request) as lives:
            entries, edits = tuple(self.ledger(vo).entries()), []
            for target in targets:
                known = audit.find_origins(entries, target)
                foreign = tuple(tag for tag in self.standing(vo, target) if tag not in known)
                edits.append(Edit(FileChange(target, self._path(vo, target), added=foreign), b"", b""))
            plan = Plan("adopt", edits, lives)
            self._carry_out(vo, plan, lives, request, writes=False)
        changes = tuple(edit.change for edit in plan.edits)
        return TagChange(added=tuple(dict.fromkeys(tag for c in changes for tag in c.added)), files=changes)

    def set_life(
        self,
        vo: Vo,
        lives_by_tag: Mapping[Subcluster, Mapping[Tag, Life | None]],
        *,
        request: Request = PLAIN,
    ) -> None:
        """Change what is known of tags, and no list. Raises: UnknownTargetError, TagFileError."""
        self._targets(lives_by_tag)
        with self._writing(vo, request) as lives:
            plan, told = Plan("state", lives=lives), []
            for subcluster, entries in lives_by_tag.items():
                for tag, life in entries.items():
                    plan.lives = plan.lives.with_entries((subcluster,), (tag,), life)
                    told.append(f"{tag} on {subcluster} is {life.state.value if life else 'forgotten'}")
            more = f" and {len(told) - _TOLD} more" * (len(told) > _TOLD)
            request = request._replace(reason=request.reason or ", ".join(told[:_TOLD]) + more)
            self._carry_out(vo, plan, lives, request)

    # --- how

    def _plan_add(self, vo: Vo, wanted: tuple[Tag, ...], subcluster: Subcluster) -> Edit:
        there = set(self.standing(vo, subcluster))
        missing = tuple(tag for tag in wanted if tag not in there)
        self._refuse_variants(vo, missing, subcluster)
        return self._plan_edit(vo, subcluster, add=missing)

    def _plan_edit(
        self, vo: Vo, where: Subcluster | None, *, add: tuple[Tag, ...] = (), remove: tuple[Tag, ...] = ()
    ) -> Edit:
        path = self._path(vo, where)
        before = disk.load_list(path)
        present = listing.find_present(before or b"", (*add, *remove))
        added = tuple(tag for tag in add if tag not in present)
        removed = tuple(tag for tag in remove if tag in present)
        content = listing.with_tags(listing.without_tags(before or b"", removed), added)
        return Edit(FileChange(where, path, added=added, removed=removed), before, content)

    def _refuse_variants(
        self, vo: Vo, wanted: tuple[Tag, ...], subcluster: Subcluster, besides: Tag | None = None
    ) -> None:
        if not wanted:
            return
        tokens = [token for token in self._tokens(vo, subcluster) if besides is None or token != besides.encode()]
        if found := listing.find_variant(wanted, tokens):
            tag, variant = found
            raise TagRefusedError(
                f"{tag} differs from {variant} of {subcluster} in letter case only, which would stop the"
                f" information system from taking any tag: use {variant}, or remove it first"
            )

    def _tokens(self, vo: Vo, subcluster: Subcluster) -> list[bytes]:
        """Give all that stands in any VO's list of a subcluster.

        Another VO's list that cannot be read is passed over, or that VO could keep all others from their tags;
        publishers leave out variants as well.
        """
        tokens: list[bytes] = []
        for owner in dict.fromkeys((vo, *self.vos(subcluster))):
            for where in (subcluster, None) if self._global_base is not None else (subcluster,):
                try:
                    tokens += listing.parse_tokens(disk.load_list(self._path(owner, where)) or b"")
                except TagFileError:
                    if owner == vo:
                        raise
        return tokens

    def _refuse_part_of_global(self, plan: Plan, targets: tuple[Subcluster, ...]) -> None:
        """A tag of the global list stands on every subcluster: it cannot be taken from some."""
        for edit in plan.edits:
            if edit.change.subcluster is None and edit.change.removed and set(targets) != set(self._subclusters):
                raise TagRefusedError(
                    f"{' '.join(edit.change.removed)} stands in the global list {edit.change.path}, so on every"
                    " subcluster: leave the subcluster out, to take it from all"
                )

    def _carry_out(self, vo: Vo, plan: Plan, before: Lives, request: Request, *, writes: bool = True) -> None:
        """Do all of a change or nothing. Raises: TagFileError, HalfWrittenError."""
        edits, is_same = plan.list_edits(), plan.lives.tags == before.tags
        for edit in plan.edits:
            if len(edit.after) > max(disk.MAX_LIST_BYTES, len(edit.before or b"")):
                raise TagRefusedError(
                    f"{edit.change.path} would be larger than {disk.MAX_LIST_BYTES} bytes, and nobody could read it:"
                    " remove tags first"
                )
        if len(edits) > MAX_LISTS:
            raise TagRefusedError(f"{len(edits)} lists are more than {MAX_LISTS} at once: name subclusters")
        if request.dry_run or (not edits and is_same):
            return
        at_s = self.now_s(before)
        lives = None if is_same else Lives(plan.lives.tags, at_s)
        entry = Entry(
            verb=plan.verb,
            at=datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            who=request.who or observe_actor(),
            via=request.via,
            lists=edits,
            reason=request.reason,
            forced=request.forced,
        )
        ledger = Ledger(self._base, vo)
        intent = Intent(audit.render_entry(entry, ledger.head()), lives)
        ledger.begin(intent)
        try:
            if writes:
                self._write(plan.edits)
        except HalfWrittenError:
            raise  # the next who opens the lists finishes it
        except TagFileError:
            ledger.drop()
            raise
        ledger.finish(intent)

    def _finish_pending(self, vo: Vo) -> None:
        """Finish a change whose process was killed. Raises: TagFileError."""
        ledger = Ledger(self._base, vo)
        intent = ledger.intent()
        if intent is None:
            return
        if intent.entry.verb != "adopt":
            edits = []
            for edit in intent.entry.lists:
                where = Subcluster(edit.subcluster) if edit.subcluster else None
                path = self._path(vo, where)
                before = disk.load_list(path)
                edits.append(Edit(FileChange(where, path), before, apply_edit(before or b"", edit)))
            self._write(edits)
        ledger.finish(intent)

    def _write(self, edits: list[Edit]) -> None:
        """Write all changed lists, or put back what was written and raise."""
        with contextlib.ExitStack() as undo:
            for edit in edits:
                if edit.after == (edit.before or b""):
                    continue
                path = edit.change.path
                try:
                    undo.callback(disk.remove_directories, disk.make_directories(path.parent, self._root_of(edit)))
                    disk.save_list(path, edit.after)
                except TagFileError as exc:
                    raise TagFileError(f"{exc} (no list was changed: the ones written before are put back)") from exc
                undo.callback(_restore, path, edit.before)
            undo.pop_all()

    @contextlib.contextmanager
    def _writing(self, vo: Vo, request: Request) -> Iterator[Lives]:
        """Hold the lock, finish what another began, and give what is known of the VO's tags."""
        if request.dry_run:
            self._check_base()
            yield self.lives(vo)
        else:
            with disk.locked(self._base, self._lock_timeout_s):
                self._finish_pending(vo)
                yield Ledger(self._base, vo).lives()

    def _targets(self, subclusters: Iterable[Subcluster] | None) -> tuple[Subcluster, ...]:
        targets = self._subclusters if subclusters is None else tuple(dict.fromkeys(subclusters))
        for target in targets:
            self._check_target(target)
        return targets

    def _root_of(self, edit: Edit) -> Path:
        is_global = self._global_base is not None and edit.change.path.is_relative_to(self._global_base)
        return self._global_base if is_global and self._global_base is not None else self._base


def _restore(path: Path, before: bytes | None) -> None:
    try:
        if before is None:
            path.unlink()
        else:
            disk.save_list(path, before)
    except (TagError, OSError) as exc:
        raise HalfWrittenError(
            f"a later list could not be written, and {path} could not be put back ({exc}): the next change finishes"
            " this one; see that it can"
        ) from exc
