import os
import posixpath
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_publisher.chunks import lint_names
from pps_publisher.errors import UsageError
from pps_publisher.lint import Finding, Kind, Node, normalise
from pps_publisher.tree import load_tree
from pps_wire.errors import WireError
from pps_wire.names import ReleaseId

RELEASE = ReleaseId("c-1-x86_64-glibc2.36")
NOWHERE = Path("/nonexistent")


def links_of(root: Path) -> dict[str, str]:
    return {node.path: node.to for node in load_tree(root).nodes if node.kind is Kind.LINK}


def findings_of(root: Path) -> dict[str, Finding]:
    return {found.path: found.finding for found in load_tree(root).found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "lib" / "deep").mkdir(parents=True)
    (tree / "lib" / "libx.so.1").write_bytes(b"x")
    (tree / "bin").mkdir()
    return tree


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("libx.so.1", "libx.so.1"),
        ("./libx.so.1", "./libx.so.1"),
        ("../lib/libx.so.1", "../lib/libx.so.1"),
        ("../lib//libx.so.1", "libx.so.1"),
        ("/lib/libx.so.1", "libx.so.1"),
        ("{root}/lib/libx.so.1", "libx.so.1"),
        ("deep", "deep"),
        ("..", ".."),
    ],
)
def test_a_link_inside_the_tree_becomes_relative_and_direct(root: Path, target: str, expected: str) -> None:
    (root / "lib" / "link").symlink_to(target.format(root=root))
    assert links_of(root) == {"lib/link": expected}


@pytest.mark.parametrize(
    ("target", "finding"),
    [
        ("missing", Finding.LINK_DANGLING),
        ("libx.so.1/below-a-file", Finding.LINK_DANGLING),
        ("/usr/bin/env", Finding.LINK_DANGLING),
        ("link", Finding.LINK_DANGLING),
        ("../../outside", Finding.LINK_ESCAPING),
        ("../../tree/lib/libx.so.1", Finding.LINK_ESCAPING),
        ("/../lib/libx.so.1", Finding.LINK_ESCAPING),
    ],
)
def test_a_link_that_leads_nowhere_or_out_is_dropped_and_reported(root: Path, target: str, finding: Finding) -> None:
    (root / "lib" / "link").symlink_to(target)
    assert links_of(root) == {}
    assert findings_of(root) == {"lib/link": finding}


def test_a_link_through_another_link_is_made_direct(root: Path) -> None:
    (root / "lib64").symlink_to("lib")
    (root / "bin" / "x").symlink_to("../lib64/libx.so.1")
    assert links_of(root) == {"bin/x": "../lib/libx.so.1", "lib64": "lib"}
    assert findings_of(root) == {"bin/x": Finding.LINK_STRAIGHTENED}


def test_special_files_are_dropped_and_setuid_is_stripped_and_both_are_reported(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "to-pipe").symlink_to("pipe")
    (root / "bin" / "su").write_bytes(b"#!/bin/sh\n")
    (root / "bin" / "su").chmod(0o4755)
    tree = load_tree(root)
    assert findings_of(root) == {
        "bin/su": Finding.SETUID_STRIPPED,
        "pipe": Finding.SPECIAL_DROPPED,
        "to-pipe": Finding.LINK_DANGLING,
    }
    assert [node.path for node in tree.files()] == ["bin/su", "lib/libx.so.1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device files")
def test_a_device_is_dropped(root: Path) -> None:
    try:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this container may not make device files")
    assert findings_of(root) == {"null": Finding.SPECIAL_DROPPED}


@pytest.mark.parametrize(
    "names", [("Readme", "README"), ("ﬁle", "file"), ("e\u0301",), ("a\\b",), ("a\nb",), ("a\udcff",)]
)
def test_names_that_do_not_mean_one_thing_everywhere_are_refused(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / name).write_bytes(b"")
    with pytest.raises(WireError):
        lint_names(load_tree(root), RELEASE)


def test_an_overlay_replaces_files_and_keeps_the_rest(root: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    (overlay / "lib").mkdir(parents=True)
    (overlay / "lib" / "libx.so.1").write_bytes(b"newer")
    (overlay / "lib" / "deep").write_bytes(b"a file where a directory was")
    (root / "lib" / "deep" / "gone").write_bytes(b"")
    tree = load_tree(root, (overlay,))
    assert [(node.path, node.size_bytes) for node in tree.files()] == [("lib/deep", 28), ("lib/libx.so.1", 5)]


def test_a_tree_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="nonexistent: is not a directory"):
        load_tree(NOWHERE)


NAMES = st.sampled_from(["a", ".b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", ".b", "c", "..", ".", ""]), min_size=1, max_size=6).map("/".join).filter(bool)


@st.composite
def node_trees(draw: st.DrawFn) -> list[Node]:
    nodes: dict[str, Node] = {}
    for path in draw(st.lists(PATHS, max_size=12, unique=True)):
        parents = [path[:index] for index, character in enumerate(path) if character == "/"]
        if any(nodes.get(parent, Node("", Kind.DIRECTORY, NOWHERE)).kind is not Kind.DIRECTORY for parent in parents):
            continue
        if path in nodes:
            continue
        nodes |= {parent: Node(parent, Kind.DIRECTORY, NOWHERE) for parent in parents if parent not in nodes}
        kind = draw(st.sampled_from(list(Kind)))
        nodes[path] = Node(path, kind, NOWHERE, to=draw(TARGETS) if kind is Kind.LINK else "")
    return list(nodes.values())


@given(node_trees())
def test_whatever_links_a_tree_has_sites_accept_its_normalised_form(nodes: list[Node]) -> None:
    tree = normalise(nodes)
    lint_names(tree, RELEASE)
    assert normalise(tree.nodes) == type(tree)(tree.nodes)
    kept = {node.path for node in tree.nodes}
    assert kept | {found.path for found in tree.found} == {node.path for node in nodes}


@given(node_trees())
def test_a_normalised_link_ends_where_the_found_one_did(nodes: list[Node]) -> None:
    by_path = {node.path: node for node in nodes}
    for node in normalise(nodes).nodes:
        if node.kind is Kind.LINK and not by_path[node.path].to.startswith("/"):
            before = resolve(node.path, {path: item.to for path, item in by_path.items()})
            after = resolve(node.path, {path: item.to for path, item in by_path.items()} | {node.path: node.to})
            assert before == after


def resolve(path: str, links: dict[str, str]) -> str:
    """Follow links as a kernel would, independently of the code under test."""
    for _ in range(200):
        parts = path.split("/")
        for index in range(1, len(parts) + 1):
            prefix = "/".join(parts[:index])
            if links.get(prefix):
                rest = "/".join(parts[index:])
                # the prefix itself holds no link any more, so lexical joining is exact up to the next one
                path = step_by_step(posixpath.dirname(prefix), links[prefix], rest)
                break
        else:
            return posixpath.normpath(path)
    return "loop"


def step_by_step(start: str, text: str, rest: str) -> str:
    parts = [part for part in start.split("/") if part]
    waiting = [part for part in (text + "/" + rest).split("/") if part not in ("", ".")]
    while waiting and waiting[0] == "..":
        parts = parts[:-1]
        waiting.pop(0)
    return "/".join([*parts, *waiting])
