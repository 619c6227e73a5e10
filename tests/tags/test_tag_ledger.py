"""What is written down beside the lists: the chain of changes, changes cut off in the middle, and tags with an end."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.tags import audit
from pps_agent.tags.change import Request
from pps_agent.tags.errors import TagFileError, TagRefusedError
from pps_agent.tags.ledger import DIRECTORY, Ledger
from pps_agent.tags.life import LATEST_S, LISTED, UNLISTED, Life, Lives, TagState, parse_lives, render_lives
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo
from tests.tags.test_tag_store import ROOT, list_path, write_list

DTEAM, OPS = Vo("dteam"), Vo("ops")
SC1, SC2 = Subcluster("ce01.example.org"), Subcluster("ce02.example.org")
A, B, C = Tag("VO-dteam-a"), Tag("VO-dteam-b"), Tag("VO-dteam-c")
NOW = 1_790_000_000.0
RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "info").mkdir()
    return tmp_path / "info"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(base: Path, clock: Clock) -> TagStore:
    return TagStore(base, (SC1, SC2), clock=clock)


def check(store: TagStore) -> audit.Checked:
    return audit.verify(store.ledger(DTEAM).lines())


# --- the log


def test_each_change_is_one_line_that_says_who_did_what_where_and_why(base: Path, store: TagStore) -> None:
    asked = Request(via="lcg-ManageVOTag", who="alice (uid 1000)", reason="preview is good", forced=True)
    store.add(DTEAM, [A, B], request=asked)
    store.add(DTEAM, [A])
    store.remove(DTEAM, [B], [SC2])
    first, second = store.ledger(DTEAM).entries()
    assert (first.verb, first.via, first.who, first.reason, first.forced) == (
        *("add", "lcg-ManageVOTag", "alice (uid 1000)", "preview is good", True),
    )
    assert first.at == "2026-09-21T14:13:20Z"
    assert [(edit.subcluster, edit.add) for edit in first.lists] == [(SC1, (A, B)), (SC2, (A, B))]
    assert [(edit.subcluster, edit.remove) for edit in second.lists] == [(SC2, (B,))]
    assert second.who.endswith(f"(uid {os.getuid()})")
    assert (check(store).fault, check(store).head) == ("", store.ledger(DTEAM).head())
    assert check(store).head.seq == 2


def test_a_dry_run_leaves_no_line(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A], request=Request(dry_run=True))
    assert not (base / DIRECTORY).exists()


@given(data=st.data())
def test_any_changed_byte_but_of_the_last_line_breaks_the_chain_and_of_the_last_one_changes_the_head(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines, head = [], audit.Head()
    for number in range(3):
        entry = audit.Entry(
            "add", "2026-09-21T14:13:20Z", "root", "test", (audit.ListEdit(SC1, (f"VO-dteam-{number}",)),)
        )
        lines.append(audit.render_entry(entry, head))
        head = audit.follow(head, lines[-1])
    content = b"".join(line + b"\n" for line in lines)
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255))
    spoilt = content[:at] + bytes([content[at] ^ other]) + content[at + 1 :]
    seen = audit.verify(
        spoilt.splitlines(keepends=True) if b"\r" not in spoilt else re.findall(rb"[^\n]*\n|[^\n]+", spoilt)
    )
    assert seen.fault or seen.head != head


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: lines[1:], "line 1: does not follow the one before: lines before it were dropped"),
        (lambda lines: lines[:1] + lines[2:], "line 2: does not follow the one before: line 1 was changed"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1: does not follow"),
        (lambda lines: [*lines, b"{}\n"], "line 4: does not follow"),
        (lambda lines: [*lines, b"nonsense\n"], "line 4: is no entry of the log"),
        (lambda lines: [*lines, b"[" * 100_000 + b"\n"], "line 4: is no entry of the log"),
    ],
)
def test_lines_that_are_dropped_added_or_moved_are_found(
    store: TagStore, spoil: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    for tag in (A, B, C):
        store.add(DTEAM, [tag])
    path = store.ledger(DTEAM).audit_path
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    assert check(store).fault.startswith(words)


def test_a_log_that_somebody_broke_is_told_and_nothing_is_changed(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A])
    store.ledger(DTEAM).audit_path.write_bytes(b"nonsense\n")
    before = list_path(base).read_bytes()
    with pytest.raises(TagFileError, match=r"audit.jsonl: its last line is no entry: see pps-agent tag audit --verify"):
        store.add(DTEAM, [B])
    assert list_path(base).read_bytes() == before
    assert store.list_tags(DTEAM, SC1) == (A,)


@pytest.mark.parametrize("number", ["Infinity", "-1e999", "null", '"x"', "[]"])
def test_a_last_line_with_a_number_that_is_none_is_told(store: TagStore, number: str) -> None:
    store.add(DTEAM, [A])
    store.ledger(DTEAM).audit_path.write_text(f'{{"seq": {number}}}\n')
    with pytest.raises(TagFileError, match=r"audit.jsonl: its last line is no entry"):
        store.add(DTEAM, [B])


@pytest.mark.parametrize("begin", [b"", b"\n"])
def test_a_log_whose_last_line_has_no_end_in_sight_holds_the_lock_from_nobody(store: TagStore, begin: bytes) -> None:
    """A sparse file costs its maker nothing, and whoever reads all of it hours."""
    store.add(DTEAM, [A])
    path = store.ledger(DTEAM).audit_path
    path.write_bytes(begin)
    os.truncate(path, 2**42)
    for end in (b"", b"\n"):
        with path.open("ab") as stream:
            stream.write(end)
        began = time.monotonic()
        with pytest.raises(TagFileError, match=r"audit.jsonl: its last line is no entry"):
            store.add(DTEAM, [B])
        with pytest.raises(TagFileError, match=r"audit.jsonl"):
            store.adopt(DTEAM)
        assert time.monotonic() - began < 30


def test_a_log_with_a_second_name_is_not_written(base: Path, store: TagStore) -> None:
    """It may be another VO's: the log of one must not tell of the other."""
    store.add(DTEAM, [A])
    store.add(OPS, [Tag("VO-ops-a")])
    path, other = store.ledger(DTEAM).audit_path, store.ledger(OPS).audit_path
    path.unlink()
    path.hardlink_to(other)
    before = other.read_bytes()
    with pytest.raises(TagFileError, match=r"audit.jsonl.* has 2 names"):
        store.add(DTEAM, [B])
    assert other.read_bytes() == before
    assert store.list_tags(DTEAM, SC1) == (A,)


def test_a_pipe_in_the_place_of_the_log_hangs_nobody(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A])
    path = store.ledger(DTEAM).audit_path
    path.unlink()
    os.mkfifo(path)
    for operation in (lambda: store.add(DTEAM, [B]), lambda: list(store.ledger(DTEAM).lines())):
        with pytest.raises(TagFileError, match="is not a regular file"):
            operation()


ADD_MANY = """
import sys
from pathlib import Path
from pps_agent.tags.store import TagStore
store = TagStore(Path(sys.argv[1]), ("ce01.example.org", "ce02.example.org"))
for number in range(15):
    store.add("dteam", [f"VO-dteam-{sys.argv[2]}-{number}"])
"""


def test_many_processes_at_once_keep_the_chain_whole_and_lose_nothing(base: Path, store: TagStore) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", ADD_MANY, str(base), name], cwd=ROOT) for name in "pqrstuvw"]
    assert [writer.wait(120) for writer in writers] == [0] * 8
    assert len(store.tags(SC1)) == len(store.tags(SC2)) == 120
    assert (check(store).fault, check(store).head.seq) == ("", 120)


# --- a change cut off


DURABLE = ("open", "write", "fsync", "replace", "unlink", "mkdir", "ftruncate", "fchmod")
CHANGES: dict[str, Callable[[TagStore], object]] = {
    "add": lambda store: store.add(DTEAM, [B, C]),
    "remove": lambda store: store.remove(DTEAM, [A]),
    "replace": lambda store: store.replace(DTEAM, A, B),
    "life": lambda store: store.add(DTEAM, [B], life=Life(TagState.VERIFIED, RELEASE, NOW + 1000)),
    "clean": lambda store: store.clean(DTEAM),
}


def picture(store: TagStore) -> tuple[object, ...]:
    return store.list_tags(DTEAM, SC1), store.list_tags(DTEAM, SC2), store.lives(DTEAM).tags


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Do something in a child that dies as it comes to its ``number``-th durable call; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def wrapper(*args: object, **more: object) -> object:
                nonlocal left
                if call is not real_open or args[1] & os.O_CREAT:  # type: ignore[operator]
                    left -= 1
                    if left < 0:
                        os._exit(9)
                return call(*args, **more)

            return wrapper

        real_open = os.open
        for name in DURABLE:
            setattr(os, name, counted(getattr(os, name)))
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_any_durable_call_all_lists_are_old_or_new_and_the_next_one_finishes(
    tmp_path: Path, clock: Clock, change: str
) -> None:
    def prepare(number: int) -> TagStore:
        base = tmp_path / f"base{number}"
        base.mkdir()
        made = TagStore(base, (SC1, SC2), clock=clock)
        write_list(base, b"# mine\nVO-dteam-a VO-dteam-old\n")
        write_list(base, b"VO-dteam-a\n", SC2)
        made.add(DTEAM, [Tag("VO-dteam-over")], life=Life(TagState.VERIFIED, "", NOW + 1))
        clock.now = NOW + 5
        return made

    whole = prepare(0)
    before = picture(whole)
    CHANGES[change](whole)
    after, lines = picture(whole), whole.ledger(DTEAM).head().seq
    assert before != after
    number = 0
    seen = set()
    while killed_at(number, lambda: CHANGES[change](store)) if (store := prepare(number + 1)) else False:
        seen.add(picture(store) == after)
        assert picture(store) in (before, after), number
        assert store.add(DTEAM, [Tag("VO-dteam-next")]).added  # whoever comes next finishes it
        assert check(store).fault == ""
        for subcluster in (SC1, SC2):
            content = list_path(tmp_path / f"base{number + 1}", subcluster).read_bytes()
            assert (b"# mine\n" in content) is (subcluster == SC1)
        rest = (tmp_path / f"base{number + 1}").rglob("*")
        assert not [path for path in rest if path.name.endswith(".tmp") or path.name == "intent.json"]
        if len(seen) == 2:
            assert store.ledger(DTEAM).head().seq in (lines, lines + 1)
        number += 1
    assert number > 8
    assert seen == {True, False}


def test_who_may_only_read_sees_a_change_that_was_begun_as_if_it_were_done(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-a\n")
    number = 0
    while not (base / DIRECTORY / DTEAM / "intent.json").exists():
        killed_at(number, lambda: store.replace(DTEAM, A, B, [SC1]))
        number += 1
    assert list_path(base).read_bytes() == b"VO-dteam-a\n"
    assert store.list_tags(DTEAM, SC1) == (B,)
    assert store.tags(SC1) == {B}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda edit: edit | {"subcluster": "../../../etc"},
        lambda edit: edit | {"add": ["VO-dteam-x\nVO-ops-y"]},
        lambda edit: edit | {"add": ["VO-ops-y"]},
        lambda edit: edit | {"remove": [7]},
        lambda _: "nothing",
    ],
)
def test_a_begun_change_that_others_forged_is_refused(
    base: Path, store: TagStore, spoil: Callable[[dict[str, object]], object]
) -> None:
    """The VO's software manager may write there: it must not become a way to other files."""
    store.add(DTEAM, [A])
    line = {"seq": 2, "prev": "", "verb": "add", "at": "", "who": "", "via": "", "lists": [spoil({"subcluster": SC1})]}
    forged = {"format": 1, "line": json.dumps(line), "lives": None}
    (base / DIRECTORY / DTEAM / "intent.json").write_text(json.dumps(forged))
    before = list_path(base).read_bytes()
    for operation in (lambda: store.add(DTEAM, [B]), lambda: store.list_tags(DTEAM, SC1)):
        with pytest.raises(TagFileError, match=r"intent.json: "):
            operation()
    assert list_path(base).read_bytes() == before


def test_a_begun_change_of_more_lists_than_a_change_may_have_is_refused(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A])
    lists = [{"subcluster": f"ce{number}", "add": [B], "remove": []} for number in range(1001)]
    line = {"seq": 2, "prev": "", "verb": "add", "at": "", "who": "", "via": "", "lists": lists}
    forged = {"format": 1, "line": json.dumps(line), "lives": None}
    (base / DIRECTORY / DTEAM / "intent.json").write_text(json.dumps(forged))
    with pytest.raises(TagFileError, match="about 1001 lists, more than 1000"):
        store.add(DTEAM, [B])
    assert not (base / "ce0").exists()


def test_a_change_of_too_many_lists_is_refused_before_it_begins(base: Path) -> None:
    store = TagStore(base, tuple(Subcluster(f"ce{number}") for number in range(1001)))
    with pytest.raises(TagRefusedError, match="1001 lists are more than 1000 at once"):
        store.add(DTEAM, [A])
    assert not (base / "ce0").exists()


# --- tags with an end


def test_a_tag_whose_time_is_over_is_gone_though_nobody_took_it_out(base: Path, store: TagStore, clock: Clock) -> None:
    store.add(DTEAM, [A], life=Life(TagState.VERIFIED, "", NOW + 100))
    store.add(DTEAM, [B])
    assert store.list_tags(DTEAM, SC1) == (A, B)
    clock.now += 100
    assert store.list_tags(DTEAM, SC1) == (B,)
    assert store.tags(SC1) == {A, B}
    assert store.clean(DTEAM).removed == (A,)
    assert list_path(base).read_bytes() == b"VO-dteam-b\n"
    assert store.lives(DTEAM).tags == {}
    assert store.clean(DTEAM).removed == ()


def test_a_tag_whose_time_was_over_begins_anew_when_it_is_added_again(store: TagStore, clock: Clock) -> None:
    store.add(DTEAM, [A], life=Life(TagState.VERIFIED, "", NOW + 100))
    clock.now += 200
    store.add(DTEAM, [A], [SC1])
    assert (store.list_tags(DTEAM, SC1), store.list_tags(DTEAM, SC2)) == ((A,), ())


def test_the_log_names_each_state(store: TagStore) -> None:
    store.set_life(DTEAM, {SC1: {A: Life(TagState.BROKEN, RELEASE)}})
    store.set_life(DTEAM, {SC1: {A: None}})
    assert [entry.reason for entry in store.ledger(DTEAM).entries()] == [
        "VO-dteam-a on ce01.example.org is installedbroken",
        "VO-dteam-a on ce01.example.org is forgotten",
    ]


def test_a_clock_that_is_set_back_revives_nothing(store: TagStore, clock: Clock) -> None:
    store.add(DTEAM, [A], life=Life(TagState.VERIFIED, "", NOW + 100))
    clock.now += 200
    store.add(DTEAM, [B], [SC2], life=Life(TagState.VERIFIED, "", NOW + 1000))
    clock.now = NOW - 1000
    assert store.list_tags(DTEAM, SC1) == ()


def test_a_tag_of_a_release_that_has_not_passed_is_set_by_force_only(store: TagStore) -> None:
    store.set_life(DTEAM, {SC1: {A: Life(TagState.BROKEN, RELEASE)}})
    with pytest.raises(TagRefusedError, match=f"VO-dteam-a belongs to {RELEASE}, which is installedbroken"):
        store.add(DTEAM, [A], [SC1])
    store.add(DTEAM, [A], [SC1], request=Request(forced=True))
    assert store.lives(DTEAM).of(SC1)[A] == Life(TagState.BROKEN, RELEASE, None, LISTED)
    assert [entry.forced for entry in store.ledger(DTEAM).entries()] == [False, True]
    store.remove(DTEAM, [A], [SC1])
    assert store.lives(DTEAM).of(SC1)[A].forced == UNLISTED


def test_what_stood_before_us_is_put_on_record_and_stays(base: Path, store: TagStore) -> None:
    write_list(base, b"# by hand\nVO-dteam-a VO-ops-odd \xff\n")
    store.add(DTEAM, [B], [SC1])
    before = list_path(base).read_bytes()
    assert store.adopt(DTEAM).added == (A,)
    assert list_path(base).read_bytes() == before
    origins = audit.find_origins(store.ledger(DTEAM).entries(), SC1)
    assert {tag: entry.verb for tag, entry in origins.items()} == {A: "adopt", B: "add"}
    assert store.adopt(DTEAM).added == ()
    assert check(store).head.seq == 2


# --- replace, and the global list


def test_replacing_puts_the_new_tag_wherever_the_old_one_stood(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A], [SC1])
    store.add(DTEAM, [C], [SC2])
    change = store.replace(DTEAM, A, B)
    assert (change.added, change.removed) == ((B,), (A,))
    assert (store.list_tags(DTEAM, SC1), store.list_tags(DTEAM, SC2)) == ((B,), (C,))
    with pytest.raises(TagRefusedError, match="not tagged VO-dteam-a on"):
        store.replace(DTEAM, A, B)
    assert store.replace(DTEAM, B, Tag("VO-dteam-B")).added == ("VO-dteam-B",)  # case alone may be corrected


@pytest.fixture
def with_global(tmp_path: Path, base: Path, clock: Clock) -> TagStore:
    everywhere = tmp_path / "edg"
    (everywhere / "dteam").mkdir(parents=True)
    (everywhere / "dteam" / "dteam.list").write_text("VO-dteam-a\n")
    return TagStore(base, (SC1, SC2), global_base=everywhere, clock=clock)


def test_the_global_list_counts_for_every_subcluster(tmp_path: Path, base: Path, with_global: TagStore) -> None:
    write_list(base, b"VO-dteam-b\n")
    assert (with_global.list_tags(DTEAM, SC1), with_global.list_tags(DTEAM, SC2)) == ((B, A), (A,))
    assert with_global.add(DTEAM, [A]).present == (A,)
    with pytest.raises(TagRefusedError, match="differs from VO-dteam-a"):
        with_global.add(DTEAM, [Tag("VO-dteam-A")], [SC2])
    with pytest.raises(TagRefusedError, match="stands in the global list"):
        with_global.remove(DTEAM, [A], [SC1])
    assert with_global.remove(DTEAM, [A]).removed == (A,)
    assert (tmp_path / "edg" / "dteam" / "dteam.list").read_bytes() == b""
    assert with_global.list_tags(DTEAM, SC1) == (B,)


# --- the document


@given(
    st.dictionaries(
        st.sampled_from([SC1, SC2]),
        st.dictionaries(
            st.sampled_from([A, B, C]),
            st.builds(
                Life,
                st.sampled_from(TagState),
                st.text(max_size=20).filter(lambda text: text.isprintable()),
                st.none() | st.floats(0, 1e11),
                st.sampled_from(["", LISTED, UNLISTED]),
            ),
            min_size=1,
        ),
    ),
    st.floats(0, 1e11),
)
def test_what_is_known_of_tags_reads_back(tags: dict[Subcluster, dict[Tag, Life]], at: float) -> None:
    lives = Lives(tags, at)
    assert parse_lives(render_lives(lives), DTEAM) == lives


@pytest.mark.parametrize("at_s", [-1e300, -1.0, LATEST_S, LATEST_S + 1, 1e300])
def test_what_is_written_can_be_read_again_whatever_the_time(at_s: float) -> None:
    lives = parse_lives(render_lives(Lives({SC1: {A: Life(TagState.VERIFIED, "", at_s)}}, at_s)), DTEAM)
    assert {lives.written_at, lives.of(SC1)[A].expires_at} == {min(max(at_s, 0), LATEST_S)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 2, "written_at": 0, "tags": {}}',
        b'{"format": 1, "written_at": "now", "tags": {}}',
        b'{"format": 1, "written_at": 1e999, "tags": {}}',
        b'{"format": 1, "written_at": 0, "tags": {"../x": {}}}',
        b'{"format": 1, "written_at": 0, "tags": {"ce": {"VO-ops-x": {"state": "installedbroken"}}}}',
        b'{"format": 1, "written_at": 0, "tags": {"ce": {"VO-dteam-x": {"state": "fine"}}}}',
        b'{"format": 1, "written_at": 0, "tags": {"ce": {"VO-dteam-x": {"state": "installedbroken", "more": 1}}}}',
        b'{"format": 1, "written_at": 1' + b"0" * 400 + b', "tags": {}}',
        b'{"format": 1, "written_at": 1e300, "tags": {}}',
        b'{"format": 1, "written_at": -1, "tags": {}}',
        b'{"format": 1, "written_at": 253402300800, "tags": {}}',
        b"[" * 100_000,
    ],
)
def test_a_document_that_is_none_of_ours_is_refused_with_the_reason(
    base: Path, store: TagStore, content: bytes
) -> None:
    with pytest.raises(WireError):
        parse_lives(content, DTEAM)
    path = base / DIRECTORY / DTEAM / "life.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(TagFileError, match=r"life\.json"):
        Ledger(base, DTEAM).lives()
