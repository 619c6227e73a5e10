"""Manifests: what is accepted cannot reach outside its tree, here or on a system that folds names."""

import hashlib
import itertools
import os
import posixpath
import tempfile
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pps_wire.errors import WireError
from pps_wire.manifest import (
    MAX_ENTRIES,
    MAX_LINE_BYTES,
    MAX_LINK_CHAIN,
    Directory,
    Entry,
    File,
    Head,
    Link,
    Manifest,
    lint_manifest,
    parse_manifest,
    render_manifest,
)
from pps_wire.names import ReleaseId
from pps_wire.paths import MAX_NAME_BYTES, MAX_PATH_BYTES
from tests.contract.samples import ID, MANIFEST

SHA = hashlib.sha256().hexdigest()


def file(path: str, size: int = 0) -> File:
    return File(p=path, s=size, h=SHA, o=0, z=9 if size else 0)


def manifest(*entries: Entry) -> Manifest:
    """Give a manifest of these entries, the frames of its files one after the other."""
    ends = itertools.accumulate((entry.z for entry in entries if isinstance(entry, File)), initial=0)
    entries = tuple(
        msgspec.structs.replace(entry, o=next(ends)) if isinstance(entry, File) else entry for entry in entries
    )
    total = sum(entry.s for entry in entries if isinstance(entry, File))
    return Manifest(Head(release=ReleaseId(ID), entries=len(entries), installed_bytes=total), entries)


def is_accepted(candidate: Manifest) -> bool:
    try:
        lint_manifest(candidate)
    except WireError:
        return False
    return True


def lines_of(*entries: object, **head: object) -> list[bytes]:
    first = {"t": "head", "release": ID, "entries": len(entries), "installed_bytes": 0} | head
    return [msgspec.json.encode(value) for value in (first, *entries)]


# --- the reference model: a careless writer on a real disk --------------------------------------------


def land(root: Path, candidate: Manifest) -> None:
    """Write a tree as carelessly as can be: following links, links as soon as they come."""
    for entry in candidate.entries:
        path = os.path.join(root, entry.p)  # noqa: PTH118 - as a careless writer does
        match entry:
            case Directory():
                os.mkdir(path)  # noqa: PTH102
            case File():
                Path(path).write_bytes(b"x")
            case Link(to=to):
                Path(path).symlink_to(to)


def names_below(path: Path) -> set[str]:
    return {os.path.relpath(entry, path) for entry in path.rglob("*")}


def find_escape(candidate: Manifest) -> str:
    """Land a manifest two levels deep and tell the first thing that is, or leads, outside its tree."""
    with tempfile.TemporaryDirectory() as place:
        outside = Path(place).resolve()
        root = outside / "up" / "tree"
        root.mkdir(parents=True)
        (outside / "secret").write_bytes(b"secret")
        (outside / "up" / "a").mkdir()
        before = names_below(outside)
        try:
            land(root, candidate)
        except OSError as exc:
            return f"cannot be written: {exc}"
        inside = {f"up/tree/{entry.p}" for entry in candidate.entries}
        if names_below(outside) != before | inside:
            return "other names than its own appeared"
        for entry in candidate.entries:
            path = root / entry.p
            real = Path(os.path.realpath(path))
            if real != root and root not in real.parents:
                return f"{entry.p} leads to {real}"
            if not isinstance(entry, Link) and real != path:
                return f"{entry.p} is not where it says"
            if isinstance(entry, Link) and not path.exists() and not ends_at_a_dotted_file(entry, candidate):
                return f"{entry.p} leads nowhere"
    return ""


def ends_at_a_dotted_file(link: Link, candidate: Manifest) -> bool:
    """``file/.`` is accepted as ``file`` and stays inside, but a kernel does not follow it."""
    links = {entry.p: entry.to for entry in candidate.entries if isinstance(entry, Link)}
    path, to = link.p, link.to
    for _ in range(MAX_LINK_CHAIN + 1):
        if to.endswith("/."):
            return True
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), to))
        if path not in links:
            return False
        to = links[path]
    return False


NAMES = st.sampled_from(["a", "b", "c", "a-b", "a.b", ".a", "...", "é", "A"])
TARGETS = st.one_of(
    st.lists(st.sampled_from(["a", "b", "c", "..", "..", ".", ".a", "a-b"]), min_size=1, max_size=6).map("/".join),
    st.sampled_from(["/secret", "../../secret", "../a", "a/", "a//b", "", "..", ".", "a/../..", "a\\b", "\n", "a\0"]),
)


@st.composite
def trees(draw: st.DrawFn) -> Manifest:
    """Manifests that are nearly right: mostly with parents, sorted; links lead anywhere."""
    entries: dict[str, Entry] = {}
    for path in draw(st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=10)):
        for parent in itertools.accumulate(path.split("/")[:-1], posixpath.join):
            entries.setdefault(parent, Directory(parent))
        kind = draw(st.sampled_from("dffll"))
        new: Entry = Directory(path) if kind == "d" else file(path, draw(st.integers(0, 9)))
        known = st.tuples(st.integers(0, 4).map("../".__mul__), st.sampled_from(sorted(entries) or ["a"])).map("".join)
        entries[path] = Link(path, draw(TARGETS | known)) if kind == "l" else new
    ordered = sorted(entries.values(), key=lambda entry: entry.p)
    if ordered and draw(st.integers(0, 9)) == 0:
        ordered = draw(st.permutations(ordered))
    return manifest(*ordered)


@settings(deadline=None, max_examples=200)
@given(candidate=trees())
def test_no_accepted_manifest_reaches_outside_its_tree_even_with_a_careless_writer(candidate):
    accepted = is_accepted(candidate)
    event(f"accepted={accepted}")
    if accepted:
        assert find_escape(candidate) == ""


ESCAPES = {
    "dot-dot": manifest(file("../pwn")),
    "link above the root that names a thing in the tree": manifest(file("a"), Link("b", "../a")),
    "link above the root from below": manifest(file("a"), Directory("d"), Link("d/x", "../../a")),
    "dot-dot inside": manifest(Directory("a"), file("a/../../pwn")),
    "link to outside": manifest(Link("a", "../../secret")),
    "link to outside and a file through it": manifest(Link("a", "../a"), file("a/pwn")),
    "link through a link": manifest(Directory("a"), Directory("a/b"), Link("a/b/c", ".."), Link("d", "a/b/c/../../..")),
    "link of links": manifest(Directory("a"), Link("a/up", ".."), Link("a/x", "up/../../secret")),
    "absolute link": manifest(Link("a", "/etc/passwd")),
    "absolute path": manifest(file("/tmp/pps-never-written/x")),
    "circle": manifest(Link("a", "b"), Link("b", "a")),
    "itself": manifest(Link("a", "a")),
    "nowhere": manifest(Link("a", "b")),
    "through nothing": manifest(Directory("a"), Link("b", "nothing/../a")),
    "through a file": manifest(file("a"), Link("b", "a/../a")),
}


@pytest.mark.parametrize("name", sorted(ESCAPES))
def test_an_escape_is_refused_and_the_model_sees_it_too(name):
    with pytest.raises(WireError):
        lint_manifest(ESCAPES[name])
    assert find_escape(ESCAPES[name]) != ""


@settings(deadline=None, max_examples=100)
@given(candidate=trees())
def test_what_is_accepted_is_read_back_as_it_was_written(candidate):
    written = list(render_manifest(candidate))
    if is_accepted(candidate):
        assert parse_manifest(written) == candidate
        assert list(render_manifest(parse_manifest(written))) == written
    else:
        with pytest.raises(WireError):
            parse_manifest(written)


# --- order and parents --------------------------------------------------------------------------------


def test_a_directory_stands_before_what_it_holds_although_other_names_stand_between():
    entries = [Directory("a"), file("a-b"), file("a.b"), file("a/b"), file("ab")]
    assert [entry.p for entry in entries] == sorted(entry.p for entry in entries)
    lint_manifest(manifest(*entries))


@settings(deadline=None)
@given(paths=st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=12))
def test_in_code_point_order_every_parent_comes_first(paths):
    every = {path[:length] for path in paths for length in range(1, len(path) + 1)}
    entries = [Directory(path) for path in sorted("/".join(path) for path in every)]
    folded = {entry.p.casefold() for entry in entries}
    assert is_accepted(manifest(*entries)) == (len(folded) == len(entries))


@pytest.mark.parametrize(
    "entries",
    [
        (file("b"), file("a")),
        (file("a"), file("a")),
        (Directory("a"), file("a")),
        (file("a/b"), Directory("a")),
        (file("a/b"),),
        (file("a"), file("a/b")),
        (Directory("b"), Link("a", "b"), file("a/b")),
        (Directory("b"), Directory("b/c"), Link("d", "b"), file("d/c")),
    ],
)
def test_entries_out_of_order_twice_or_without_a_directory_above_are_refused(entries):
    assert not is_accepted(manifest(*entries))


# --- names that mean two things -----------------------------------------------------------------------

COLLIDING = [
    ("a", "A"),
    ("straße", "strasse"),
    ("ﬁle", "file"),
    ("Å", "Å".lower()),
    ("²", "2"),
    ("\u0390", "\u03aa\u0301"),
    ("\u1e96\u0302", "\u0124\u0331"),
    ("\u2126", "\u03c9"),
    ("a/b", "a/B"),
    ("\u017f", "s"),
    ("ß", "ẞ"),
    ("ﷺ", "صلى الله عليه وسلم"),
]


def with_parents(*paths: str) -> Manifest:
    parents = {posixpath.dirname(path) for path in paths} - {""}
    entries: list[Entry] = [*(Directory(parent) for parent in parents), *(file(path) for path in paths)]
    return manifest(*sorted(entries, key=lambda entry: entry.p))


@pytest.mark.parametrize(("one", "two"), COLLIDING)
def test_names_that_fall_together_on_some_system_are_refused_together(one, two):
    assert not is_accepted(with_parents(one, two))


@pytest.mark.parametrize(("one", "two"), [("a", "b"), ("é", "e"), ("a-b", "a_b"), ("1", "l"), ("ä", "ae")])
def test_names_that_only_look_alike_are_no_collision(one, two):
    assert is_accepted(with_parents(one, two))


def fold(text: str) -> str:
    """NFKC_Casefold as the Unicode standard defines it (clause 3.13, R5), ignorable characters apart."""
    nfd = unicodedata.normalize("NFD", text)
    once = unicodedata.normalize("NFKC", nfd.casefold())
    return unicodedata.normalize("NFKC", once.casefold())


LETTERS = st.one_of(
    st.characters(codec="utf-8", categories=("Ll", "Lu", "Lt", "Mn", "Nd", "No"), max_codepoint=0x2FFF),
    st.sampled_from("aAß\u017fsİi\u0131ΐΪϓΰ\u0301\u0345\u0331ﬁK"),
)


@settings(deadline=None, max_examples=150)
@given(names=st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=3), min_size=2, max_size=6))
def test_no_accepted_manifest_holds_two_names_of_one_folded_form(names):
    candidate = with_parents(*{unicodedata.normalize("NFC", name) for name in names})
    if is_accepted(candidate):
        folded = [fold(entry.p) for entry in candidate.entries]
        assert len(set(folded)) == len(folded)


@pytest.mark.parametrize(
    "character",
    [
        *("\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\u200b", "\u202e", "\u2028", "\u2029", "\ufeff"),
        *("\ud800", "\udc80", "\u034f", "\ufe0f", "\u3164", "\U000e0100", "\U000e0001", "\u0378", "\U0010ffff"),
        *("\\", "\u0041\u030a"),
    ],
    ids=ascii,
)
def test_characters_that_hide_something_are_refused_in_paths_and_targets(character):
    path = f"a{character}b"
    assert not is_accepted(manifest(file(path)))
    assert not is_accepted(manifest(Link("x", path), file(path)))


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", "./a", "a/.", "a/./b", "..", "a/..", "../a", "a/../b"])
def test_a_path_that_is_not_plainly_below_the_root_is_refused(path):
    assert not is_accepted(manifest(Directory("a"), file(path)))
    assert not is_accepted(manifest(file(path)))


def test_limits_are_in_bytes_and_exact():
    longest = "é" * (MAX_NAME_BYTES // 2) + "a"
    assert is_accepted(manifest(file(longest)))
    assert not is_accepted(manifest(file(longest + "a")))
    steps = ["d" * 250] * (MAX_PATH_BYTES // 251)
    parents = list(itertools.accumulate(steps, posixpath.join))
    room = MAX_PATH_BYTES - len(parents[-1]) - 1
    assert is_accepted(manifest(*map(Directory, parents), file(parents[-1] + "/" + "a" * room)))
    assert not is_accepted(manifest(*map(Directory, parents), file(parents[-1] + "/" + "a" * (room + 1))))
    assert not is_accepted(manifest(Directory("a"), Link("b", "./" * 2048 + "a")))


# --- links --------------------------------------------------------------------------------------------


def chain(length: int) -> Manifest:
    links = [Link(f"l{index:03}", f"l{index + 1:03}") for index in range(length - 1)]
    return manifest(*links, Link(f"l{length - 1:03}", "z"), file("z"))


def test_links_may_follow_one_another_as_far_as_linux_goes():
    assert is_accepted(chain(MAX_LINK_CHAIN))
    assert find_escape(chain(MAX_LINK_CHAIN)) == ""
    assert not is_accepted(chain(MAX_LINK_CHAIN + 1))
    assert find_escape(chain(MAX_LINK_CHAIN + 1)) != ""


@settings(deadline=None, max_examples=60)
@given(candidate=trees().filter(is_accepted), start=st.integers(0, 20), end=st.integers(0, 20))
def test_a_direct_link_from_anywhere_to_anything_is_accepted(candidate, start, end):
    folders = ["", *(entry.p for entry in candidate.entries if isinstance(entry, Directory))]
    ends = [entry.p for entry in candidate.entries if not isinstance(entry, Link)] or [""]
    link = posixpath.join(folders[start % len(folders)], "zz")
    to = posixpath.relpath(ends[end % len(ends)] or ".", posixpath.dirname(link) or ".")
    entries = sorted((*candidate.entries, Link(link, to)), key=lambda entry: entry.p)
    assert is_accepted(manifest(*entries))


# --- the lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "is empty"),
        ([b'{"t":"d","p":"a"}'], "first line, and only it, must be the head"),
        ([*lines_of(), *lines_of()], "first line, and only it, must be the head"),
        (lines_of({"t": "d", "p": "a"}, entries=0), "more entries than the head announces"),
        (lines_of({"t": "d", "p": "a"}, entries=2), "has 1 entries where the head announces 2"),
        (lines_of(installed_bytes=1), "files sum to 0 bytes where the head announces 1"),
        (lines_of(entries=MAX_ENTRIES + 1), "Expected `int` <= 1000000"),
        (lines_of({"t": "c", "p": "dev"}), "Invalid value 'c'"),
        (lines_of({"t": "d"}), "missing required field `p`"),
        (lines_of({"t": "l", "p": "a"}), "missing required field `to`"),
        ([b" " * MAX_LINE_BYTES + b"{}"], "is longer than 32768 bytes"),
        ([b""], "manifest line 1"),
        ([b"\n", *lines_of()], "manifest line 1"),
        (lines_of(v=2), "format 2 is newer than 1: update this program"),
    ],
)
def test_lines_that_are_no_manifest_are_refused_with_the_reason(lines, problem):
    with pytest.raises(WireError, match=problem):
        parse_manifest(lines)


@pytest.mark.parametrize("field", ["s", "o", "z"])
@pytest.mark.parametrize("value", [-1, 2**53, 2**64, 1.5, "1", None, True])
def test_sizes_and_offsets_are_whole_and_bounded(field, value):
    entry = {"t": "f", "p": "a", "s": 0, "h": SHA, "o": 0, "z": 9} | {field: value}
    with pytest.raises(WireError):
        parse_manifest(lines_of(entry))


def test_a_manifest_is_read_as_a_stream_and_stops_at_the_first_fault():
    taken = []

    def lines():
        for line in [*lines_of(entries=1), b"{}", b"never read"]:
            taken.append(line)
            yield line

    with pytest.raises(WireError):
        parse_manifest(lines())
    assert len(taken) == 2


def test_only_the_files_of_a_manifest_are_files():
    assert [entry.p for entry in MANIFEST.files()] == ["bin/xrdcp", "etc/grid.conf"]
