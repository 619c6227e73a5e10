"""What each difference between the lists and what is shown means."""

from pps_agent.tags.audit import Entry, ListEdit
from pps_agent.tags.comparison import Compared, Finding, compare, find_removed
from pps_wire.names import Subcluster, Tag

SC1, SC2 = Subcluster("ce01"), Subcluster("ce02")


def tags(*names: str) -> frozenset[Tag]:
    return frozenset(Tag(f"VO-dteam-{name}") for name in names)


def test_each_tag_has_one_finding_and_letter_case_does_not_count() -> None:
    listed = {SC1: tags("both", "new"), SC2: tags("any")}
    shown = {SC1: tags("BOTH", "old", "odd")}
    assert compare(listed, shown, {SC1: tags("old")}) == (
        Compared(SC1, "VO-dteam-both", Finding.PUBLISHED),
        Compared(SC1, "VO-dteam-new", Finding.MISSING),
        Compared(SC1, "VO-dteam-odd", Finding.EXTRA),
        Compared(SC1, "VO-dteam-old", Finding.STALE),
        Compared(SC2, "", Finding.UNREACHABLE),
    )


def test_removed_is_what_the_log_took_out_and_did_not_put_back() -> None:
    def entry(*edits: ListEdit) -> Entry:
        return Entry("change", "", "", "", edits)

    log = [
        entry(ListEdit(SC1, remove=("a", "b"))),
        entry(ListEdit(SC2, remove=("c",))),
        entry(ListEdit(SC1, add=("a",))),
        entry(ListEdit("", remove=("d",))),
    ]
    assert find_removed(log, SC1) == {"b", "d"}
