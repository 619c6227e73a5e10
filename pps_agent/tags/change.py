"""What a change of tags does: to each list, and to what is known of the tags. Pure; ``store.py`` carries it out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from pps_agent.tags.audit import ListEdit
from pps_agent.tags.errors import TagRefusedError
from pps_agent.tags.life import LISTED, NOTHING_KNOWN, UNLISTED, Life, Lives, TagState
from pps_wire import names
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo

_ANNOUNCED: Final = (TagState.VERIFIED, TagState.PENDING_REMOVAL)


class FileChange(NamedTuple):
    """What a change does to one list. An unchanged list has neither ``added`` nor ``removed``.

    ``subcluster`` None is the global list.
    """

    subcluster: Subcluster | None
    path: Path
    added: tuple[Tag, ...] = ()
    removed: tuple[Tag, ...] = ()


class TagChange(NamedTuple):
    """What a change does (or, in a dry run, would do), over all its lists.

    ``present`` are tags asked for that stood in every list already, ``absent`` those to be removed
    that stood in none.
    """

    added: tuple[Tag, ...] = ()
    present: tuple[Tag, ...] = ()
    removed: tuple[Tag, ...] = ()
    absent: tuple[Tag, ...] = ()
    files: tuple[FileChange, ...] = ()


class Request(NamedTuple):
    """How a change is asked for: the command (``via``) and account, why, and whether against what is known.

    ``person``: somebody wants it so; else it follows from what was seen, and may be undone the same way.
    """

    via: str = "pps-agent"
    who: str = ""
    reason: str = ""
    forced: bool = False
    dry_run: bool = False
    person: bool = True


PLAIN: Final = Request()


class Edit(NamedTuple):
    """What a change does to the bytes of one list; ``before`` None: it is not there."""

    change: FileChange
    before: bytes | None
    after: bytes


class Plan:
    """Everything one change does: edits of lists, and the VO's entries afterwards."""

    def __init__(self, verb: str, edits: Iterable[Edit] = (), lives: Lives = NOTHING_KNOWN) -> None:
        self.verb, self.edits, self.lives = verb, list(edits), lives

    def list_edits(self) -> tuple[ListEdit, ...]:
        """Give the edits that do something, as the log has them."""
        return tuple(
            ListEdit(edit.change.subcluster or "", edit.change.added, edit.change.removed)
            for edit in self.edits
            if edit.change.added or edit.change.removed
        )


def lives_after_add(
    lives: Lives, edits: Iterable[Edit], wanted: tuple[Tag, ...], life: Life | None, request: Request, now_s: float
) -> Lives:
    """Give what is known after tags were added by these edits, one for each subcluster.

    Raises: TagRefusedError for those of a release that has not passed, or is on its way out.
    """
    for change in (edit.change for edit in edits):
        target = change.subcluster
        if target is None:
            raise AssertionError("tags are added to a subcluster's list only")
        if life is not None:
            lives = lives.with_entries((target,), wanted, life)
            continue
        for tag in wanted:
            known = lives.of(target).get(tag)
            if known is not None and not known.release and known.is_over(now_s):
                lives = lives.with_entries((target,), (tag,), None)  # it begins anew, without an end
            if known is None or not known.release:
                continue
            if not request.forced:
                _refuse_against_release(tag, known, is_new=tag in change.added)
            forced = LISTED if known.state not in _ANNOUNCED else ""
            lives = lives.with_entries((target,), (tag,), Life(known.state, known.release, known.expires_at, forced))
    return lives


def _refuse_against_release(tag: Tag, known: Life, *, is_new: bool) -> None:
    if known.state not in _ANNOUNCED:
        raise TagRefusedError(
            f"{tag} belongs to {known.release}, which is {known.state.value}: it comes when all probes pass;"
            " --force sets it against them"
        )
    if known.state is TagState.PENDING_REMOVAL and is_new:
        raise TagRefusedError(
            f"{tag} belongs to {known.release}, which is on its way out; --force sets it all the same, and the next"
            " round takes it away again if the release was withdrawn"
        )


def lives_after_remove(
    lives: Lives, unwanted: tuple[Tag, ...], targets: tuple[Subcluster, ...], request: Request
) -> Lives:
    """What a person removes stays away, also when it announces a release that goes on passing."""
    for target in targets:
        for tag in unwanted:
            known = lives.of(target).get(tag)
            after = None
            if known is not None and known.release:
                stays = request.person or known.state not in _ANNOUNCED
                state = known.state if stays else TagState.NOT_VERIFIED  # the round that follows says more
                after = Life(state, known.release, known.expires_at, UNLISTED if request.person else "")
            lives = lives.with_entries((target,), (tag,), after)
    return lives


def refuse_absent(absent: tuple[Tag, ...], targets: tuple[Subcluster, ...]) -> None:
    """Refuse to remove what stands nowhere. Raises: TagRefusedError."""
    if absent:
        raise TagRefusedError(f"not tagged {' '.join(absent)} on {', '.join(targets)}: see `pps-agent tag list`")


def split_removed(plan: Plan, unwanted: tuple[Tag, ...]) -> tuple[tuple[Tag, ...], tuple[Tag, ...]]:
    """Give the tags that a plan removes somewhere, and those that it finds nowhere."""
    removed = tuple(tag for tag in unwanted if any(tag in edit.change.removed for edit in plan.edits))
    return removed, tuple(tag for tag in unwanted if tag not in removed)


def check_tags(vo: Vo, tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Give the tags once each, in order, after checking them against the VO and against one another."""
    checked: dict[Tag, None] = {}
    try:
        for tag in tags:
            checked[names.parse_tag(tag, names.parse_vo(vo))] = None
    except WireError as exc:
        raise TagRefusedError(str(exc)) from exc
    folded: dict[str, Tag] = {}
    for tag in checked:
        if (variant := folded.setdefault(tag.lower(), tag)) != tag:
            raise TagRefusedError(f"{tag} and {variant} differ in letter case only: choose one of them")
    return tuple(checked)
