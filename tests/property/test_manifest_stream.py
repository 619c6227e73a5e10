"""A manifest judged as a stream gets the verdict that one gets who holds it whole in memory."""

import itertools
import posixpath

import msgspec
import pytest
import zstandard
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pps_agent.frames import open_manifest
from pps_wire.errors import WireError
from pps_wire.manifest import (
    MAX_LINK_CHAIN,
    Directory,
    Entry,
    File,
    Head,
    Link,
    Lint,
    Manifest,
    lint_manifest,
    parse_manifest,
    render_manifest,
)
from pps_wire.paths import fold, lint_path, lint_text
from tests.contract.samples import MANIFEST
from tests.property.test_wire_manifest import SHA, file, manifest, trees

# --- the reference: the same rules, everything in memory, nothing hashed ------------------------------


def is_right(candidate: Manifest, length: int | None) -> bool:
    """Judge a manifest by looking each thing up among all the others."""
    try:
        for entry in candidate.entries:
            lint_path(entry.p)
        for entry in candidate.entries:
            if isinstance(entry, Link):
                lint_text(entry.to)
    except WireError:
        return False
    kinds = {entry.p: entry for entry in candidate.entries}
    paths = [entry.p for entry in candidate.entries]
    files = [entry for entry in candidate.entries if isinstance(entry, File)]
    frames = [(entry.o, entry.o + entry.z) for entry in files]
    return (
        len(paths) == candidate.head.entries
        and paths == sorted(set(paths))
        and len({fold(path) for path in paths}) == len(paths)
        and all(isinstance(kinds.get(posixpath.dirname(path)), Directory) for path in paths if "/" in path)
        and all(leads_to_something(entry, kinds) for entry in candidate.entries if isinstance(entry, Link))
        and sum(entry.s for entry in files) == candidate.head.installed_bytes
        and all(entry.z > 0 if entry.s else entry.h == SHA for entry in files)
        and all(before[1] <= after[0] for before, after in itertools.pairwise(frames))
        and (length is None or not frames or frames[-1][1] <= length)
    )


def leads_to_something(link: Link, kinds: dict[str, Entry]) -> bool:
    at: Entry | None = link
    for _ in range(MAX_LINK_CHAIN):
        if not isinstance(at, Link):
            return True
        if not at.to or at.to.startswith("/") or "" in at.to.split("/"):
            return False
        here = posixpath.dirname(at.p)
        for name in at.to.split("/"):
            if name == ".":
                continue
            if here and not isinstance(kinds.get(here), Directory):
                return False
            if name == ".." and not here:
                return False
            here = posixpath.dirname(here) if name == ".." else posixpath.join(here, name)
        if here and here not in kinds:
            return False
        at = kinds.get(here)
    return not isinstance(at, Link)


def verdicts(candidate: Manifest, length: int | None) -> set[bool]:
    """Give the verdicts of all who judge: the stream out of compressed bytes, and the lint by itself."""
    given_verdicts = set()
    raw = zstandard.compress(b"".join(render_manifest(candidate)))
    for judge in (lambda: open_manifest(raw, length), lambda: judge_in_memory(candidate, length)):
        try:
            judge()
            given_verdicts.add(True)
        except WireError:
            given_verdicts.add(False)
    return given_verdicts


def judge_in_memory(candidate: Manifest, length: int | None) -> None:
    lint = Lint(candidate.head, length)
    for entry in candidate.entries:
        lint.add(entry)
    lint.finish(candidate.entries)


@st.composite
def spoiled(draw: st.DrawFn) -> Manifest:
    """Manifests that are nearly right in one more way: their frames, hashes, sums and counts."""
    candidate = draw(trees())
    entries = list(candidate.entries)
    head = candidate.head
    numbers = [number for number, entry in enumerate(entries) if isinstance(entry, File)]
    match draw(st.sampled_from(["", "", "frame", "hash", "head", "case"])):
        case "frame" if numbers:
            number = draw(st.sampled_from(numbers))
            change = {draw(st.sampled_from("oz")): draw(st.integers(0, 60))}
            entries[number] = msgspec.structs.replace(entries[number], **change)
        case "hash" if numbers:
            number = draw(st.sampled_from(numbers))
            entries[number] = msgspec.structs.replace(entries[number], h="a" * 64)
        case "head":
            change = {draw(st.sampled_from(["entries", "installed_bytes"])): draw(st.integers(0, 20))}
            head = msgspec.structs.replace(head, **change)
        case "case" if entries:
            number = draw(st.integers(0, len(entries) - 1))
            entries.append(msgspec.structs.replace(entries[number], p=entries[number].p.swapcase()))
            entries.sort(key=lambda entry: entry.p)
            head = msgspec.structs.replace(head, entries=len(entries))
    return Manifest(head, tuple(entries))


@settings(deadline=None, max_examples=400)
@given(candidate=spoiled(), length=st.none() | st.integers(0, 120))
def test_the_stream_gets_the_verdict_of_the_whole(candidate, length):
    right = is_right(candidate, length)
    event(f"right={right}")
    assert verdicts(candidate, length) == {right}


# --- what is new beside the names ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"o": 8}, "overlaps the one before"),
        ({"o": 95}, "behind the artifact's 100 bytes"),
        ({"z": 0}, "holds 5 bytes but its frame none"),
        ({"s": 0}, "is empty but has not the sha256 of nothing"),
    ],
)
def test_frames_stand_apart_in_path_order_inside_the_artifact(change, words):
    wrong = msgspec.structs.replace(file("b", 5), **({"o": 9, "h": "a" * 64} | change))
    candidate = Manifest(
        Head(release=MANIFEST.head.release, entries=2, installed_bytes=5 + wrong.s), (file("a", 5), wrong)
    )
    with pytest.raises(WireError, match=words):
        open_manifest(zstandard.compress(b"".join(render_manifest(candidate))), 100)


def test_a_publisher_may_judge_names_before_frames_and_hashes_are_known():
    unknown = [File(p=name, s=5, h="0" * 64, o=0, z=0) for name in ("a", "b")]
    lint_manifest(manifest(*unknown), names_only=True)
    with pytest.raises(WireError):
        lint_manifest(manifest(*unknown))


def test_names_that_only_look_like_a_collision_are_looked_at_again(monkeypatch):
    candidate = manifest(file("a"), file("b"), file("c"))
    monkeypatch.setattr("pps_wire.manifest.hash", lambda text: 7, raising=False)
    lint_manifest(candidate)
    with pytest.raises(WireError, match=r"collides with 'A'"):
        lint_manifest(manifest(file("A"), file("B"), file("a")))


def test_one_path_in_two_cases_is_refused_with_both_names():
    with pytest.raises(WireError, match=r"^lib/a: collides with 'lib/A'"):
        lint_manifest(manifest(Directory("lib"), file("lib/A"), file("lib/a")))


def test_an_opened_manifest_gives_its_entries_anew_each_time():
    lines = list(render_manifest(MANIFEST))
    opened = open_manifest(zstandard.compress(b"".join(lines)))
    assert parse_manifest(lines).head == opened.head
    for _ in range(2):
        assert list(opened.entries()) == list(MANIFEST.entries)
        assert list(opened.files()) == list(MANIFEST.files())
        assert [entry.p for entry in opened.directories()] == ["bin", "etc"]
        assert [entry.p for entry in opened.links()] == ["bin/voms-proxy-init"]
