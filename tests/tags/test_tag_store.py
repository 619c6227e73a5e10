"""Tag lists on a real file system: what is kept, what is refused, what survives."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pps_agent.tags import disk
from pps_agent.tags.change import Request
from pps_agent.tags.errors import TagFileError, TagRefusedError, UnknownTargetError
from pps_agent.tags.ledger import DIRECTORY
from pps_agent.tags.store import TagStore
from pps_wire.names import Subcluster, Tag, Vo

DTEAM, OPS = Vo("dteam"), Vo("ops")
SC1, SC2 = Subcluster("ce01.example.org"), Subcluster("ce02.example.org")
A, B = Tag("VO-dteam-a"), Tag("VO-dteam-b")
ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other accounts")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "info"
    path.mkdir()
    return path


@pytest.fixture
def store(base: Path) -> TagStore:
    return TagStore(base, (SC1, SC2))


def list_path(base: Path, subcluster: Subcluster = SC1, vo: Vo = DTEAM) -> Path:
    return base / subcluster / vo / f"{vo}.list"


def write_list(base: Path, content: bytes, subcluster: Subcluster = SC1, vo: Vo = DTEAM) -> Path:
    path = list_path(base, subcluster, vo)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_below(base: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file() and path.name != disk.LOCK_NAME and DIRECTORY not in path.parts
    }


def test_an_added_tag_stands_in_every_subcluster_in_the_legacy_layout(base: Path, store: TagStore) -> None:
    change = store.add(DTEAM, [A, B])
    assert change.added == (A, B)
    assert [(file.subcluster, file.path, file.added) for file in change.files] == [
        (SC1, list_path(base), (A, B)),
        (SC2, list_path(base, SC2), (A, B)),
    ]
    assert files_below(base) == {
        "ce01.example.org/dteam/dteam.list": b"VO-dteam-a\nVO-dteam-b\n",
        "ce02.example.org/dteam/dteam.list": b"VO-dteam-a\nVO-dteam-b\n",
    }
    assert store.tags(SC1) == store.tags(SC2) == frozenset({A, B})


def test_new_directories_and_lists_are_readable_for_other_accounts_whatever_the_umask(
    base: Path, store: TagStore
) -> None:
    old = os.umask(0o077)
    try:
        store.add(DTEAM, [A], [SC1])
    finally:
        os.umask(old)
    path = list_path(base)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)] == [0o644, 0o755, 0o755]


def test_one_subcluster_can_be_changed_alone(base: Path, store: TagStore) -> None:
    store.add(DTEAM, [A], [SC2])
    assert (store.tags(SC1), store.tags(SC2)) == (frozenset(), frozenset({A}))
    assert not (base / SC1).exists()


def test_adding_a_tag_that_is_there_changes_neither_bytes_nor_mtime(base: Path, store: TagStore) -> None:
    path = write_list(base, b"# by hand\nVO-dteam-b VO-dteam-a")
    os.utime(path, ns=(1, 1))
    change = store.add(DTEAM, [A], [SC1])
    assert (change.added, change.present) == ((), (A,))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"# by hand\nVO-dteam-b VO-dteam-a", 1)


def test_comments_and_lines_of_other_tools_stay_byte_for_byte(base: Path, store: TagStore) -> None:
    foreign = b"# VO-dteam-z\r\n\xff\xfe GLITE-3_2_0\tVO-dteam-!!\n\n   VO-cms-x"
    path = write_list(base, foreign)
    store.add(DTEAM, [A], [SC1])
    assert path.read_bytes() == foreign + b"\nVO-dteam-a\n"
    store.remove(DTEAM, [A], [SC1])
    assert path.read_bytes() == foreign + b"\n"


def test_tags_of_all_vos_count_and_directories_of_others_are_passed_over(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-a\n")
    write_list(base, b"VO-ops-x\nVO-dteam-b\n", vo=OPS)
    (base / SC1 / "lost+found").mkdir()
    (base / SC1 / "empty").mkdir()
    assert store.tags(SC1) == frozenset({A, Tag("VO-ops-x")})
    assert store.list_tags(OPS, SC1) == (Tag("VO-ops-x"),)


@pytest.mark.parametrize("text", ["VO-dteam-!!", "VO-cms-x", "VO-dteam-a b", "VO-dteam-", "VO-dteam-ä", "VO-dteam-a\n"])
def test_a_tag_with_wrong_syntax_or_of_another_vo_is_refused_and_nothing_is_created(
    base: Path, store: TagStore, text: str
) -> None:
    with pytest.raises(TagRefusedError) as caught:
        store.add(DTEAM, [A, Tag(text)])
    assert caught.value.exit_code == 1
    assert files_below(base) == {}


def test_a_case_variant_of_any_vo_of_the_subcluster_is_refused_and_no_subcluster_changes(
    base: Path, store: TagStore
) -> None:
    write_list(base, b"vo-DTEAM-A\n", SC2, OPS)
    with pytest.raises(TagRefusedError, match=r"vo-DTEAM-A of ce02\.example\.org in letter case only"):
        store.add(DTEAM, [A])
    assert files_below(base) == {"ce02.example.org/ops/ops.list": b"vo-DTEAM-A\n"}
    assert store.add(DTEAM, [A], [SC1]).added == (A,)


def test_case_variants_within_one_request_are_refused(base: Path, store: TagStore) -> None:
    with pytest.raises(TagRefusedError, match="choose one"):
        store.add(DTEAM, [A, Tag("VO-dteam-A")])
    assert files_below(base) == {}


def test_a_tag_that_stands_beside_its_variant_already_can_be_named_and_removed(base: Path, store: TagStore) -> None:
    path = write_list(base, b"VO-dteam-a\nVO-dteam-A\n")
    assert store.add(DTEAM, [A], [SC1]).present == (A,)
    store.remove(DTEAM, [Tag("VO-dteam-A")], [SC1])
    assert path.read_bytes() == b"VO-dteam-a\n"


def test_removing_a_tag_that_is_not_there_is_refused_and_the_file_unchanged(base: Path, store: TagStore) -> None:
    path = write_list(base, b"VO-dteam-b")
    os.utime(path, ns=(1, 1))
    with pytest.raises(TagRefusedError, match="not tagged VO-dteam-a") as caught:
        store.remove(DTEAM, [B, A], [SC1])
    assert caught.value.exit_code == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"VO-dteam-b", 1)


def test_the_loop_may_remove_what_is_already_gone(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-b\n")
    change = store.remove(DTEAM, [A, B], missing_ok=True)
    assert (change.removed, change.absent) == ((B,), (A,))
    assert files_below(base) == {"ce01.example.org/dteam/dteam.list": b""}


def test_a_dry_run_tells_the_change_and_makes_none(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-b\n")
    assert store.add(DTEAM, [A], request=Request(dry_run=True)).added == (A,)
    assert store.remove(DTEAM, [B], request=Request(dry_run=True)).removed == (B,)
    assert sorted(path.name for path in base.rglob("*")) == [SC1, "dteam", "dteam.list"]


def test_an_unknown_subcluster_is_a_usage_error_and_creates_nothing(base: Path, store: TagStore) -> None:
    with pytest.raises(UnknownTargetError, match=r"ce01\.example\.org, ce02\.example\.org") as caught:
        store.add(DTEAM, [A], [SC1, Subcluster("ce99.example.org")])
    assert caught.value.exit_code == 2
    assert list(base.iterdir()) == []


def test_a_tag_base_that_is_not_there_is_never_taken_for_no_tags(tmp_path: Path) -> None:
    store = TagStore(tmp_path / "missing", (SC1,))
    for operation in (lambda: store.tags(SC1), lambda: store.add(DTEAM, [A])):
        with pytest.raises(TagFileError, match=r"paths\.tags") as caught:
            operation()
        assert caught.value.exit_code == 3
    assert not (tmp_path / "missing").exists()


def plant_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_giant(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(disk.MAX_LIST_BYTES + 1)


def test_what_nobody_could_read_again_is_not_written(base: Path, store: TagStore) -> None:
    """Else one change too many would make all of a VO's tags unknown, and its next change impossible."""
    store.add(DTEAM, [A])
    long = [Tag(f"VO-dteam-{'x' * 240}{number:05}") for number in range(17_000)]
    with pytest.raises(TagRefusedError, match="would be larger than 4194304 bytes"):
        store.add(DTEAM, long, [SC1])
    assert list_path(base).read_bytes() == b"VO-dteam-a\n"
    store.add(DTEAM, long[:16_000], [SC1])
    store.remove(DTEAM, long[:16_000], [SC1])
    assert store.list_tags(DTEAM, SC1) == (A,)
    write_list(base, b"x" * disk.MAX_LIST_BYTES)
    with pytest.raises(TagRefusedError, match="would be larger than"):
        store.add(DTEAM, [B])


@pytest.mark.parametrize("plant", [plant_link, plant_fifo, plant_giant, Path.mkdir])
def test_a_list_that_is_no_sound_file_makes_the_tags_unknown_and_is_not_written(
    base: Path, store: TagStore, plant: Callable[[Path], None]
) -> None:
    path = list_path(base)
    path.parent.mkdir(parents=True)
    plant(path)

    def look() -> tuple[int, ...]:  # all but the time of reading
        status = path.lstat()
        return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    before = look()
    for operation in (lambda: store.tags(SC1), lambda: store.add(DTEAM, [A], [SC1])):
        with pytest.raises(TagFileError) as caught:
            operation()
        assert caught.value.exit_code == 3
    assert look() == before


def test_a_write_that_fails_later_leaves_every_subcluster_as_it_was(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-b\n")
    (base / SC2).symlink_to("nowhere")
    before = files_below(base)
    with pytest.raises(TagFileError, match="put back"):
        store.add(OPS, [Tag("VO-ops-a")], [SC1, SC2])
    assert files_below(base) == before
    assert not (base / SC1 / "ops").exists()


def test_a_lock_held_by_another_process_is_named_after_the_time_limit(base: Path) -> None:
    store = TagStore(base, (SC1,), lock_timeout_s=0.05)
    with disk.locked(base, 1), pytest.raises(TagFileError, match=r"has been locked for 0\.05 s"):
        store.add(DTEAM, [A])
    assert files_below(base) == {}


def test_what_a_killed_writer_left_beside_the_list_is_swept(base: Path, store: TagStore) -> None:
    path = write_list(base, b"VO-dteam-b\n")
    (path.parent / ".dteam.list.0badcafe.tmp").write_bytes(b"VO-dt")
    store.add(DTEAM, [A], [SC1])
    assert [entry.name for entry in path.parent.iterdir()] == ["dteam.list"]


def test_the_mode_of_a_list_is_kept(base: Path, store: TagStore) -> None:
    path = write_list(base, b"")
    path.chmod(0o664)
    store.add(DTEAM, [A], [SC1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


@needs_root
def test_owner_and_group_of_a_software_managers_list_are_kept(base: Path, store: TagStore) -> None:
    path = write_list(base, b"VO-dteam-b\n")
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    store.add(DTEAM, [A], [SC1])
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o640)
    assert path.read_bytes() == b"VO-dteam-b\nVO-dteam-a\n"


ADD_AS_STRANGER = """
import os, sys
from pathlib import Path
from pps_agent.tags.store import TagStore
from pps_agent.tags.errors import TagFileError
os.setgroups([]); os.setgid(12345); os.setuid(12345)
try:
    TagStore(Path(sys.argv[1]), ("ce01.example.org",)).add("dteam", ["VO-dteam-a"])
except TagFileError as exc:
    print(exc)
    sys.exit(exc.exit_code)
"""


@needs_root
def test_a_write_that_could_not_keep_the_owner_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is closed to other accounts
        base = Path(directory)
        path = write_list(base, b"VO-dteam-b\n")
        for open_to_all in (base, path.parent):
            open_to_all.chmod(0o777)
        argv = [sys.executable, "-c", ADD_AS_STRANGER, directory]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, "keep its owner 0:0" in done.stdout) == (3, True), done
        assert [entry.name for entry in path.parent.iterdir()] == ["dteam.list"]
        assert path.read_bytes() == b"VO-dteam-b\n"


ADD_MANY = """
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from pps_agent.tags.store import TagStore
store = TagStore(Path(sys.argv[1]), ("ce01.example.org",))
for number in range(25):
    store.add("dteam", [f"VO-dteam-{sys.argv[2]}-{number}"])
"""


def test_four_processes_adding_at_once_lose_nothing(base: Path, store: TagStore) -> None:
    write_list(base, b"VO-dteam-old")
    argv = [sys.executable, "-c", ADD_MANY, str(base)]
    writers = [subprocess.Popen([*argv, name], cwd=ROOT) for name in ("p", "q", "r", "s")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    expected = {f"VO-dteam-{name}-{number}" for name in "pqrs" for number in range(25)}
    assert store.tags(SC1) == {"VO-dteam-old", *expected}


ADD_AND_REMOVE_FOR_EVER = """
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from pps_agent.tags.store import TagStore
store = TagStore(Path(sys.argv[1]), ("ce01.example.org",))
many = [f"VO-dteam-new-{number}" for number in range(2000)]
print("ready", flush=True)
while True:
    store.add("dteam", many)
    store.remove("dteam", many)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.007, 0.013])
def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_list(
    base: Path, store: TagStore, delay_s: float
) -> None:
    path = write_list(base, b"# mine\nVO-dteam-old\n")
    writer = subprocess.Popen(
        [sys.executable, "-c", ADD_AND_REMOVE_FOR_EVER, str(base)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    with writer.stdout as ready:
        ready.readline()
        threading.Event().wait(delay_s)  # only spreads the kills over the steps of a write
        writer.send_signal(signal.SIGKILL)
    writer.wait(10)
    old = b"# mine\nVO-dteam-old\n"
    new = old + b"".join(b"VO-dteam-new-%d\n" % number for number in range(2000))
    assert path.read_bytes() in (old, new)
    assert store.add(DTEAM, [A], [SC1]).added == (A,)
    assert [entry.name for entry in path.parent.iterdir()] == ["dteam.list"]
