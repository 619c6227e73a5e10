"""Per-run directories."""

import os
from pathlib import Path

import pytest

from pps_agent.probes import contain, marks
from pps_agent.probes.contain import ProcessKey
from pps_agent.probes.scratch import RUN, make_scratch, remove_tree, scratch_prefix, sweep_scratch


def own_key() -> ProcessKey:
    key = contain.process_key(os.getpid())
    assert key is not None
    return key


def test_a_tree_deeper_than_a_path_may_be_long_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 200, dir_fd=here)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    remove_tree(str(top))
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("stays")
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    for place in (top, top / "inner"):
        (place / "link").symlink_to(precious)
        os.mkfifo(place / "fifo")
    remove_tree(str(top))
    assert (precious / "file").read_text() == "stays"
    assert not top.exists()


def test_a_link_in_place_of_the_directory_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "top").symlink_to("precious")
    with pytest.raises(OSError, match="top"):
        remove_tree(str(tmp_path / "top"))
    assert (tmp_path / "precious").exists()


def test_only_directories_of_dead_runners_are_swept(tmp_path: Path) -> None:
    mine = make_scratch(scratch_prefix(str(tmp_path), RUN, own_key()))
    dead = make_scratch(scratch_prefix(str(tmp_path), RUN, ProcessKey(os.getpid(), own_key().start + 1)))
    (Path(dead) / "left").write_text("over")
    other = tmp_path / "pps-run-something-else"
    other.mkdir()
    sweep_scratch(str(tmp_path), RUN)
    assert sorted(map(str, tmp_path.iterdir())) == sorted([mine, str(other)])


def test_a_process_is_known_by_its_start_time_not_by_its_number_alone() -> None:
    assert contain.is_alive(own_key())
    assert not contain.is_alive(ProcessKey(os.getpid(), own_key().start + 1))
    assert not contain.is_alive(ProcessKey(2**22 + 1, 1))


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("own:12-34:ab", ("own", ProcessKey(12, 34))),
        ("own:12-34", None),
        ("own:12-34:ab:c", None),
        ("own:-34:ab", None),
        ("own:1²-34:ab", None),
        ("own:99999999999-34:ab", None),
        ("", None),
    ],
)
def test_a_marker_is_one_of_ours_or_nothing(mark: str, expected: tuple[str, ProcessKey] | None) -> None:
    assert marks.parse_variable(mark) == expected
