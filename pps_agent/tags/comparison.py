"""The tags of the lists beside those that an information system shows: what each difference means. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from pps_agent.tags.audit import Entry
from pps_wire.names import Subcluster, Tag


class Finding(Enum):
    """How one tag of one subcluster stands."""

    PUBLISHED = "published"
    MISSING = "missing"
    """It stands in a list and is not shown."""
    STALE = "stale"
    """It is shown, and was removed from the list: not yet noticed, or never."""
    EXTRA = "extra"
    """It is shown, and stood in no list that we know of: somebody else publishes it."""
    UNREACHABLE = "unreachable"
    """What is shown could not be looked at, or not the subcluster's entry."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One tag. ``tag`` is empty where nothing of the subcluster can be told."""

    subcluster: Subcluster
    tag: str
    finding: Finding


def compare(
    listed: Mapping[Subcluster, Iterable[Tag]],
    shown: Mapping[Subcluster, Iterable[Tag]],
    removed: Mapping[Subcluster, Iterable[str]],
) -> tuple[Compared, ...]:
    """Give one finding for each tag, sorted. ``removed`` are tags that our own log says were taken out.

    The information system compares tags without regard to letter case, so this does too. A subcluster it does not
    know is unreachable.
    """
    return tuple(finding for subcluster in sorted(listed) for finding in _compare(subcluster, listed, shown, removed))


def find_removed(entries: Iterable[Entry], subcluster: Subcluster) -> frozenset[str]:
    """Give the tags that the log says were once taken from a subcluster's list and not put back."""
    removed: set[str] = set()
    for entry in entries:
        for edit in entry.lists:
            if edit.subcluster in (subcluster, ""):
                removed = (removed | set(edit.remove)) - set(edit.add)
    return frozenset(removed)


def _compare(
    subcluster: Subcluster,
    listed: Mapping[Subcluster, Iterable[Tag]],
    shown: Mapping[Subcluster, Iterable[Tag]],
    removed: Mapping[Subcluster, Iterable[str]],
) -> Iterator[Compared]:
    if subcluster not in shown:
        yield Compared(subcluster, "", Finding.UNREACHABLE)
        return
    here = {tag.lower(): tag for tag in listed[subcluster]}
    there = {tag.lower(): tag for tag in shown[subcluster]}
    gone = {tag.lower() for tag in removed.get(subcluster, ())}
    for folded in sorted({*here, *there}):
        if folded in here:
            yield Compared(subcluster, here[folded], Finding.PUBLISHED if folded in there else Finding.MISSING)
        else:
            yield Compared(subcluster, there[folded], Finding.STALE if folded in gone else Finding.EXTRA)
